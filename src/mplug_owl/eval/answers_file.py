"""answers.jsonl: what a model answered, line by line, so that an exam resumes where it was cut off."""

from collections.abc import Sequence
from pathlib import Path

from mplug_owl.errors import UserError
from mplug_owl.eval.lines import AppendedLines, earlier_turns, read_lines, text
from mplug_owl.eval.task import Condition, Question
from mplug_owl.eval.trace_rows import as_rows, with_trace

# Answers of one's own machine are asked again faster than a disk confirms each of them.
SYNC_SECONDS = 1.0


class AnswersFile:
    """The answers of one model to one task that are known so far, those in a file among them.

    Questions of one mode that begin with the same words about the same picture share the answers to them: each turn is asked
    once, and written down for every question whose turn it is.

    Args:
        path: The file to read and to append to; None keeps the answers in memory.
        task: The task's name.
        model: The model's name.

    Raises:
        UserError: The file holds another task's or model's answers, or is damaged.
    """

    def __init__(self, path: Path | None = None, task: str = "", model: str = "") -> None:
        self.task, self.model = task, model
        self._answers: dict[tuple[str, tuple[str, ...]], str] = {}
        self._written: dict[tuple[str, str, str, int], tuple[str, ...]] = {}
        for number, row in read_lines(path) if path is not None and path.is_file() else ():
            where = f"{path}, line {number}"
            for name, value in (("task", task), ("model_id", model)):
                if row.get(name) != value:
                    raise UserError(f"{where}: {name} is {row.get(name)!r:.80}, not {value!r}; give another --out")
            earlier = [text(turn, "question", where) for turn in earlier_turns(row, where)]
            prompt = (text(row, "image", where), *earlier, text(row, "question", where))
            split, mode, question = (text(row, name, where) for name in ("split", "mode", "question_id"))
            self._answers[mode, prompt] = with_trace(text(row, "answer", where), row, where)
            self._written[split, mode, question, len(earlier)] = prompt
        self.path = path
        self._lines = AppendedLines(path, SYNC_SECONDS) if path is not None else None

    @property
    def count(self) -> int:
        """How many answers the file holds."""
        return len(self._written)

    def known(self, question: Question, condition: Condition, turn: int) -> str | None:
        """The answer to a turn of a question, if there is one."""
        written = self._written.get((condition.split, condition.mode, question.id, turn))
        if written is not None and written != question.prompt(turn):
            raise UserError(f"{self.path}: question {question.id} has other words there; give another --out")
        return self._answers.get((condition.mode, question.prompt(turn)))

    def add(self, question: Question, condition: Condition, turns: Sequence[str]) -> None:
        """Write down the answer to the last of these turns, once."""
        turn = len(turns) - 1
        key = (condition.split, condition.mode, question.id, turn)
        if key in self._written:
            return
        self._answers[condition.mode, question.prompt(turn)] = turns[-1]
        self._written[key] = question.prompt(turn)
        if self._lines is not None:
            self._lines.append(
                {
                    "task": self.task,
                    "model_id": self.model,
                    "split": condition.split,
                    "mode": condition.mode,
                    "question_id": question.id,
                    "image": question.cluster,
                    "question": question.turns[turn][0],
                    "answer": turns[-1],
                    "earlier": [
                        {"question": words, "answer": answer}
                        for (words, _), answer in zip(question.turns[:turn], turns[:-1], strict=True)
                    ],
                    **as_rows(turns[-1]),
                }
            )
