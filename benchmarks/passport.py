"""Judges whose faults are known: how often a judge's passport finds the fault, and how often it finds one that is not there.

OMP_NUM_THREADS=1 python -m benchmarks.passport [--seeds 200] [--first 1000] [--questions 40]

Each stub is a ChatModel that is asked with the real prompts and replies as a judge would. The faulty ones are the sound one
with one fault, at full strength and at half of it. The exam is made up: an answer's quality is written on it. Pictures are one
pixel whose colour is the question's number.
"""

import argparse
import io
import math
import random
import re
import time
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image

from mplug_owl.chat import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import LETTERS, Grade, Letter, lettered
from mplug_owl.eval.judge.audit import audit_sheets
from mplug_owl.eval.judge.judge import Judge, Sheet
from mplug_owl.eval.judge.pairs import compare, pairs_of
from mplug_owl.eval.judge.passport import Passport, passport
from mplug_owl.eval.task import Condition, Question

CONDITION = Condition("single", "picture", "single-turn", "made-up")
# How often a system's answers are A, B, C and D, and their usual length: better ones are longer, as with real systems.
SYSTEMS = {"alpha": ((45, 25, 20, 10), 300), "beta": ((30, 25, 25, 20), 200), "gamma": ((15, 20, 30, 35), 120)}
# What a sound judge does too: slips to the next level, and praise for what would be as good beside another picture.
# People slip as well.
SLIPS, ELSEWHERE, PEOPLE_SLIP = 0.05, 0.1, 0.1


@dataclass(frozen=True)
class Seen:
    """What a stub reads off an answer: its quality, the picture that it is about, and its length."""

    letter: Letter
    picture: int
    length: int


