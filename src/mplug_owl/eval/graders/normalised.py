"""Grading by words, where case, articles, punctuation and number words do not count."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, scored

ARTICLES = ("a", "an", "the")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(_NUMBER_WORDS)}}
# Written without one of their apostrophes, these get it back. VQA's evaluation has this list; "well" and "id" are words.
_CONTRACTIONS = re.findall(
    r"\S+",
    """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
    how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
    oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
    y'all y'all'll y'all'd've you'd you'd've you'll you're you've
    """,
)
CONTRACTIONS = {
    **{word[: mark.start()] + word[mark.end() :]: word for word in _CONTRACTIONS for mark in re.finditer("'", word)},
    "somebody'd": "somebodyd",  # the wrong way round there too
}
_MARKS = tuple(';/[]"{}()=+\\_-><@`,?!')
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class NormalisedMatch:
    """An answer is correct where it has the same words as an accepted one, after both were normalised."""

    name: str = "normalised"

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        """A grade for each answer, in their order."""
        return scored(answers, self.name, lambda answer, accepted: any(same(answer, one) for one in accepted))


@dataclass(frozen=True)
class Contains:
    """An answer is correct where an accepted one stands in it, word for word, after both were normalised."""

    name: str = "contains"

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        """A grade for each answer, in their order."""
        return scored(answers, self.name, lambda answer, accepted: any(contains(answer, one) for one in accepted))


def same(answer: str, accepted: str) -> bool:
    """Whether an answer has the words of an accepted one.

    The rules leave nothing of an article, and the letter A of a choice is one to them. Such an answer is compared as it stands,
    or every other one of which they leave nothing would be correct.
    """
    inside = normalised(accepted)
    return normalised(answer) == inside if inside else _bare(answer) == _bare(accepted)


def contains(answer: str, accepted: str) -> bool:
    """Whether the words of an accepted answer stand in an answer, one after another.

    An accepted answer of which the rules leave nothing would be in every answer: it has to be all of it.
    """
    inside = normalised(accepted)
    return f" {inside} " in f" {normalised(answer)} " if inside else same(answer, accepted)


def normalised(words: str) -> str:
    """Words as VQA's evaluation compares them: lower case, no articles, no punctuation, number words as digits.

    The rules of github.com/GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py (arXiv 1505.00468), its quirks
    included: a mark beside a space is left out and any other becomes a space, unless a number has a comma in it; colons and
    apostrophes stay; decimals keep their point.
    """
    words = words.replace("\n", " ").replace("\t", " ").strip()
    bare, number = words, _COMMA_IN_NUMBER.search(words)
    for mark in _MARKS:
        bare = bare.replace(mark, "" if number or f"{mark} " in words or f" {mark}" in words else " ")
    found = [NUMBERS.get(word, word) for word in _FULL_STOP.sub("", bare).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in found if word not in ARTICLES)


def _bare(words: str) -> str:
    """Words in lower case without marks, articles among them; marks alone as they are."""
    return " ".join(_WORD.findall(words.lower())) or words.strip()
