"""Files of JSON lines that a full disk does not spoil: a line is written whole, or held back until there is room."""

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mplug_owl.writing import replacing, writing

# A row of JSON, whatever it holds.
Row = dict[str, Any]


class JsonLines:
    """A file of JSON lines that grows. Rows that are there stay if `keep` says so; a line cut short by a crash does not.

    Rows that the disk has no room for are held back, reported to `note` once, and written before the next one.
    """

    def __init__(
        self,
        path: Path,
        keep: Callable[[Row], bool] = lambda row: True,
        note: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self.path, self.note = path, note
        self._held: list[str] = []
        self._reported = False
        kept = "".join(json.dumps(row) + "\n" for row in read(path) if keep(row))
        if path.is_file() and path.read_bytes() != kept.encode():
            with writing(str(path)), replacing(path) as new:  # killed before its end, the old lines are all there
                new.write_text(kept, encoding="utf-8")

    def write(self, row: Mapping[str, object]) -> None:
        """Append a row as one line. JSON has no infinities; they become null."""
        finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        self._held.append(json.dumps(finite) + "\n")
        self.flush()

    def flush(self) -> None:
        """Write what was held back."""
        if not self._held:
            return
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(self._held))
        except OSError as error:
            with contextlib.suppress(OSError), self.path.open("r+b") as file:
                file.truncate(size)  # half a line would spoil the next one too
            if not self._reported:
                self.note(f"{self.path.name} not written ({error}); its lines are held back until there is room")
            self._reported = True
        else:
            self._held.clear()
            self._reported = False


def read(path: Path) -> list[Row]:
    """The rows of a file of JSON lines; none where there is none. A line cut short by a crash is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]
