"""Plain prompts, and the language model's own answers to them: what keeps its language while it learns to see.

    python -m mplug_owl.recipes.smol_text FILE.jsonl

It appends to the file, a conversation a line, and continues where it was broken off. None of the prompts is about a picture,
and none is from a benchmark.
"""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mplug_owl.model.language import load_language, load_tokenizer


def prompts() -> list[str]:
    """All of them, a line each: written for this, about what anybody may ask a language model."""
    return (files("mplug_owl") / "assets" / "smol-prompts.txt").read_text("utf-8").splitlines()


def write_answers(source: str, out: Path, asked: Sequence[str], most_tokens: int = 200, batch: int = 48) -> None:
    """Append the language model's answers to those prompts that `out` has none for yet, greedily, `batch` at a time.

    Args:
        source: The language model, as `Modules` takes it.
        out: A file of JSON lines in the format `chat`.
        asked: The prompts, in the order of the lines.
        most_tokens: A longer answer ends with its last whole sentence.
        batch: Prompts answered at once.
    """
    tokenizer, model = load_tokenizer(source), load_language(source).eval()
    tokenizer.padding_side = "left"
    done = len(out.read_text("utf-8").splitlines()) if out.is_file() else 0
    for first in range(done, len(asked), batch):
        group = asked[first : first + batch]
        chats = [[{"role": "user", "content": prompt}] for prompt in group]
        inputs: Any = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            ids_BT: Any = model.generate(**inputs, max_new_tokens=most_tokens, do_sample=False, repetition_penalty=1.1)
        answers = _texts(tokenizer, ids_BT[:, inputs["input_ids"].shape[1] :].tolist())
        with out.open("a", encoding="utf-8") as file:
            for prompt, answer in zip(group, answers, strict=True):
                file.write(json.dumps(as_chat(prompt, answer), ensure_ascii=False) + "\n")
        print(f"{first + len(group)} of {len(asked)} answered", flush=True)


def as_chat(prompt: str, answer: str) -> dict[str, object]:
    """A line of the file."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def whole_sentences(text: str) -> str:
    """A text that was broken off, up to the end of its last whole sentence or line; as it is where it has none."""
    ends = [found.end() for found in re.finditer(r"[.!?](?=\s)|\n", text)]
    return text[: ends[-1]].rstrip() if ends else text


def _texts(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> Iterator[str]:
    for row in rows:
        ended = tokenizer.eos_token_id in row
        text = str(tokenizer.decode(row[: row.index(tokenizer.eos_token_id)] if ended else row)).strip()
        yield text if ended else whole_sentences(text)


def main() -> None:
    """Answer all prompts into the file named on the command line."""
    from mplug_owl.recipes.smol import SMOLLM2  # which needs the file's name alone

    torch.set_num_threads(1)
    write_answers(SMOLLM2.locate(), Path(sys.argv[1]), prompts())


if __name__ == "__main__":
    main()
