"""A judge's passport: what is known of a judge, printed with every table that it made.

Each line has a figure, its interval and a verdict. A judge is suspect where the whole interval is beyond the limit, sound where
it is within, and else undecided. Where the limits come from is in docs/judges.md.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import ACCEPTABLE, LETTERS, Grade, Letter, Shown
from mplug_owl.eval.grades_file import Key, key
from mplug_owl.eval.judge.agreement import Numbers, Statistic, ordinal_alpha, resampled, weighted_kappa
from mplug_owl.eval.judge.corrected import CorrectedShare, JudgeErrors, corrected_shares, judge_errors
from mplug_owl.eval.judge.length_slope import length_slope
from mplug_owl.eval.judge.pairs import Pair
from mplug_owl.eval.resampling import percentiles
from mplug_owl.eval.statistics import wilson

Verdict = Literal["sound", "suspect", "undecided", "not measured"]

# Krippendorff, Content Analysis (2018): from 0.667 tentative conclusions, from 0.8 reliable. A judge is held to the first
# against people, who do not agree fully either, and to the second against itself.
ALPHA_PEOPLE, ALPHA_SELF = 0.667, 0.8
# Landis and Koch, Biometrics 33 (1977): substantial above 0.6.
KAPPA = 0.6
# Ours: more than a third of what it praises, it praises beside any picture.
UNCHANGED = 1 / 3
# Ours: of ten choices, six for one side of the page.
FIRST = (0.4, 0.6)
# Ours: the six released systems' answers differ by four doublings of length, which at this rate is a whole letter.
SLOPE = 0.25
# Ours: what cannot be read may be other than what can.
READABLE = 0.95
# Ours: percentiles of fewer resampled pictures are too narrow.
PICTURES = 20

FAMILIES = {
    "GPT": r"(?<!mini)gpt|(?<![a-z0-9])o[134](?![0-9])",
    "Claude": r"claude",
    "Gemini": r"gemini|gemma",
    "LLaVA": r"llava",
    "Qwen": r"qwen|qvq",
    "InternVL": r"intern-?vl",
    "MiniCPM": r"minicpm",
    "MiniGPT": r"minigpt",
    "BLIP": r"blip",
    "mPLUG-Owl": r"owl(?!eval)",
    "Llama": r"llama",
    "Mistral": r"mistral|pixtral",
    "Phi": r"(?<![a-z])phi-?\d",
    "DeepSeek": r"deepseek",
    "SmolVLM or Idefics": r"smolvlm|idefics",
    "GLM": r"(?<![a-z])glm|cogvlm",
    "Molmo": r"molmo",
    "Flamingo": r"fla[mn]+ingo",
}


@dataclass(frozen=True)
class Line:
    """One thing that is known of a judge, or how to find it out.

    Args:
        name: What it is about.
        verdict: Whether the judge may be believed as far as this goes.
        reason: The limit, what else was seen, or how to measure it.
        value: The figure; None where it is not measured.
        interval: 95 %, from resampled pictures unless the reason says otherwise.
        is_share: Whether it is shown in percent.
    """

    name: str
    verdict: Verdict
    reason: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    is_share: bool = False

    @property
    def figure(self) -> str:
        """The figure with its interval, as tables show it."""
        if self.value is None:
            return "-"
        shown = "{:.0%}" if self.is_share else "{:.2f}"
        ends = f" [{shown}, {shown}]".format(*self.interval) if self.interval is not None else ""
        return shown.format(self.value) + ends


@dataclass(frozen=True)
class Passport:
    """What is known of a judge.

    Args:
        judge: Its name.
        lines: One after another.
        errors: How it errs on A or B against people, where they graded.
        shares: The shares it found, corrected by that.
    """

    judge: str
    lines: tuple[Line, ...]
    errors: JudgeErrors | None = None
    shares: tuple[CorrectedShare, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """The names of the lines by which it is suspect."""
        return tuple(line.name for line in self.lines if line.verdict == "suspect")

    @property
    def errs_alike(self) -> bool:
        """Whether nothing here says that it errs more for some systems, which the correction of shares takes it not to do."""
        return not {"length", "family"} & set(self.faults)

    def row(self) -> dict[str, object]:
        """Plain values for a JSON file."""
        lines = [{**asdict(line), "figure": line.figure} for line in self.lines]
        errors = asdict(self.errors) if self.errors is not None else None
        shares = [asdict(share) for share in self.shares]
        return {"judge": self.judge, "lines": lines, "errors": errors, "shares": shares, "errs_alike": self.errs_alike}


def passports(grades: Sequence[Grade], pairs: Sequence[Pair] = ()) -> list[Passport]:
    """A passport for each judge among these grades, in which people's may be too."""
    return [passport(grades, pairs, name) for name in dict.fromkeys(one.grader for one in grades if one.kind == "judge")]


