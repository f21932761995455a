"""Grades from A to D for tests: several systems' answers to questions about few pictures."""

from collections.abc import Mapping

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, lettered
from mplug_owl.eval.task import Condition, Question

SINGLE = Condition("single", "picture", "single-turn", "OwlEval")
MULTI = Condition("multi", "picture", "multi-turn", "OwlEval")


def asked(number: int, a_picture: int = 2) -> Question:
    """A question of one of two abilities; so many of them are about one picture."""
    ability = ("reasoning", "visual understanding")[number % 2]
    return Question(
        str(number), ability, "single", ((f"What is {number}?", ""),), image=f"{number // a_picture}.jpg", abilities=(ability,)
    )


def answered(system: str, count: int, condition: Condition = SINGLE, a_picture: int = 2) -> list[Answer]:
    return [Answer(asked(number, a_picture), condition, (f"it is {number}",), system) for number in range(count)]


def grades_of(
    systems: Mapping[str, str], grader: str = "anna", kind: str = "person", condition: Condition = SINGLE, a_picture: int = 2
) -> list[Grade]:
    """A letter for each answer of each system, `-` where the grader gave none."""
    return [
        lettered(answer, None if letter == "-" else letter, grader, kind)
        for system, letters in systems.items()
        for answer, letter in zip(answered(system, len(letters), condition, a_picture), letters, strict=True)
    ]
