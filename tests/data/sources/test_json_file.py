"""JSON lists and JSON lines, whole and broken."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl.data.sources import check, read
from mplug_owl.data.sources.json_file import read_json
from mplug_owl.errors import BadSample, UserError
from tests.data.sources.conftest import Write
from tests.data.sources.samples import CAPTIONS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=6,
)


@given(values=st.lists(JSON, min_size=1, max_size=5), indent=st.none() | st.integers(0, 2), ascii_only=st.booleans())
def test_any_json_list_is_read_element_by_element(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "list.json"
    written = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    path.write_bytes(b"\xef\xbb\xbf" * ascii_only + b" \n" + written)
    records = read_json(path)
    assert [records[index] for index in range(len(records))] == json.loads(written)
    assert records.location(len(records) - 1) == f"list.json, record {len(values)}"


@given(data=st.data())
def test_a_list_is_no_list_exactly_where_json_says_so(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "list.json"
    letters = list('[{"a": 1}, "b", [2, 3], null] ')
    for _ in range(data.draw(st.integers(1, 2))):
        letters[data.draw(st.integers(1, len(letters) - 1))] = data.draw(st.sampled_from(list('],[ "1{')))
    path.write_text(text := "".join(letters))
    try:
        expected = json.loads(text)
    except ValueError as error:
        with pytest.raises(ValueError, match=rf"^list.json, line 1: not JSON \(.* at column {error.colno}\)$"):
            read_json(path)
    else:
        if expected:
            assert list(read_json(path)) == expected


def test_json_that_breaks_on_a_line(write: Write) -> None:
    lines = [json.dumps(record) for record in CAPTIONS * 2]
    lines[2] = '{"image": "cat.png" "caption": "a cat"}'
    source = read(str(write("photos.jsonl", "\n".join(lines))))
    assert check(source) == ["photos.jsonl, line 3: not JSON (Expecting ',' delimiter at column 21)"]
    assert source[3].answers == ("a dog, seated",)


def test_a_json_list_that_breaks_on_a_line(write: Write) -> None:
    with pytest.raises(ValueError, match=r"photos.json, line 3: not JSON \(Expecting ',' delimiter at column \d+\)"):
        read(str(write("photos.json", '[\n{"image": "cat.png",\n"caption" "a cat"}]'.replace('"caption" ', '"caption": "x" '))))


def test_a_file_that_is_no_text(write: Write) -> None:
    with pytest.raises(ValueError, match=r"photos.jsonl, line 1: not UTF-8 text \(byte 0xff at 0\)"):
        read(str(write("photos.jsonl", b"\xff\x00")))
    with pytest.raises(ValueError, match=r"photos.json, line 1: JSON nested too deeply|photos.json: JSON nested too deeply"):
        read(str(write("photos.json", "[" * 100_000)))


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        (
            "a.jsonl",
            CAPTIONS[0],
            "one JSON object with 'image', 'caption'; expected a JSON list of records, or one on each line",
        ),
        ("a.json", {"1": CAPTIONS[0], "2": CAPTIONS[1]}, "one JSON object with '1', '2'; expected a JSON list of records"),
        ("a.json", {"about": "x", "data": CAPTIONS}, "or one on each line; the records may be in 'data'"),
        ("a.json", {"version": 1}, "one JSON object with 'version'"),
    ],
)
def test_an_object_over_many_lines_is_said_to_be_one(write: Write, name: str, value: Any, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        read(str(write(name, json.dumps(value, indent=2))))
    assert str(error.value).startswith(f"{name}: ")
    assert complaint in str(error.value)


def test_records_over_several_lines_are_said_to_be_so(write: Write) -> None:
    with pytest.raises(UserError, match=r"^a\.jsonl: its first record stands on several lines; expected one JSON"):
        read(str(write("a.jsonl", "\n".join(json.dumps(record, indent=1) for record in CAPTIONS))))


def test_another_encoding_is_named(write: Write) -> None:
    for name, encoding in (("a.json", "utf-16"), ("a.jsonl", "utf-16-le")):
        content = json.dumps(CAPTIONS if name == "a.json" else CAPTIONS[0])
        with pytest.raises(UserError, match="UTF-16 text; save it as UTF-8"):
            read(str(write(name, ("" if encoding == "utf-16" else "\ufeff").encode(encoding) + content.encode(encoding))))


@pytest.mark.parametrize(
    "text", ["9" * 5000, "1e999", "NaN", '{"image": ' + "9" * 5000 + "}", "[" * 5000, '"' + "\\ud800" * 3 + '"']
)
def test_odd_json_is_a_bad_sample(write: Write, text: str) -> None:
    source = read(f"captions:{write('a.jsonl', json.dumps(CAPTIONS[0]) + chr(10) + text)}")
    assert source[0].answers == ("a cat",)
    with pytest.raises(BadSample, match=r"^a\.jsonl, line 2"):
        source[1]
