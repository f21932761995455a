"""Open prompts about drawn scenes, answered by the language model itself, which is told in words what there is to see.

    python -m mplug_owl.recipes.smol_open FILE.jsonl [SCENES]

LLaVA's way to instructions (arXiv 2304.08485, section 3), with the language model as its own teacher: it reads a scene's
description in the picture's place, and later learns the same answer with the picture. An answer is kept where it names
something and nothing that is not in the scene (`is_grounded`), came to its end and is a sentence long or two. None of the
prompts is one of the benchmark's.

A line holds the scene's seed, the prompt, the answer and whether it is kept; `scenes:open:FILE.jsonl` reads those that are, and
draws the pictures. The file is appended to, and continued where it was broken off.
"""

import json
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path
from random import Random

import torch

from mplug_owl.model.language import load_language, load_tokenizer
from mplug_owl.recipes.smol_text import Drawing, draw_answers
from mplug_owl.scenes.grounded import is_grounded
from mplug_owl.scenes.world import Scene, scenes

SEED, SCENES, BATCH = 5001, 1_200, 64
# An answer begins as another one in at most so many lines: the model likes "The picture is a".
ALIKE, BEGINNING = 25, 24
WORDS = range(3, 46)
DRAWING = Drawing(most_tokens=56, temperature=0.6, top_p=0.9)


def prompts() -> list[str]:
    """All of them, a line each."""
    return (files("mplug_owl") / "assets" / "smol-open-prompts.txt").read_text("utf-8").splitlines()


def told(shown: Scene, prompt: str) -> str:
    """The prompt as the language model is asked it, the scene in words before it."""
    asks = "Answer in one or two short sentences, and name what is in the picture."
    return f"Look at this picture. In it there is: {shown.description}.\n{prompt} {asks}"


def is_kept(answer: str, ended: bool, shown: Scene, beginnings: Counter[str]) -> bool:
    """Whether an answer is worth learning; `beginnings` counts how those that were kept begin."""
    if not ended or len(answer.split()) not in WORDS or not is_grounded(answer, shown):
        return False
    beginning = answer[:BEGINNING]
    if beginnings[beginning] == ALIKE:
        return False
    beginnings[beginning] += 1
    return True


def write_open_answers(source: str, out: Path, count: int = SCENES, batch: int = BATCH) -> None:
    """Append what is kept of the answers about `count` scenes, one prompt each, to `out`.

    Args:
        source: The language model, as `Modules` takes it.
        out: A file of JSON lines.
        count: Scenes asked about.
        batch: Answered at once.
    """
    tokenizer, model = load_tokenizer(source), load_language(source).eval()
    world, random = list(scenes(count, SEED)), Random(3)
    every = prompts()
    asked = [random.choice(every) for _ in world]
    before = [json.loads(line) for line in out.read_text("utf-8").split("\n") if line] if out.is_file() else []
    beginnings = Counter(row["answer"][:BEGINNING] for row in before if row["kept"])
    for first in range(len(before), count, batch):
        pairs = list(zip(world[first : first + batch], asked[first : first + batch], strict=True))
        answers = draw_answers(tokenizer, model, [told(*pair) for pair in pairs], DRAWING, seed=first)
        with out.open("a", encoding="utf-8") as file:
            for (shown, prompt), (answer, ended) in zip(pairs, answers, strict=True):
                kept = is_kept(answer, ended, shown, beginnings)
                row = {"scene": shown.seed, "prompt": prompt, "answer": answer, "kept": kept}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{first + len(pairs)} of {count} answered", flush=True)


def main() -> None:
    """Ask about scenes into the file named on the command line."""
    from mplug_owl.recipes.smol import SMOLLM2  # which needs the file's name alone

    torch.set_num_threads(1)
    write_open_answers(SMOLLM2.locate(), Path(sys.argv[1]), *map(int, sys.argv[2:3]))


if __name__ == "__main__":
    main()
