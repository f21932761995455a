"""A JSON list taken apart in one pass: where each element starts and ends, a window of the file in memory at a time."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from mplug_owl.data.sources.stretches import Stretch
from mplug_owl.errors import UserError

# Characters that are read at once. An element that is longer takes as much as it needs.
WINDOW = 2**20
# Of an element that the window cuts off, the parser complains no further than this from the end: `\ud83d\ude0`, `-Infinit`.
NEAR = 16
_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER = re.compile(r"[ \t\n\r]*([],])")
_BOM = b"\xef\xbb\xbf"


def elements(path: Path, name: str) -> Iterator[Stretch]:
    """Every element of a JSON list: its first byte, the byte after its last, its number.

    Each is parsed to find its end, and let go: the 665,000 talks of LLaVA would fill 4 GB in every worker process.

    Over 40 lines because it is one state machine: an element and what follows it are taken together or not at all.

    Raises:
        UserError: This is no JSON list. The message is `json.loads`'s own, with the line and column in the whole file.
    """
    parse = json.JSONDecoder().raw_decode
    with path.open("rb") as file:
        window = _Window(file, name)
        while (opening := _after_space(window.text, 0)) == len(window.text) and not window.whole:
            window.read_on(0)
        if window.text[opening : opening + 1] != "[":
            window.complain("", 0)
        # Up to `done` the text is dealt with, and `before` is what stands for it where the rest is parsed.
        before, done, at, number, closed = "", 0, opening + 1, 0, False
        byte = window.byte
        while not closed:
            text, fault = window.text, None
            start = end = _after_space(text, at)
            if number or text[start : start + 1] != "]":
                try:
                    end = parse(text, start)[1]
                except json.JSONDecodeError as error:  # a string that does not end complains of its start
                    fault = len(text) if error.msg.startswith("Unterminated string") else error.pos
                except (ValueError, RecursionError):  # too many digits, nested too deeply
                    fault = 0
            after = _AFTER.match(text, end) if fault is None else None
            if after is None:
                fault = _after_space(text, end) if fault is None else fault
                if window.whole or fault < len(text) - NEAR:
                    window.complain(before, done)
                at, done = at - done, window.read_on(done)
                continue
            if end > start:
                number += 1
                first = byte + len(text[done:start].encode())
                byte = first + len(text[start:end].encode())
                yield first, byte, number
                before, done = "[0", end
            at, closed = after.end(), after[1] == "]"
        while _after_space(window.text, at) == len(window.text) and not window.whole:
            at, done = at - done, window.read_on(done)
        if _after_space(window.text, at) < len(window.text):
            window.complain(before, done)


class _Window:
    """A stretch of a file as text, and where it is in the file: its first byte, line and column."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name = file, name
        self.byte = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(self.byte)
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.line, self.column, self.whole = "", 1, 1, False
        self.read_on(0)

    def read_on(self, done: int) -> int:
        """Let go of the first `done` characters, and read as many again as are left, or a window; where `done` is now."""
        line_breaks = self.text.count("\n", 0, done)
        self.line += line_breaks
        self.column = done - self.text.rindex("\n", 0, done) if line_breaks else self.column + done
        left = self.text[done:]
        raw = self.file.read(max(WINDOW, len(left)))
        self.whole = not raw
        waiting = self.decoder.getstate()[0]
        try:
            self.text = left + self.decoder.decode(raw, final=self.whole)
        except UnicodeDecodeError as error:
            at = self.file.tell() - len(raw) - len(waiting) + error.start
            raise UserError(f"{self.name}: not UTF-8 text (byte {error.object[error.start]:#04x} at {at})") from None
        return 0

    def complain(self, before: str, done: int) -> NoReturn:
        """Raise UserError in `json.loads`'s words, which reads `before` in place of what is dealt with."""
        try:
            json.loads(before + self.text[done:])
        except json.JSONDecodeError as error:
            at = done + error.pos - len(before)
            line_breaks = self.text.count("\n", 0, at)
            column = at - self.text.rindex("\n", 0, at) if line_breaks else self.column + at
            where = f"{self.name}, line {self.line + line_breaks}"
            raise UserError(f"{where}: not JSON ({error.msg} at column {column})") from None
        except (ValueError, RecursionError) as error:
            what = "JSON nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise UserError(f"{self.name}: {what}") from None
        raise AssertionError("json.loads reads what its own scanner did not")


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
