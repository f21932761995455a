"""A judge's passport finds the fault that a judge has, and no other one; what is not known is not called sound."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from benchmarks.passport import (
    STUBS,
    CopiesPeople,
    GradesAtRandom,
    IgnoresPictures,
    LikesLength,
    PrefersTheFirst,
    exam,
    kinds,
    passport_of,
)
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, lettered
from mplug_owl.eval.judge.pairs import Pair
from mplug_owl.eval.judge.passport import Passport, passport, passports, people_letters
from mplug_owl.eval.judge.passport_table import show_passport
from tests.eval.letters import SINGLE, asked


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 20), marks=pytest.mark.slow)], ids=["five", "fifteen more"])
@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.__name__)
def test_a_judges_fault_is_found_and_no_other(stub: type[CopiesPeople], seeds: range) -> None:
    """In 20 of 20 seeds. How it is with 200 others is in docs/judges.md."""
    for seed in seeds:
        assert kinds(passport_of(stub, seed)) == ({stub.fault} if stub.fault else set()), f"seed {seed}"


def test_each_stub_has_its_line() -> None:
    assert [stub.fault for stub in (CopiesPeople, IgnoresPictures, PrefersTheFirst, LikesLength, GradesAtRandom)] == [
        "",
        "picture",
        "position",
        "length",
        "test-retest",
    ]
    made = passport_of(IgnoresPictures, 0)
    assert made.faults == ("picture removed", "picture exchanged")


def test_a_table_says_where_the_correction_does_not_hold() -> None:
    for stub, alike in ((LikesLength, False), (PrefersTheFirst, True)):
        made = passport_of(stub, 0)
        file = io.StringIO()
        show_passport(made, Console(file=file, width=120))
        assert made.errs_alike is alike
        assert ("errs more for some systems" in file.getvalue()) is not alike
        assert all(line.name in file.getvalue() for line in made.lines)


def graded(judge: str = "a judge", questions: int = 40) -> tuple[list[Grade], list[Grade]]:
    """A judge that gives what is written on the answers, and people's grades."""
    answers, people = exam(0, questions)
    return [lettered(answer, answer.text.partition(":")[2][0], judge, "judge") for answer in answers], people  # type: ignore[arg-type]


def line(made: Passport, name: str):
    return next(line for line in made.lines if line.name.startswith(name))


def test_what_is_not_measured_says_how_to_measure_it() -> None:
    judged, _ = graded()
    made = passport(judged, [], "a judge")
    missing = {line.name: line.reason for line in made.lines if line.verdict == "not measured"}
    assert [re.split(r"[, ]", name)[0] for name in missing] == [
        "people",
        "people",
        "test-retest",
        "picture",
        "picture",
        "position",
    ]
    assert all("owl " in reason for reason in missing.values())
    assert (made.errors, made.shares, made.faults) == (None, (), ())


def test_few_pictures_decide_nothing() -> None:
    judged, people = graded(questions=19)
    found = line(passport([*judged, *people], [], "a judge"), "people")
    assert (found.verdict, found.interval) == ("undecided", None)
    assert "19 pictures, 20 needed" in found.reason
    judged, people = graded(questions=20)
    assert line(passport([*judged, *people], [], "a judge"), "people").interval is not None


