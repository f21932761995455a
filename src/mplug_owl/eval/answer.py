"""A model takes an exam: many conversations at once, later turns after the model's own earlier answers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from mplug_owl.chat import ChatModel, Decoding, arriving
from mplug_owl.chat.trace import Call, trace_of
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.eval.answers_file import AnswersFile
from mplug_owl.eval.task import Condition, Mode, Question, Task

# The likeliest words, and more of them than any target of the drawn world has.
DECODING = Decoding(max_new_tokens=48)


@dataclass(frozen=True)
class Answer:
    """What a model answered to each turn of a question in one condition. The last turn is graded.

    Args:
        question: What was asked.
        condition: What the model was given with it.
        turns: An answer to each turn of the question.
        model: Who answered.

    Example:
        >>> from mplug_owl.eval.tasks.scenes import DrawnWorld
        >>> world = DrawnWorld()
        >>> question = world.questions("seen", 1, seed=0)[1]
        >>> Answer(question, world.conditions[0], ("red",)).text
        'red'
    """

    question: Question
    condition: Condition
    turns: tuple[str, ...]
    model: str = ""

    @property
    def digest(self) -> str:
        """Sixteen characters that change with the answer or with what led up to it."""
        return sha256(json.dumps([self.question.prompt(len(self.turns)), self.turns]).encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The answer that is graded."""
        return self.turns[-1]

    @property
    def trace(self) -> tuple[Call, ...]:
        """The calls that led to the answer that is graded; none where whoever answered keeps none."""
        return trace_of(self.text)

    @property
    def earlier(self) -> list[tuple[str, str, str]]:
        """The turns before the graded one: question, target and answer."""
        return [(*turn, answer) for turn, answer in zip(self.question.turns[:-1], self.turns[:-1], strict=True)]


def answer_task(
    model: ChatModel,
    task: Task,
    count: int | None,
    seed: int,
    conditions: Sequence[Condition] | None = None,
    on_condition: Callable[[Condition], None] = lambda condition: None,
    answers_file: AnswersFile | None = None,
    decoding: Decoding = DECODING,
) -> list[Answer]:
    """The answers to a whole task, or to some of its `conditions`, with `count` questions an ability in each.

    A split has the same questions in every mode, so that what the picture adds is seen question by question.
    `on_condition` is called before each condition. What `answers_file` holds is not asked again; what is asked goes there.
    """
    kept = answers_file or AnswersFile()
    answers = []
    for condition in task.conditions if conditions is None else conditions:
        on_condition(condition)
        answers += ask(model, task.questions(condition.split, count, seed), condition, kept, decoding)
    return answers


def ask(
    model: ChatModel,
    questions: Sequence[Question],
    condition: Condition,
    answers_file: AnswersFile | None = None,
    decoding: Decoding = DECODING,
) -> list[Answer]:
    """The answers to these questions in one condition, in their order. All first turns are asked, then all second ones.

    Each answer is kept as soon as it is there. Questions that begin alike about one picture share what they begin with.
    Over 40 lines with its arguments, so that a turn is read in one place: what is known, what is asked, what arrives.
    """
    kept = answers_file or AnswersFile()
    turns: list[list[str]] = [[] for _ in questions]
    shown: dict[int, Picture] = {}  # the very same in each turn: a model need not look again
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        asked: dict[tuple[str, ...], list[int]] = {}
        for index, question in enumerate(questions):
            if turn < len(question.turns):
                asked.setdefault(question.prompt(turn), []).append(index)

        def take(prompt: tuple[str, ...], answer: str, asked: dict[tuple[str, ...], list[int]] = asked) -> None:
            for index in asked[prompt]:
                turns[index].append(answer)
            ends = [index for index in asked[prompt] if len(questions[index].turns) == len(turns[index])]
            for index in ends or asked[prompt][:1]:  # what only leads up to questions is written once
                kept.add(questions[index], condition, turns[index])

        talks = {}
        for prompt, (first, *_) in asked.items():
            known = kept.known(questions[first], condition, turn)
            if known is not None:
                take(prompt, known)
            else:
                talks[prompt] = conversation(questions[first], condition.mode, turns[first], shown.get(first))
                for picture in talks[prompt].pictures[:1]:
                    shown[first] = picture
        # A batch takes as long as its longest answer and is as wide as its longest prompt: the model gets like beside like.
        target = {prompt: len(questions[first].turns[turn][1]) for prompt, (first, *_) in asked.items()}
        prompts = sorted(talks, key=lambda prompt: (target[prompt], len(talks[prompt].prompt())))
        for position, answer in arriving(model, [talks[prompt] for prompt in prompts], decoding):
            take(prompts[position], answer)
    return [
        Answer(question, condition, tuple(answered), kept.model) for question, answered in zip(questions, turns, strict=True)
    ]


def conversation(question: Question, mode: Mode, answers: Sequence[str], shown: Picture | None = None) -> Conversation:
    """A question's turns up to the one after these answers: the picture or its description first, as in training.

    `shown` is the question's picture where it was opened before.
    """
    talk = Conversation((), question.system, name=f"question {question.id}")
    if not question.parts and mode != "none":
        if mode == "description":
            talk = talk.said("user", question.description)
        elif question.picture is not None:
            talk = talk.said("user", shown or Picture(question.picture()))
    for turn in range(len(answers) + 1):
        parts = question.parts[turn] if question.parts else (question.turns[turn][0],)
        talk = talk.said("user", *(part for part in parts if mode == "picture" or isinstance(part, str)))
        if turn < len(answers):
            talk = talk.said("assistant", answers[turn])
    return talk
