"""Tables: CSV and TSV files whose first row names the columns.

CSV is read strictly. In a TSV a quote is a letter, as in most that are published, unless tabs or line breaks are quoted by it.
"""

import csv
import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from mplug_owl.data.sources.formats import FIELDS
from mplug_owl.data.sources.records import Indexed, Records, check_file, decode, ending, unpacked
from mplug_owl.data.sources.stretches import Split, Stretch
from mplug_owl.errors import BadSample, UserError
from mplug_owl.model.images import shortened

# Lines that a quoted cell of a TSV may have before its quote is taken for a letter.
_LONGEST_CELL = 100
_EXPECTED = "a row of column names and rows below it"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def read_table(path: Path) -> Records:
    """The rows of a table, each as a dictionary by its columns' names."""
    check_file(path)
    tabs = ending(path) == ".tsv"
    with unpacked(path).open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
    try:
        header = decode(first)
    except BadSample as error:
        raise UserError(f"{path}, line 1: {error}") from None
    delimiter = "\t" if tabs else next((mark for mark in ",;|\t" if mark in header), ",")
    if tabs:
        parse: Callable[[str], list[str]] = partial(_tsv_cells, header.rstrip("\r\n").count("\t") + 1)
        split: Split = _tsv_rows
    else:
        parse, split = partial(_csv_cells, delimiter), partial(_csv_rows, delimiter, path.name)
    try:
        columns = tuple(name.strip() for name in parse(header if tabs else _first_row(path, split)))
    except BadSample as error:
        raise UserError(f"{path}, line 1: {error}") from None
    if twice := [name for name in columns if name in FIELDS and columns.count(name) > 1]:
        raise UserError(f"{path}, line 1: more than one column is called {twice[0]!r}; rename or drop the others")
    rows = partial(_below_header, split)
    kind = "tsv" if tabs else f"csv-{ord(delimiter)}"
    return Indexed(path, kind, rows, partial(_named_cells, parse, columns), expected=_EXPECTED)


def _first_row(path: Path, split: Split) -> str:
    start, end, _ = next(split(unpacked(path)), (0, 0, 0))
    with unpacked(path).open("rb") as file:
        file.seek(start)
        return decode(file.read(end - start))


def _below_header(split: Split, path: Path) -> Iterator[Stretch]:
    return islice(split(path), 1, None)


def _named_cells(parse: Callable[[str], list[str]], columns: tuple[str, ...], row: str) -> dict[str, str]:
    cells = parse(row)
    if len(cells) != len(columns):
        raise BadSample(f"{len(cells)} cells but {len(columns)} columns ({shortened(', '.join(columns))})")
    return dict(zip(columns, cells, strict=True))


def _csv_cells(delimiter: str, row: str) -> list[str]:
    csv.field_size_limit(sys.maxsize)  # a picture in base64 is a cell
    try:
        return next(csv.reader(io.StringIO(row, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise BadSample(f"not a row of CSV ({error})") from None


def _csv_rows(delimiter: str, name: str, path: Path) -> Iterator[Stretch]:
    """Rows of a CSV file; one with line breaks inside quotes spans several lines.

    Raises UserError where a quote takes in the rows below it, as one does that is opened and not closed.
    """
    csv.field_size_limit(sys.maxsize)
    end = 0

    def decoded() -> Iterator[str]:
        nonlocal end
        with path.open("rb") as file:
            for line in file:
                end += len(line)
                yield line.decode("utf-8", "replace")

    rows, start, number, width = csv.reader(decoded(), delimiter=delimiter, strict=True), 0, 1, 0
    cure = "double the quotes inside a cell, and quote the whole of it"
    try:
        for row in rows:
            width = width or len(row)
            if any(_holds_rows(cell, delimiter, width) for cell in row):
                raise UserError(f"{name}, line {number}: a cell holds what looks like the rows below it; {cure}")
            if any(cell.strip() for cell in row):
                yield start, end, number
            start, number = end, rows.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}, line {number}: not a row of CSV ({error}); {cure}") from None


def _holds_rows(cell: str, delimiter: str, width: int) -> bool:
    """Whether a cell of several lines has, below its first, a row of as many cells whose one names a picture."""
    for line in cell.split("\n")[1:] if width > 1 else ():
        cells = line.rstrip("\r").split(delimiter)
        if len(cells) == width and any(part.strip().lower().endswith(_PICTURES) for part in cells):
            return True
    return False


def _tsv_rows(path: Path) -> Iterator[Stretch]:
    """Lines of a TSV file; one with an open quote takes in those below, if they complete its row."""
    width, end, done = 0, 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            start, end = end, end + len(line)
            if start < done or not line.strip():
                continue
            cells = line.count(b"\t") + 1
            width = width or cells
            done = _quoted_end(path, start, width) if cells <= width and b'"' in line else 0
            yield start, done or end, number


def _quoted_end(path: Path, start: int, width: int) -> int:
    """Where a row ends that has line breaks inside quotes; 0 where no such row begins here.

    A line with all its cells has such a break only if the next is no row by itself.
    """
    with path.open("rb") as file:
        file.seek(start)
        raw = file.readline()
        is_whole = raw.count(b"\t") + 1 == width
        for line in islice(file, _LONGEST_CELL):
            if is_whole and line.count(b"\t") + 1 == width:
                return 0
            raw += line
            if _is_quoted_row(raw.decode("utf-8", "replace"), width):
                return start + len(raw)
    return 0


def _is_quoted_row(row: str, width: int) -> bool:
    try:
        return len(_csv_cells("\t", row)) == width
    except BadSample:
        return False


def _tsv_cells(width: int, row: str) -> list[str]:
    """The cells of a row: split at its tabs, or by its quotes where the tabs give another number than there are columns."""
    cells = row.rstrip("\r\n").split("\t")
    if len(cells) == width and "\n" not in row.rstrip("\r\n"):
        return [_unquoted(cell) for cell in cells]
    return _csv_cells("\t", row) if _is_quoted_row(row, width) else cells


def _unquoted(cell: str) -> str:
    """A cell without the quotes around it, where those inside are doubled: only a quoted cell has such."""
    inside = cell[1:-1]
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '""' in inside and '"' not in inside.replace('""', ""):
        return inside.replace('""', '"')
    return cell