def exam(seed: int, questions: int = 40) -> tuple[list[Answer], list[Grade]]:
    """Three systems' answers to questions about a picture each, and a person's grades of them."""
    draw = random.Random(seed)
    answers, people = [], []
    for number in range(questions):
        picture = partial(Image.new, "RGB", (1, 1), (number % 256, number // 256, 0))
        question = Question(str(number), "made-up", "", ((f"What is in picture {number}?", ""),), picture)
        for model, (weights, length) in SYSTEMS.items():
            (letter,) = draw.choices(LETTERS, weights)
            words = f"#{number}:{letter} " + "so " * round(length * 2 ** draw.gauss(0, 0.7) / 3)
            answers.append(Answer(question, CONDITION, (words,), model))
            people.append(lettered(answers[-1], slipped(letter, PEOPLE_SLIP, draw), "a person", "person"))
    return answers, people


def slipped(letter: Letter, chance: float, draw: random.Random) -> Letter:
    """The letter, or by some chance the next one."""
    level = LETTERS.index(letter)
    if draw.random() < chance:
        level = min(max(level + draw.choice((-1, 1)), 0), 3)
    return LETTERS[level]


class CopiesPeople:
    """A sound judge: it knows what people know of an answer, sees whether the picture is the one that is meant, and slips.

    Args:
        seed: Of its slips, which differ each time that it is asked.
        strength: Of the fault, in those that have one.
    """

    fault = ""

    def __init__(self, seed: int, strength: float = 1.0) -> None:
        self.draw, self.strength = random.Random(seed), strength

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        return [self.reply(talk) for talk in conversations]

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        yield self.reply(conversation)

    def reply(self, talk: Conversation) -> str:
        pixels = [Image.open(io.BytesIO(picture.source)).getpixel((0, 0)) for picture in talk.pictures]  # type: ignore[arg-type]
        shown = [red + 256 * green for red, green, _ in pixels]  # type: ignore[misc]
        answers = [
            Seen(letter, int(number), len(words))
            for number, letter, words in re.findall(r"#(\d+):([ABCD]) ((?:so )*)", talk.messages[0].text)
        ]
        last = f"GRADE: {self.grade(answers[0], shown)}" if len(answers) == 1 else f"BETTER: {self.better(*answers)}"
        return f"I see picture {shown}.\n{last}"

    def grade(self, answer: Seen, shown: list[int]) -> str:
        if not shown:
            return "NONE"
        elsewhere = random.Random(answer.picture).random() < ELSEWHERE
        return slipped(answer.letter if elsewhere or shown == [answer.picture] else "D", SLIPS, self.draw)

    def better(self, one: Seen, other: Seen) -> str:
        first, second = slipped(one.letter, SLIPS, self.draw), slipped(other.letter, SLIPS, self.draw)
        return "TIE" if first == second else "1" if first < second else "2"


class IgnoresPictures(CopiesPeople):
    """It grades the words alike whatever it is shown."""

    fault = "picture"

    def grade(self, answer: Seen, shown: list[int]) -> str:
        blind = self.draw.random() < self.strength
        return super().grade(answer, [answer.picture] if blind else shown)


class PrefersTheFirst(CopiesPeople):
    """Of two answers it takes the first one in two of three cases, whatever they say."""

    fault = "position"

    def better(self, one: Seen, other: Seen) -> str:
        return "1" if self.draw.random() < self.strength * 2 / 3 else super().better(one, other)


class LikesLength(CopiesPeople):
    """Each doubling of an answer's length lifts its grade by a level, and each halving lowers it."""

    fault = "length"

    def grade(self, answer: Seen, shown: list[int]) -> str:
        letter = super().grade(answer, shown)
        if letter == "NONE":
            return letter
        lift = self.strength * math.log2((answer.length + 1) / 200)
        return LETTERS[min(max(round(LETTERS.index(letter) - lift), 0), 3)]

    def better(self, one: Seen, other: Seen) -> str:
        return "1" if one.length > other.length else "2"


class GradesAtRandom(CopiesPeople):
    """Any letter, and another one each time."""

    fault = "test-retest"

    def grade(self, answer: Seen, shown: list[int]) -> str:
        return self.draw.choice(LETTERS) if self.draw.random() < self.strength else super().grade(answer, shown)

    def better(self, one: Seen, other: Seen) -> str:
        return self.draw.choice(("1", "2", "TIE")) if self.draw.random() < self.strength else super().better(one, other)


STUBS = (CopiesPeople, IgnoresPictures, PrefersTheFirst, LikesLength, GradesAtRandom)


def passport_of(stub: type[CopiesPeople], seed: int, questions: int = 40, strength: float = 1.0) -> Passport:
    """What the passport of a stub says after a whole exam: grades, audit, pairs, and a person's grades to compare."""
    answers, people = exam(seed, questions)
    judge = Judge(stub(seed, strength), "a judge")
    sheets = [*map(Sheet, answers), *audit_sheets(answers)]
    grades = [grade for _, grade in judge.arriving(sheets)]
    return passport([*grades, *people], list(compare(judge, pairs_of(answers))), judge.name)


def kinds(passport: Passport) -> set[str]:
    """The faults that it finds, the two ways of taking the picture away as one."""
    return {re.split(r"[, ]", name)[0] for name in passport.faults}


def main() -> None:
    """Print what became of each stub, seed by seed."""
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--seeds", type=int, default=200)
    reader.add_argument("--first", type=int, default=1000, help="the first seed; the tests' are below 20")
    reader.add_argument("--questions", type=int, default=40)
    wanted = reader.parse_args()
    seeds, started = range(wanted.first, wanted.first + wanted.seeds), time.process_time()
    for stub in STUBS:
        for strength in (1.0, 0.5) if stub.fault else (1.0,):
            made = [passport_of(stub, seed, wanted.questions, strength) for seed in seeds]
            alone = sum(kinds(one) == {stub.fault} - {""} for one in made)
            false = Counter(name for one in made for name in kinds(one) - {stub.fault})
            found = sum(stub.fault in kinds(one) for one in made)
            print(
                f"{stub.__name__} x {strength}: fault found {found if stub.fault else '-'}, "
                f"that and no other {alone}, false alarms {dict(false)} of {len(made)}"
            )
            verdicts = Counter((line.name, line.verdict) for one in made for line in one.lines)
            for name in dict.fromkeys(name for name, _ in verdicts):
                print(f"    {name:32}", {verdict: count for (line, verdict), count in verdicts.items() if line == name})
    print(f"{time.process_time() - started:.0f} CPU seconds")


if __name__ == "__main__":
    main()