def test_a_slope_without_people_is_never_called_a_fault() -> None:
    """Longer answers may be better ones: nobody has seen which."""
    answers, people = exam(0)
    median = sorted(len(answer.text) for answer in answers)[len(answers) // 2]
    judged = [lettered(answer, "A" if len(answer.text) > median else "D", "a judge", "judge") for answer in answers]
    found = line(passport(judged, [], "a judge"), "length")
    assert found.verdict == "undecided"
    assert "people's grades would tell" in found.reason
    assert line(passport([*judged, *people], [], "a judge"), "length").verdict == "suspect"


def test_length_that_goes_with_peoples_grades_is_not_told_apart_from_them() -> None:
    """Every long answer is good and every short one bad: the equations have no solution, and rounding would make one up."""
    judged, people = [], []
    for number, letter in enumerate("ABCD" * 10):
        for text, truly in (("yes", "A"), ("no", "C")):
            answer = Answer(asked(number, 1), SINGLE, (text,), text)
            judged.append(lettered(answer, letter, "a judge", "judge"))
            people.append(lettered(answer, truly, "anna", "person"))
    made = passport([*judged, *people], [], "a judge")
    assert (line(made, "length").verdict, line(made, "length").value) == ("not measured", None)
    assert "go together" in line(made, "length").reason


def test_one_letter_for_all_agrees_with_nobody_and_is_no_fault_of_memory() -> None:
    judged, people = graded()
    same = [replace(grade, letter="B") for grade in judged]
    again = [replace(grade, round=1) for grade in same]
    made = passport([*same, *again, *people], [], "a judge")
    assert line(made, "test-retest").verdict == "not measured"
    assert "same letter" in line(made, "test-retest").reason
    assert line(made, "people").verdict == "suspect"


def test_a_judge_that_says_it_saw_nothing_has_noticed() -> None:
    judged, _ = graded()
    declined = [replace(grade, letter=None, shown="removed", details={"why": "declined"}) for grade in judged]
    unreadable = [replace(grade, letter=None, shown="removed", details={"why": "unreadable"}) for grade in judged]
    assert line(passport([*judged, *declined], [], "a judge"), "picture removed").verdict == "sound"
    assert line(passport([*judged, *unreadable], [], "a judge"), "picture removed").verdict == "not measured"
    assert line(passport([*judged, *unreadable], [], "a judge"), "replies").verdict == "suspect"
    assert line(passport([*judged, *declined], [], "a judge"), "replies").verdict == "sound"


def test_who_only_ties_has_no_favourite_side() -> None:
    judged, _ = graded()
    pairs = [Pair(one.answer, one.answer, ("tie", "tie"), "a judge") for one in judged]
    assert "ties" in line(passport(judged, pairs, "a judge"), "position").reason
    seconds = [replace(pair, orders=("second", "first")) for pair in pairs]
    assert line(passport(judged, seconds, "a judge"), "position").verdict == "suspect"


@pytest.mark.parametrize(
    ("judge", "model", "verdict"),
    [
        ("gpt-4o", "gpt-4o-mini", "suspect"),
        ("gpt-4o", "minigpt4_13b", "sound"),
        ("llava-onevision-7b", "llava_13b_answer", "suspect"),
        ("Qwen2-VL-7B", "mPLUG_Owl_7b", "sound"),
        ("owl-tiny", "mPLUG_Owl_7b", "suspect"),
        ("openflanmingo", "Flamingo", "suspect"),
        ("somebody", "gpt-4o", "undecided"),
    ],
)
def test_kin_are_named(judge: str, model: str, verdict: str) -> None:
    judged, _ = graded(judge)
    renamed = [replace(grade, answer=replace(grade.answer, model=model)) for grade in judged]
    found = line(passport(renamed, [], judge), "family")
    assert found.verdict == verdict
    assert (model in found.reason) == (verdict == "suspect")


def test_people_are_summed_up_by_their_middle_letter() -> None:
    (grade, *_), _ = graded(questions=1)

    def middle(letters: str) -> str:
        several = [replace(grade, letter=letter, kind="person", grader=str(n)) for n, letter in enumerate(letters)]
        return next(iter(people_letters(several).values()))

    assert [middle(letters) for letters in ("A", "AD", "ABD", "AABC", "DCBA")] == ["A", "D", "B", "B", "C"]
    assert people_letters([replace(grade, kind="person", round=1), grade]) == {}


def test_every_judge_has_a_passport_and_plain_values() -> None:
    judged, people = graded()
    made = passports([*judged, *[replace(grade, grader="another") for grade in judged], *people])
    assert [one.judge for one in made] == ["a judge", "another"]
    row = made[0].row()
    assert row["judge"] == "a judge"
    assert row["lines"][0]["verdict"] == "sound"
    assert row["shares"][0]["model"] == "alpha"
