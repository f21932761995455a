"""A model takes an exam: many conversations at once, later turns after the model's own earlier answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mplug_owl.chat import ChatModel, Decoding
from mplug_owl.conversation import Conversation, Picture
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

    @property
    def text(self) -> str:
        """The answer that is graded."""
        return self.turns[-1]

    @property
    def earlier(self) -> list[tuple[str, str, str]]:
        """The turns before the graded one: question, target and answer."""
        return [(*turn, answer) for turn, answer in zip(self.question.turns[:-1], self.turns[:-1], strict=True)]


def answer_task(
    model: ChatModel,
    task: Task,
    count: int,
    seed: int,
    conditions: Sequence[Condition] | None = None,
    on_condition: Callable[[Condition], None] = lambda condition: None,
) -> list[Answer]:
    """The answers to a whole task, or to some of its `conditions`, with `count` questions an ability in each.

    A split has the same questions in every mode, so that what the picture adds is seen question by question.
    `on_condition` is called before each condition.
    """
    answers = []
    for condition in task.conditions if conditions is None else conditions:
        on_condition(condition)
        answers += ask(model, task.questions(condition.split, count, seed), condition)
    return answers


def ask(model: ChatModel, questions: Sequence[Question], condition: Condition) -> list[Answer]:
    """The answers to these questions in one condition, in their order. All first turns are asked, then all second ones."""
    conversations = [_opening(question, condition.mode) for question in questions]
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        indices = [index for index, question in enumerate(questions) if turn < len(question.turns)]
        for index in indices:
            conversations[index] = conversations[index].said("user", questions[index].turns[turn][0])
        # A batch takes as long as its longest answer and is as wide as its longest prompt: the model gets like beside like.
        indices.sort(key=lambda index: (len(questions[index].turns[turn][1]), len(conversations[index].prompt())))
        for index, answer in zip(indices, model.answers([conversations[index] for index in indices], DECODING), strict=True):
            conversations[index] = conversations[index].said("assistant", answer)
    return [Answer(question, condition, talk.answers) for question, talk in zip(questions, conversations, strict=True)]


def _opening(question: Question, mode: Mode) -> Conversation:
    """The message before the first turn: the picture or its description, as in training."""
    conversation = Conversation(())
    if mode == "none":
        return conversation
    return conversation.said("user", Picture(question.picture()) if mode == "picture" else question.description)
