"""Plain prompts, and the language model's own answers to them: the text that keeps its language while it learns to see.

    python -m mplug_owl.recipes.smol_text FILE.jsonl

It appends to the file, a conversation a line, and continues where it was broken off. None of the prompts is about a picture,
and none is from a benchmark. Answers are drawn at temperature 1: the likeliest ones are narrower than the language model is
(docs/journal.md, 2026-11-29). They are broken off after 112 tokens, for what is learned from them is no end but what the
language model says at each of their tokens (`text_distillation`).
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mplug_owl.model.language import load_language, load_tokenizer


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn: tokens at most, temperature, and the probability that is kept (`top_p`)."""

    most_tokens: int = 112
    temperature: float = 1.0
    top_p: float = 1.0


def prompts() -> list[str]:
    """All of them, a line each: written for this, about what anybody may ask a language model."""
    return (files("mplug_owl") / "assets" / "smol-prompts.txt").read_text("utf-8").splitlines()


def write_answers(source: str, out: Path, asked: Sequence[str], drawing: Drawing = Drawing(), batch: int = 48) -> None:
    """Append the language model's answers to those prompts that `out` has none for yet, `batch` at a time.

    Args:
        source: The language model, as `Modules` takes it.
        out: A file of JSON lines in the format `chat`.
        asked: The prompts, in the order of the lines.
        drawing: How they are drawn.
        batch: Prompts answered at once.
    """
    tokenizer, model = load_tokenizer(source), load_language(source).eval()
    done = sum(bool(line) for line in out.read_text("utf-8").split("\n")) if out.is_file() else 0
    for first in range(done, len(asked), batch):
        group = asked[first : first + batch]
        answers = draw_answers(tokenizer, model, group, drawing, seed=first)
        with out.open("a", encoding="utf-8") as file:
            for prompt, (answer, _) in zip(group, answers, strict=True):
                file.write(json.dumps(as_chat(prompt, answer), ensure_ascii=False) + "\n")
        print(f"{first + len(group)} of {len(asked)} answered", flush=True)


def draw_answers(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, asked: Sequence[str], drawing: Drawing, seed: int
) -> list[tuple[str, bool]]:
    """An answer to each prompt in the model's chat format, and whether it came to its end."""
    tokenizer.padding_side = "left"
    chats = [[{"role": "user", "content": prompt}] for prompt in asked]
    inputs: Any = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    settings = {"temperature": drawing.temperature, "top_p": drawing.top_p, "top_k": 0, "do_sample": True}
    generate: Any = model.generate
    torch.manual_seed(seed)
    with torch.no_grad():
        ids_BT = generate(**inputs, max_new_tokens=drawing.most_tokens, **settings)
    rows, end = ids_BT[:, inputs["input_ids"].shape[1] :].tolist(), tokenizer.eos_token_id
    ended = [end in row for row in rows]
    whole = [row[: row.index(end)] if end in row else row for row in rows]
    return [(str(tokenizer.decode(row)).strip(), one) for row, one in zip(whole, ended, strict=True)]


def as_chat(prompt: str, answer: str) -> dict[str, object]:
    """A line of the file."""
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}


def main() -> None:
    """Answer all prompts into the file named on the command line."""
    from mplug_owl.recipes.smol import SMOLLM2  # which needs the file's name alone

    torch.set_num_threads(1)
    write_answers(SMOLLM2.locate(), Path(sys.argv[1]), prompts())


if __name__ == "__main__":
    main()
