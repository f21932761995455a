"""An owl sits an exam: many conversations at once, dialogues turn by turn with the owl's own answers in their history."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mplug_owl.chat import Decoding, answer
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.eval.task import Mode, Problem, Sitting, Task
from mplug_owl.model.build import Owl

# The likeliest words, and more of them than a right answer of the drawn world has.
DECODING = Decoding(max_new_tokens=48)


@dataclass(frozen=True)
class Answered:
    """What was said to a problem in a sitting, turn by turn, and whether the last of it is right."""

    problem: Problem
    sitting: Sitting
    said: tuple[str, ...]
    correct: bool

    @property
    def earlier(self) -> list[tuple[tuple[str, str], str]]:
        """The turns before the graded one: question, right answer, and what was said."""
        return list(zip(self.problem.turns[:-1], self.said[:-1], strict=True))

    def row(self) -> dict[str, object]:
        """Plain values, as results.json holds them."""
        problem, sitting = self.problem, self.sitting
        return {
            "ability": problem.ability,
            "kind": problem.kind,
            "split": sitting.split,
            "mode": sitting.mode,
            "question": problem.question,
            "right": problem.right,
            "said": self.said[-1],
            "correct": self.correct,
            "before": [{"question": question, "right": right, "said": said} for (question, right), said in self.earlier],
        }


def examine(
    owl: Owl,
    task: Task,
    count: int,
    seed: int,
    sittings: Sequence[Sitting] | None = None,
    batch: int = 100,
    began: Callable[[Sitting], None] = lambda sitting: None,
) -> list[Answered]:
    """The answers of a whole exam, or of some `sittings` of it, with `count` problems an ability in each.

    A split has the same problems in every mode, so that what the picture adds is seen question by question.
    """
    answered = []
    for sitting in task.sittings if sittings is None else sittings:
        began(sitting)
        problems = task.problems(sitting.split, count, seed)
        for problem, said in zip(problems, ask(owl, problems, sitting.mode, batch), strict=True):
            answered.append(Answered(problem, sitting, said, task.correct(problem, said[-1])))
    return answered


def ask(owl: Owl, problems: Sequence[Problem], mode: Mode, batch: int = 100) -> list[tuple[str, ...]]:
    """What the owl says to each question of each problem, `batch` conversations at a time."""
    talks = [_opened(problem, mode) for problem in problems]
    for turn in range(max((len(problem.turns) for problem in problems), default=0)):
        asked = [index for index, problem in enumerate(problems) if turn < len(problem.turns)]
        for index in asked:
            talks[index] = talks[index].said("user", problems[index].turns[turn][0])
        # A batch takes as long as its longest answer and is as wide as its longest prompt.
        asked.sort(key=lambda index: (len(problems[index].turns[turn][1]), len(talks[index].prompt())))
        for index, said in zip(asked, answer(owl, [talks[index] for index in asked], DECODING, batch), strict=True):
            talks[index] = talks[index].said("assistant", said)
    return [talk.answers for talk in talks]


def _opened(problem: Problem, mode: Mode) -> Conversation:
    """What stands before the first question: a message of its own, as in training."""
    talk = Conversation(())
    if mode == "none":
        return talk
    return talk.said("user", Picture(problem.picture()) if mode == "picture" else problem.told)
