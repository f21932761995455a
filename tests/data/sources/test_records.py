"""Records in files: packed ones, damaged ones, and what is said about values."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.data.sources import check, read
from mplug_owl.data.sources.records import decode, describe, field_names, read_blocks, texts
from mplug_owl.errors import BadSample, UserError
from tests.data.sources.conftest import Write
from tests.data.sources.samples import CAPTIONS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", "\n".join(map(json.dumps, CAPTIONS))),
        ("a.json.gz", json.dumps(CAPTIONS)),
        ("a.csv.gz", "image,caption\ncat.png,a cat\ndog.png,a dog\n"),
        ("a.tsv.gz", "image\tcaption\ncat.png\ta cat\ndog.png\ta dog\n"),
        ("a.txt.gz", "a cat\n\na dog\n"),
    ],
)
def test_a_packed_file_is_read_as_if_it_were_not(write: Write, name: str, content: str) -> None:
    path = write(name, gzip.compress(content.encode()))
    source = read(str(path))
    assert check(source) == []
    assert [source[index].answers[0][:5] for index in (1, 0)] == ["a dog", "a cat"]
    assert source[0].name.startswith(f"{name}, ")


def test_a_packed_file_is_unpacked_once_and_anew_when_it_changes(write: Write, cache: Path) -> None:
    path = write("a.txt.gz", gzip.compress(b"One."))
    read(str(path))
    assert read(str(path))[0].answers == ("One.",)
    assert len(list(cache.glob("*/a.txt"))) == 1
    write("a.txt.gz", gzip.compress(b"Another."))
    assert read(str(path))[0].answers == ("Another.",)


@pytest.mark.parametrize("harm", ["cut", "flipped", "plain"])
def test_a_damaged_packed_file_is_named(write: Write, harm: str) -> None:
    packed = gzip.compress(json.dumps(CAPTIONS).encode())
    content = {"cut": packed[:-12], "flipped": packed[:20] + bytes(20) + packed[40:], "plain": b"not packed"}[harm]
    with pytest.raises(UserError, match=r"a\.json\.gz: not a whole gzip file"):
        read(str(write("a.json.gz", content)))


@given(st.binary(max_size=20))
def test_bytes_are_text_or_a_bad_sample(raw: bytes) -> None:
    try:
        expected = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        with pytest.raises(BadSample, match=r"not UTF-8 text|UTF-16 text"):
            decode(raw)
    else:
        assert decode(raw) == expected


def test_line_ends_of_windows_are_line_ends(write: Write) -> None:
    source = read(str(write("book.txt", "One\r\nand two.\r\n\r\nThree.\r\n")))
    assert [source[index].answers for index in range(len(source))] == [("One\nand two.",), ("Three.",)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Zl", "Zp", "Cs"]), min_size=1).filter(str.strip), min_size=1))
def test_documents_are_what_blank_lines_part(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "book.txt"
    path.write_text("\n\n".join(documents), encoding="utf-8")
    blocks = read_blocks(path)
    assert [blocks[index] for index in range(len(blocks))] == [
        document.removeprefix("\ufeff").strip() for document in documents
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "null"), (float("nan"), "NaN"), (1.5, "a number"), (True, "true or false"), ([], "a list"), (b"", "bytes")],
)
def test_values_in_words(value: Any, words: str) -> None:
    assert describe(value) == words


def test_wordings_without_words_are_left_out() -> None:
    assert texts(["a", " ", 2, False], "caption", "here") == ("a", "2", "false")
    assert texts([], "caption", "here") == ("",)
    for wrong in ({}, [["a"]], [None], float("inf")):
        with pytest.raises(BadSample, match=r"here: field 'caption' is .*; expected text"):
            texts(wrong, "caption", "here")


def test_many_fields_are_shortened() -> None:
    assert field_names(dict.fromkeys(map(str, range(100)))).endswith("'29' and 70 more")
    assert len(field_names({"x" * 10_000: 1})) < 100
    assert field_names({}) == "none at all"
