"""Plain prompts, and the language model's own answers to them: what keeps its language while it learns to see.

    python -m mplug_owl.recipes.smol_text FILE.jsonl

It appends to the file, a conversation a line, and continues where it was broken off. None of the prompts is about a picture,
and none is from a benchmark. Answers are drawn at temperature 1: likeliest ones are narrower than the language model is, and
who learns them becomes narrower too (docs/journal.md, 2026-11-29).
"""

import json
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


def write_answers(source: str, out: Path, asked: Sequence[str], most_tokens: int = 320, batch: int = 48) -> None:
    """Append the language model's answers to those prompts that `out` has none for yet, `batch` at a time.

    Args:
        source: The language model, as `Modules` takes it.
        out: A file of JSON lines in the format `chat`.
        asked: The prompts, in the order of the lines.
        most_tokens: A longer answer is broken off there, and marked as not to be learned: it has no end.
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
        torch.manual_seed(first)
        with torch.no_grad():
            ids_BT: Any = model.generate(
                **inputs, max_new_tokens=most_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
            )
        answers = _texts(tokenizer, ids_BT[:, inputs["input_ids"].shape[1] :].tolist())
        with out.open("a", encoding="utf-8") as file:
            for prompt, (answer, ended) in zip(group, answers, strict=True):
                file.write(json.dumps(as_chat(prompt, answer, ended), ensure_ascii=False) + "\n")
        print(f"{first + len(group)} of {len(asked)} answered", flush=True)


def as_chat(prompt: str, answer: str, ended: bool = True) -> dict[str, object]:
    """A line of the file. An answer that was broken off has weight 0."""
    said: dict[str, object] = {"role": "assistant", "content": answer}
    return {"messages": [{"role": "user", "content": prompt}, said if ended else {**said, "weight": 0}]}


def _texts(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> Iterator[tuple[str, bool]]:
    """Answers in words, and whether each came to its end."""
    for row in rows:
        ended = tokenizer.eos_token_id in row
        yield str(tokenizer.decode(row[: row.index(tokenizer.eos_token_id)] if ended else row)).strip(), ended


def main() -> None:
    """Answer all prompts into the file named on the command line."""
    from mplug_owl.recipes.smol import SMOLLM2  # which needs the file's name alone

    torch.set_num_threads(1)
    write_answers(SMOLLM2.locate(), Path(sys.argv[1]), prompts())


if __name__ == "__main__":
    main()
