"""CSV and TSV: rows, quotes, and rows that a quote would eat."""

import base64
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mplug_owl import Picture
from mplug_owl.data.sources import check, read
from mplug_owl.data.sources.table import read_table
from mplug_owl.errors import UserError
from tests.data.sources.conftest import Write
from tests.data.sources.samples import said


@pytest.mark.parametrize(("ending", "comma"), [("csv", ","), ("tsv", "\t")])
def test_captions_in_a_table(write: Write, ending: str, comma: str) -> None:
    rows = [("image", "caption"), ("cat.png", '"a cat\non two ""lines"""'), ("dog.png", "un café")]
    source = read(str(write(f"photos.{ending}", "\r\n".join(comma.join(row) for row in rows))))
    assert [source[i].answers for i in range(len(source))] == [('a cat\non two "lines"',), ("un café",)]
    assert source[1].name == f"photos.{ending}, line 4"


def test_a_table_with_a_wrong_row(write: Write) -> None:
    problems = check(read(str(write("photos.csv", "image,caption\ncat.png,a cat\ncat.png,a cat, seated\n"))))
    assert problems == ["photos.csv, line 3: 3 cells but 2 columns (image, caption)"]
    problems = check(read(str(write("photos.csv", "file,caption\ncat.png,a cat\n"))))
    assert problems == ["photos.csv, line 2: no field 'image'; it has 'file', 'caption'"]


def test_one_name_for_two_columns_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"photos\.csv, line 1: more than one column is called 'caption'; rename or drop"):
        read(str(write("photos.csv", "image,caption,caption\ncat.png,a cat,a dog\n")))
    assert check(read(str(write("photos.csv", "image,caption,,\ncat.png,a cat,,\n")))) == []


def captions_of(path: Path) -> list[str]:
    source = read(str(path))
    return [source[index].answers[0] for index in range(len(source))]


def test_a_quote_in_a_tsv_is_a_letter(write: Write) -> None:
    said = ["plain", '"Sunset over the bay', 'the 12" record', '"all of it"', "last"]
    assert captions_of(write("a.tsv", "image\tcaption\n" + "".join(f"cat.png\t{words}\n" for words in said))) == said


def test_a_tsv_may_quote_tabs_line_breaks_and_quotes(write: Write) -> None:
    rows = [["cat.png", "two\nlines", "x"], ["cat.png", "a\ttab", "y"], ["cat.png", 'say "hi"', "z"], ["cat.png", "plain", ""]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t").writerows([["image", "caption", "other"], *rows])
    path = write("a.tsv", file.getvalue())
    assert captions_of(path) == [row[1] for row in rows]
    assert read(str(path))[3].name == "a.tsv, line 6"


@given(
    cells=st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00")), min_size=2, max_size=2),
        min_size=1,
        max_size=5,
    ).filter(lambda rows: all("".join(row).strip() for row in rows))  # a row without any word is none
)
def test_a_csv_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["name", "words"], *cells])
    rows = read_table(path)
    assert [list(rows[index].values()) for index in range(len(rows))] == cells


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('image,caption\ncat.png,a\ncat.png,"never closed\ncat.png,b\n', "line 3: not a row of CSV (unexpected end of data)"),
        ('image,caption\ncat.png,"a" cat\ncat.png,b\n', "line 2: not a row of CSV"),
        ('image,caption\ncat.png,"a\ncat.png,b\ncat.png,c"\n', "line 2: a cell holds what looks like the rows below it"),
    ],
)
def test_a_quote_that_would_eat_rows_is_named(write: Write, content: str, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        read(f"captions:{write('a.csv', content)}")
    assert str(error.value).startswith("a.csv, ")
    assert complaint in str(error.value)


def test_a_cell_of_several_lines_is_no_row(write: Write) -> None:
    assert captions_of(write("a.csv", 'image,caption\ncat.png,"red, white\nand blue, too"\n')) == ["red, white\nand blue, too"]


@pytest.mark.parametrize("mark", [",", ";", "|", "\t"])
def test_columns_are_apart_by_what_the_first_row_has(write: Write, mark: str) -> None:
    assert captions_of(write("a.csv", f"image{mark} caption\ncat.png{mark} a cat\n")) == ["a cat"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_cell_is_as_long_as_it_is(write: Write, tmp_path: Path, name: str) -> None:
    """MMBench's tables hold pictures in base64, over csv's own 128 KiB."""
    noise = Image.effect_noise((400, 400), 90)
    noise.save(file := io.BytesIO(), "PNG")
    written = base64.b64encode(file.getvalue()).decode()
    assert len(written) > 150_000
    mark = "\t" if name.endswith("tsv") else ","
    rows = [
        ["index", "question", "hint", "A", "B", "C", "D", "answer", "image"],
        ["7", "Which?", "Look.", "cat", "dog", "", "", "A", written],
    ]
    source = read(str(write(name, "\n".join(mark.join(row) for row in rows))))
    assert check(source) == []
    assert source[0].pictures == (Picture(file.getvalue()),)
    assert source[0].messages[1:] == said(("user", "Look.\nWhich?\nA. cat\nB. dog"), ("assistant", "A"))


@pytest.mark.parametrize("content", ["\ufeffimage,caption\ncat.png,a cat".encode("utf-16-le"), b"im\xe9ge,caption\ncat.png,a"])
def test_a_table_in_another_encoding(write: Write, content: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.csv, line 1: (UTF-16 text; save it as UTF-8|not UTF-8 text)"):
        read(str(write("a.csv", content)))
