"""What vLLM makes of the prompts in a folder that `vllm_owl` wrote; run by the Python of an environment with vLLM.

python vllm_answers.py FOLDER     prints JSON lines: prompt ids, words
"""

import base64
import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams


def main() -> None:
    folder = Path(sys.argv[1])
    asked = json.loads((folder / "expected.json").read_text("utf-8"))
    engine = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        limit_mm_per_prompt={"image": 2},
        trust_remote_code=False,
    )
    chats = []
    for one in asked:
        shown = [
            {
                "type": "image_url",
                "image_url": {"url": "data:image/png;base64," + base64.b64encode((folder / name).read_bytes()).decode()},
            }
            for name in one["pictures"]
        ]
        chats.append([{"role": "user", "content": [*shown, {"type": "text", "text": one["words"]}]}])
    settings = SamplingParams(temperature=0, max_tokens=12)
    template = (folder / "vllm.jinja").read_text("utf-8")
    answers = engine.chat(chats, settings, chat_template=template, chat_template_content_format="openai", use_tqdm=False)
    for answer in answers:
        row = {
            "ids": list(answer.prompt_token_ids),
            "answer": answer.outputs[0].text,
            "tokens": list(answer.outputs[0].token_ids),
        }
        print("ANSWER " + json.dumps(row))


if __name__ == "__main__":
    main()
