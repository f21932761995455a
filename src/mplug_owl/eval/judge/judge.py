"""A judge: a multimodal ChatModel that sees the picture, says what it sees, gives reasons, and grades from A to D."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mplug_owl.chat import ChatModel, Decoding, arriving
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade, Shown, lettered
from mplug_owl.eval.judge.prompt import VERSION, grade_prompt, packed, read_grade
from mplug_owl.eval.judge.reply_cache import CachedChatModel, ReplyCache
from mplug_owl.eval.task import Question

# Seeing, reasons and a grade; reasoning models need most of it.
DECODING = Decoding(max_new_tokens=2048)
# So many requests are prepared at once. Their pictures are in memory, packed, until the last of them is answered.
AT_ONCE = 64


@dataclass(frozen=True)
class Sheet:
    """One thing to grade: an answer, in which round, and beside its question's picture, none, or that of another question."""

    answer: Answer
    round: int = 0
    shown: Shown = "picture"
    exchanged: Question | None = None


@dataclass
class Judge:
    """Grades answers by asking a model that sees their pictures. A reply without a grade is unscored, never D.

    Args:
        model: Who is asked.
        name: What grades.jsonl calls it.
        cache: Replies that are known already; a new one is kept in memory.
        decoding: How its words are chosen: the likeliest, so that a second run says the same.
        identity: What replies are cached under, where the name alone does not say which model it was.
        weights: A digest of its files where they are here; grades of other weights are not taken for its own.

    Example:
        >>> from mplug_owl import OwlChatModel, load
        >>> judge = Judge(OwlChatModel(load("owl-tiny")), "owl-tiny")  # doctest: +SKIP
        >>> judge.grades(answers)  # doctest: +SKIP
    """

    model: ChatModel
    name: str
    cache: ReplyCache = field(default_factory=ReplyCache)
    decoding: Decoding = DECODING
    identity: str = ""
    weights: str = ""

    def cached(self, round: int = 0) -> CachedChatModel:  # noqa: A002
        """The model, which is not asked for what it has replied already."""
        return CachedChatModel(self.model, self.identity or self.name, self.cache, round)

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        """A grade for each answer, in their order: as a Grader does it."""
        found = dict(self.arriving([Sheet(answer) for answer in answers]))
        return [found[position] for position in range(len(answers))]

    def arriving(self, sheets: Sequence[Sheet]) -> Iterator[tuple[int, Grade]]:
        """Each sheet's position and its grade, as soon as it is there. An empty answer is unscored and not sent.

        Raises:
            UserError: The judge is not there, or refuses. What had arrived was passed on before.
        """
        pictures = OpenPictures()
        waiting = []
        for position, sheet in enumerate(sheets):
            if sheet.answer.text.strip():
                waiting.append(position)
            else:
                yield position, self._grade(sheet, None, {"why": "no answer"})
        for turn in sorted({sheet.round for sheet in sheets}):
            here = [position for position in waiting if sheets[position].round == turn]
            model = self.cached(turn)
            for start in range(0, len(here), AT_ONCE):
                chunk = here[start : start + AT_ONCE]
                prompts = [_prompt(sheets[position], pictures) for position in chunk]
                for index, reply in arriving(model, prompts, self.decoding):
                    yield chunk[index], self._grade(sheets[chunk[index]], reply, {"reply": reply})

    def _grade(self, sheet: Sheet, reply: str | None, details: dict[str, object]) -> Grade:
        letter = None
        if reply is not None:
            letter, why = read_grade(reply)
            details = {**details, "why": why}
        details["prompt"] = VERSION
        made = lettered(sheet.answer, letter, self.name, "judge")
        return replace(made, round=sheet.round, shown=sheet.shown, details=details)


def _prompt(sheet: Sheet, pictures: "OpenPictures") -> Conversation:
    """The same words whatever is shown: a judge is to notice by itself."""
    beside = pictures.of(sheet.exchanged or sheet.answer.question)
    return grade_prompt(sheet.answer, beside if sheet.shown != "removed" else (), sees=bool(beside))


class OpenPictures:
    """Opens and packs each picture once and keeps the latest, so that answers to one question share it."""

    def __init__(self, kept: int = AT_ONCE) -> None:
        self.kept = kept
        self._packed: dict[str, bytes] = {}

    def of(self, question: Question) -> list[Picture]:
        """What a judge sees of a question: the pictures among its words, or its one picture."""
        if question.parts:
            return [part for parts in question.parts for part in parts if isinstance(part, Picture)]
        if question.picture is None:
            return []
        if question.cluster not in self._packed:
            if len(self._packed) >= self.kept:
                del self._packed[next(iter(self._packed))]
            self._packed[question.cluster] = packed(question.picture())
        return [Picture(self._packed[question.cluster])]
