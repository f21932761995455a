"""OwlEval: 82 questions about 50 pictures, asked alone and in dialogues, and graded from A to D by people or a judge."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from mplug_owl.errors import UserError
from mplug_owl.eval.grade import Grader
from mplug_owl.eval.lines import read_lines, text
from mplug_owl.eval.task import Condition, Question
from mplug_owl.model.images import open_image

# The released letters of `ability`, and the paper's names (arXiv 2304.14178, section 4.1).
ABILITIES = {
    "a": "instruction understanding",
    "b": "visual understanding",
    "c": "optical character recognition",
    "d": "knowledge transfer",
    "e": "reasoning",
    "f": "multi-turn dialogue",
}
SINGLE, MULTI = "single", "multi"


@dataclass(frozen=True)
class OwlEval:
    """The exam of arXiv 2304.14178, section 4.1, from the folder it was released in.

    A question of the single-turn half (50) is asked alone. One of the multi-turn half (52) is asked after the earlier
    multi-turn questions about its picture, with the model's own answers. Twenty questions are in both halves. Tables count a
    question once, under the ability that we judged to decide it (assets/owleval-abilities.json, ours); `abilities` has all the
    released ones.

    Args:
        data: The folder with questions.jsonl and cases/.

    Raises:
        UserError: The folder is not OwlEval's, or lacks a picture.
    """

    data: Path
    name: str = "owleval"
    conditions: Sequence[Condition] = (
        Condition(SINGLE, "picture", "single-turn", "OwlEval"),
        Condition(MULTI, "picture", "multi-turn", "OwlEval"),
    )
    grader: Grader | None = field(default=None)

    def questions(self, split: str, count: int | None = None, seed: int = 0) -> list[Question]:
        """The questions of a half in their order, the first `count` of them. Nothing is drawn, so `seed` changes nothing."""
        return self._questions[split][:count]

    @cached_property
    def _questions(self) -> dict[str, list[Question]]:
        """Both halves. Their pictures are found now and opened when they are asked about."""
        path = self.data / "questions.jsonl"
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected OwlEval's folder, with questions.jsonl and cases/, as --data")
        decides = json.loads((files("mplug_owl") / "assets" / "owleval-abilities.json").read_text("utf-8"))["abilities"]
        halves: dict[str, list[Question]] = {SINGLE: [], MULTI: []}
        dialogues: dict[str, tuple[tuple[str, str], ...]] = {}
        for number, row in read_lines(path):
            where = f"{path}, line {number}"
            identity, image, words = (text(row, name, where) for name in ("question_id", "image", "question"))
            category = row.get("category")
            if not isinstance(category, list) or not set(category) <= {"single_turn", "multi_turn"} or not category:
                raise UserError(
                    f'{where}: category is {category!r:.80}; expected "single_turn", "multi_turn" or both in a list'
                )
            abilities = _abilities(row, where)
            ability = ABILITIES.get(decides.get(identity, ""), abilities[0])
            picture = _picture(self.data / "cases", image, where)
            dialogue = (*dialogues.get(image, ()), (words, ""))
            for half, turns in ((SINGLE, dialogue[-1:]), (MULTI, dialogue)):
                if f"{half}_turn" in category:
                    halves[half].append(Question(identity, ability, half, turns, picture, image=image, abilities=abilities))
            if "multi_turn" in category:
                dialogues[image] = dialogue
        return halves


def _abilities(row: dict[str, Any], where: str) -> tuple[str, ...]:
    """The released labels by name: `a,b,e` and so on."""
    letters = [letter.strip() for letter in text(row, "ability", where).split(",")]
    if unknown := [letter for letter in letters if letter not in ABILITIES]:
        raise UserError(f"{where}: ability has {unknown[0]!r:.40}; expected letters from a to f, such as a,b,e")
    return tuple(ABILITIES[letter] for letter in letters)


def _picture(folder: Path, image: str, where: str) -> Callable[[], Image.Image]:
    """What opens a picture, whichever ending its file has."""
    named = folder / image
    found = [named] if named.is_file() else sorted(folder.glob(f"{Path(image).stem}.*"))
    if not found:
        raise UserError(f"{where}: no picture {image}, nor with another ending, in {folder}")
    return partial(open_image, found[0])