def passport(grades: Sequence[Grade], pairs: Sequence[Pair], judge: str) -> Passport:
    """What these grades, people's among them, and pairs say about a judge."""
    mine = [grade for grade in grades if grade.kind == "judge" and grade.grader == judge]
    first = [grade for grade in mine if grade.round == 0 and grade.shown == "picture"]
    people = people_letters(grades)
    retest = _retest(first, [grade for grade in mine if grade.round > 0 and grade.shown == "picture"])
    bounded = [*_with_people(first, people), *(_picture(first, mine, shown) for shown in ("removed", "exchanged"))]
    if retest.verdict == "suspect":
        bounded = [_unstable(line) for line in bounded]
    lines = (
        *bounded[:2],
        retest,
        *bounded[2:],
        _position([pair for pair in pairs if pair.judge == judge]),
        _length(first, people),
        _readable(mine),
        _family(judge, [*dict.fromkeys(grade.answer.model for grade in first)]),
    )
    return Passport(judge, lines, judge_errors(first, people), tuple(corrected_shares(first, people)))


def people_letters(grades: Sequence[Grade]) -> dict[Key, Letter]:
    """What people gave each answer in their first round: the middle letter, of two middle ones the worse.

    Grades from files made by hand count as people's where there are none from `owl rate`.
    """
    kind = "person" if any(grade.kind == "person" for grade in grades) else "file"
    found: dict[Key, list[Letter]] = {}
    for grade in grades:
        if grade.kind == kind and grade.round == 0 and grade.letter is not None:
            found.setdefault(key(grade.answer), []).append(grade.letter)
    return {answer: sorted(letters)[len(letters) // 2] for answer, letters in found.items()}


def _with_people(first: Sequence[Grade], people: dict[Key, Letter]) -> list[Line]:
    """Agreement with people in two coefficients: both make up for chance, and a slip by one level counts less than by three."""
    both = [(one, one.letter, people[key(one.answer)]) for one in first if one.letter and key(one.answer) in people]
    how = "people grade the same answers: owl rate; --people names their file where it is not in the exam's folder"
    return [
        _agreement("people, alpha", both, ordinal_alpha, ALPHA_PEOPLE, how),
        _agreement("people, kappa", both, weighted_kappa, KAPPA, how),
    ]


def _retest(first: Sequence[Grade], again: Sequence[Grade]) -> Line:
    """The same answers graded a second time."""
    letters = {key(one.answer): one.letter for one in first}
    both = [(one, letters[key(one.answer)], one.letter) for one in again if one.letter and letters.get(key(one.answer))]
    line = _agreement("test-retest, alpha", both, ordinal_alpha, ALPHA_SELF, "owl judge ... --audit")
    if line.value is None:
        return line
    same = sum(one == other for _, one, other in both) / len(both)
    return replace(line, reason=f"{line.reason}; {same:.0%} of grades are the same")


def _agreement(
    name: str, both: Sequence[tuple[Grade, Letter | None, Letter | None]], coefficient: Statistic, limit: float, how: str
) -> Line:
    """A coefficient of agreement between two letters of each answer, at least `limit`."""
    if not both:
        return Line(name, "not measured", how)
    tables = np.zeros((len(both), len(LETTERS), len(LETTERS)))
    for table, (_, one, other) in zip(tables, both, strict=True):
        table[LETTERS.index(one), LETTERS.index(other)] = 1
    value = float(coefficient(tables.sum(0)))
    if np.isnan(value):
        return Line(name, "not measured", f"all {len(both)} grades are the same letter: there is nothing to agree on")
    return _line(name, value, [one.answer for one, *_ in both], tables, coefficient, (limit, 1.0), f"at least {limit:g}")


def _picture(first: Sequence[Grade], mine: Sequence[Grade], shown: Shown) -> Line:
    """What becomes of A and B where the picture is removed or exchanged. A bad answer is bad beside any picture."""
    name = f"picture {shown}"
    letters = {key(one.answer): one.letter for one in first if one.letter is not None}
    pairs = [
        (one, letters[key(one.answer)])
        for one in mine
        if one.shown == shown
        and key(one.answer) in letters
        and (one.letter is not None or one.details.get("why") == "declined")
    ]
    praised = [(one, before) for one, before in pairs if before in ACCEPTABLE]
    if not pairs:
        return Line(name, "not measured", "owl judge ... --audit")
    if not praised:
        return Line(name, "not measured", f"none of the {len(pairs)} answers had A or B beside its picture")
    same = np.array([(one.letter == before, 1) for one, before in praised], dtype=np.float64)
    every = sum(one.letter == before for one, before in pairs) / len(pairs)
    note = f"A or B stays, at most {UNCHANGED:.0%}; of all grades {every:.0%} stay"
    value = float(same[:, 0].mean())
    return _line(name, value, [one.answer for one, _ in praised], same, _ratio, (0.0, UNCHANGED), note, is_share=True)


def _position(pairs: Sequence[Pair]) -> Line:
    """How often the answer that is shown first is chosen, of those times where one is."""
    name = "position"
    read = [pair for pair in pairs if pair.verdict is not None]
    wins = np.array([pair.shown_first_won for pair in read], dtype=np.float64).reshape(-1, 2)
    if not wins[:, 1].sum():
        return Line(name, "not measured", "owl judge ... --pairs" if not read else f"all {len(read)} pairs are ties")
    flips = sum(pair.flipped for pair in read) / len(read)
    note = (
        f"the first one wins, {FIRST[0]:.0%} to {FIRST[1]:.0%}; {flips:.0%} of {len(read)} verdicts flip with the order: ties"
    )
    return _line(name, float(_ratio(wins.sum(0))), [pair.first for pair in read], wins, _ratio, FIRST, note, is_share=True)


def _length(first: Sequence[Grade], people: dict[Key, Letter]) -> Line:
    """What a doubling of the answer's length adds to its grade, between systems that answered the same question."""
    name = "length"
    found = length_slope(first, people, PICTURES)
    if found is None:
        return Line(name, "not measured", "two systems' answers to the same questions, of unequal length")
    if np.isnan(found.value):
        return Line(name, "not measured", "length and people's grades go together: nothing tells them apart")
    note = f"levels a doubling, at most {SLOPE:g} either way"
    line = _line(name, found.value, [one.answer for one in found.grades], found.values, found.slope, (-SLOPE, SLOPE), note)
    if found.beside_people:
        return replace(line, reason=f"{line.reason}; people's grades held equal")
    if line.verdict == "suspect":
        return replace(line, verdict="undecided", reason=f"{note}; but longer may be better here: people's grades would tell")
    return line


def _readable(mine: Sequence[Grade]) -> Line:
    """How many of the judge's replies ended as they were asked to."""
    replies = [grade for grade in mine if grade.details.get("why") != "no answer"]
    name, note = "replies", f"can be read, at least {READABLE:.0%}, Wilson's interval"
    if not replies:
        return Line(name, "not measured", "every answer is empty")
    read = sum(grade.letter is not None or grade.details.get("why") == "declined" for grade in replies)
    ends = wilson(read, len(replies))
    return Line(
        name, _verdict(ends, (READABLE, 1.0)), f"{note}; {len(replies) - read} unscored", read / len(replies), ends, True
    )


def _family(judge: str, models: Sequence[str]) -> Line:
    """Whether it judges its kin, which judges favour (arXiv 2404.13076)."""
    families = [family for family, names in FAMILIES.items() if re.search(names, judge.lower())]
    kin = [model for model in models if any(re.search(FAMILIES[family], model.lower()) for family in families)]
    if kin:
        return Line("family", "suspect", f"judge and {', '.join(kin)} are both {' and '.join(families)} by their names")
    known = "no relative among the judged" if families else "the judge's name says no family"
    return Line("family", "sound" if families else "undecided", f"{known}, by their names")


def _line(
    name: str,
    value: float,
    seen: Sequence[Answer],
    values: Numbers,
    statistic: Statistic,
    limits: tuple[float, float],
    note: str,
    is_share: bool = False,
) -> Line:
    """A figure of these answers with its interval by picture, and what follows from the limits."""
    clusters = [answer.question.cluster for answer in seen]
    pictures = len(set(clusters))
    if pictures < PICTURES:
        return Line(name, "undecided", f"{note}; {pictures} pictures, {PICTURES} needed", value, None, is_share)
    ends = percentiles(resampled(clusters, values, statistic))
    return Line(name, _verdict(ends, limits), note, value, ends, is_share)


def _verdict(ends: tuple[float, float], limits: tuple[float, float]) -> Verdict:
    """Sound and suspect have to be seen; what an interval leaves open stays open."""
    if ends[1] < limits[0] or ends[0] > limits[1]:
        return "suspect"
    return "sound" if ends[0] >= limits[0] and ends[1] <= limits[1] else "undecided"


def _unstable(line: Line) -> Line:
    """A judge that does not agree with itself agrees with nobody and changes beside any picture: that says nothing new."""
    if line.value is None:
        return line
    return replace(line, verdict="undecided", reason=f"{line.reason}; it does not agree with itself, mend that first")


def _ratio(sums: Numbers) -> Numbers:
    """The first of two sums, of the second."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]
