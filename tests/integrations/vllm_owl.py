"""A small LLaMA owl in a folder, twenty prompts with pictures, and what our own chat makes of them: for the test with vLLM.

python -m tests.integrations.vllm_owl FOLDER     writes the owl, vllm.jinja, pictures and expected.json there
"""

import json
import sys
from pathlib import Path
from random import Random

import torch

from mplug_owl.chat import Decoding, OwlChatModel, load
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.integrations.vllm import prepare
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.scenes import scene
from tests.tiny import VISIONS, tiny_owl, tiny_processor

TOKENS = 12


def write(folder: Path) -> None:
    """All of it. Prompts 16 to 19 have two pictures, and two of the others spell tokens."""
    config = MplugOwlConfig(
        vision_config=VISIONS["own"],
        visual_abstractor_config={
            "connector": "abstractor",
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 259,
            "hidden_size": 128,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        num_query_tokens=4,
    )
    model = tiny_owl(config)
    model.save_pretrained(folder)
    tiny_processor(model).save_pretrained(folder)
    prepare(folder)
    asked, talks, random = [], [], Random(0)
    for number in range(20):
        files = []
        for part in range(1 + (number > 15)):
            scene(random.randrange(10**6)).draw().save(folder / f"picture-{number}-{part}.png")
            files.append(f"picture-{number}-{part}.png")
        words = f"What is in picture {number}?"
        asked.append({"pictures": files, "words": words})
        talks.append(Conversation(()).said("user", *(Picture(folder / name) for name in files), words))
    chat = OwlChatModel(load(folder, "cpu", torch.float32))
    answers = chat.answers(talks, Decoding(max_new_tokens=TOKENS))
    for one, talk, answer in zip(asked, talks, answers, strict=True):
        one |= {"ids": list(chat.processor.encode(talk, reply=True).ids), "answer": answer}
    (folder / "expected.json").write_text(json.dumps(asked), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
