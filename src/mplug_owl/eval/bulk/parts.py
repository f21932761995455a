"""Answers on the disk while they are made: a part for each process, one file in the order of the data at the end.

Beside `answers.jsonl` the folder `answers.jsonl.run` holds what is asked of whom, each process' part, and the records that
could not be read. Whoever dies leaves whole lines; whoever ends last joins the parts. Nothing else has to be agreed upon: a
part's lock says whether somebody still writes it.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mplug_owl.chat import Decoding
from mplug_owl.errors import UserError
from mplug_owl.eval.lines import AppendedLines, is_whole, read_lines
from mplug_owl.writing import locked, replacing, writing

SETTINGS, BAD = "settings.json", "bad.jsonl"
# Answers of one's own machine are asked again faster than a disk confirms each of them.
SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class AnswerSettings:
    """What decides the answers: they resume only where all of it is the same.

    Args:
        source: The data, as it was named.
        records: How many there are.
        image_root: Where its pictures are.
        question: What is asked about each picture; None asks what the data says.
        model: The name that rows call the model by.
        weights: A digest of the model's files, empty where they are elsewhere.
        decoding: How words are chosen.
        dtype: What the model's weights are kept in.
    """

    source: str
    records: int
    image_root: str | None
    question: str | None
    model: str
    weights: str
    decoding: Decoding
    dtype: str = "auto"


class Parts:
    """The answers to one source that are on the disk, those of all processes, now and before.

    Args:
        out: The file that is made.
        settings: What is asked of whom.

    Raises:
        UserError: Other answers are there.
        WriteError: The folder cannot be written.
    """

    def __init__(self, out: Path, settings: AnswerSettings) -> None:
        self.out, self.folder, self.settings = out, out.with_name(f"{out.name}.run"), settings
        if out.is_dir():
            raise UserError(f"{out}: a folder; --out names the file of answers")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self._compare()

    def _alone(self) -> AbstractContextManager[bool]:
        return locked(self.folder / ".lock", seconds=-1)

    def _compare(self) -> None:
        """Note what is asked of whom, or refuse what differs from the note."""
        saved, now = self.folder / SETTINGS, json.loads(json.dumps(asdict(self.settings)))
        if saved.is_file():
            try:
                before = dict(json.loads(saved.read_text("utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(f"{saved}: damaged ({error}); expected what owl answer writes") from error
            before.setdefault("dtype", now["dtype"])  # notes from before December 2026 have none
            for name, value in now.items():
                if before.get(name) != value:
                    raise UserError(
                        f"{self.out}: was begun with other settings, {name} {before.get(name)} there and {value} now; give "
                        f"another --out, or remove {self.folder}"
                    )
        elif self.out.exists():
            raise UserError(f"{self.out}: is there already, and not known to be made of this; give another --out")
        else:
            with writing(saved), replacing(saved) as new:
                new.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")

    @contextmanager
    def written_by(self, rank: int) -> Iterator["Part"]:
        """The part of one process, which nobody else writes meanwhile.

        Raises:
            UserError: Another process of that rank is at work.
        """
        with ExitStack() as stack:
            with self._alone():
                if not stack.enter_context(locked(self.folder / f"part-{rank:05}.lock")):
                    raise UserError(f"{self.out}: another owl answer is at work on it; wait for it, or give another --out")
            bad = self.folder / f"bad-{rank:05}.jsonl"
            bad.unlink(missing_ok=True)  # what could not be read is tried again
            yield Part(AppendedLines(self.folder / f"part-{rank:05}.jsonl", SYNC_SECONDS), bad, self.settings.model)

    def answered(self) -> NDArray[np.bool_]:
        """Which records have an answer on the disk, by their positions."""
        found = np.zeros(self.settings.records, bool)
        for file in self._files():
            for number, row in read_lines(file):
                found[self._position(row, file, number)] = True
        return found

    def rows(self, positions: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The rows of these records that are on the disk."""
        wanted, found = set(positions), dict[int, dict[str, Any]]()
        for file in self._files():
            for number, row in read_lines(file):
                if (position := self._position(row, file, number)) in wanted:
                    found.setdefault(position, row)
        return found

    def count(self) -> int:
        """How many records have an answer on the disk, while nobody joins the parts."""
        with self._alone():
            return int(self.answered().sum())

    def join(self) -> "Joined | None":
        """Make one file of the parts, if nobody writes any more and every record was tried; None where work is left."""
        with self._alone(), ExitStack() as locks:
            for lock in sorted(self.folder.glob("part-*.lock")):
                if not locks.enter_context(locked(lock)):
                    return None  # that process joins them when it is done
            if self._is_joined():
                left = [row for _, row in read_lines(self.folder / BAD)]
                return Joined(self.settings.records - len(left), tuple(left), self.folder / BAD)
            where, bad = self._where(), self._bad()
            missing = [position for position in np.flatnonzero(where[:, 0] < 0).tolist() if position not in bad]
            if missing:
                return None
            left = [row for position, row in sorted(bad.items()) if where[position, 0] < 0]
            with writing(self.out):
                if any(part.stat().st_size for part in self.folder.glob("part-*.jsonl")) or not self.out.exists():
                    with replacing(self.out) as new:
                        self._write(new, where)
                with replacing(self.folder / BAD) as new:
                    new.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in left), "utf-8")
                for done in (*self.folder.glob("part-*.jsonl"), *self.folder.glob("bad-*.jsonl")):
                    done.unlink()
            return Joined(self.settings.records - len(left), tuple(left), self.folder / BAD)

    def _is_joined(self) -> bool:
        """Whether another process has joined the parts, this one's too."""
        parts = [*self.folder.glob("part-*.jsonl"), *self.folder.glob("bad-*.jsonl")]
        return not parts and self.out.exists() and (self.folder / BAD).exists()

    def _write(self, path: Path, where: NDArray[np.int64]) -> None:
        """The answers in the order of the data, each under an id that no other has."""
        ids = set[str]()
        with ExitStack() as stack, path.open("w", encoding="utf-8") as new:
            files = [stack.enter_context(file.open("rb")) for file in self._files()]
            for position, (number, offset) in enumerate(where.tolist()):
                if number < 0:
                    continue
                files[number].seek(offset)
                row = json.loads(files[number].readline())
                if row["question_id"] in ids:
                    row["question_id"] = f"{row['question_id']}, record {position + 1}"
                ids.add(row["question_id"])
                new.write(json.dumps(row, ensure_ascii=False) + "\n")
            new.flush()
            os.fsync(new.fileno())  # the parts are removed after it

    def _where(self) -> NDArray[np.int64]:
        """The file and the byte where each record's first row begins; -1 for none."""
        where = np.full((self.settings.records, 2), -1, np.int64)
        for index, file in enumerate(self._files()):
            with file.open("rb") as lines:
                offset = 0
                for number, line in enumerate(lines, 1):
                    if line.strip() and (line.endswith(b"\n") or is_whole(line)):
                        position = self._position(json.loads(line), file, number)
                        if where[position, 0] < 0:
                            where[position] = index, offset
                    offset += len(line)
        return where

    def _bad(self) -> dict[int, dict[str, Any]]:
        """The records that could not be read, by their positions."""
        return {
            self._position(row, file, number): row
            for file in sorted(self.folder.glob("bad-*.jsonl"))
            for number, row in read_lines(file)
        }

    def _files(self) -> list[Path]:
        """Where answers are: the finished file first, then the parts."""
        return [file for file in (self.out, *sorted(self.folder.glob("part-*.jsonl"))) if file.is_file()]

    def _position(self, row: Mapping[str, Any], file: Path, line: int) -> int:
        record = row.get("record")
        if not isinstance(record, int) or not 1 <= record <= self.settings.records:
            raise UserError(f"{file}, line {line}: record is {record!r:.40}; expected 1 to {self.settings.records}")
        return record - 1


@dataclass(frozen=True)
class Joined:
    """What came of it all: `answers` in the file, and the records that could not be read, which `file` lists."""

    answers: int
    bad: tuple[dict[str, Any], ...]
    file: Path


class Part:
    """What one process writes: a row for each answer, as soon as it is there."""

    def __init__(self, lines: AppendedLines, bad: Path, model: str) -> None:
        self._lines, self._bad, self.model = lines, bad, model
        self._bad_lines: AppendedLines | None = None  # there is no such file before there is such a record

    def answer(self, record: int, identity: str, question: str, answer: str) -> None:
        """Write down the answer to a record."""
        self._lines.append(
            {"record": record, "question_id": identity, "question": question, "answer": answer, "model_id": self.model}
        )

    def bad(self, record: int, reason: str) -> None:
        """Write down why a record is not asked."""
        self._bad_lines = self._bad_lines or AppendedLines(self._bad, SYNC_SECONDS)
        self._bad_lines.append({"record": record, "reason": reason})
