"""A JSON list in windows: the same elements, and the same complaints, wherever a window ends."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mplug_owl.data.sources import json_list
from mplug_owl.data.sources.json_list import elements
from mplug_owl.errors import UserError
from tests.data.sources.conftest import Write
from tests.data.sources.test_json_file import JSON

ODD = [1.5e-7, 12345678901, 'é\\"\n\U0001f600', {"a b": ["", {}]}, None, True, float("-inf"), "x" * 40]


def parts(path: Path) -> list[Any]:
    raw = path.read_bytes()
    return [json.loads(raw[start:end]) for start, end, _ in elements(path, path.name)]


@settings(max_examples=40)
@given(
    values=st.lists(JSON | st.floats(allow_nan=False) | st.sampled_from(ODD), max_size=6),
    indent=st.none() | st.integers(0, 9),
    ascii_only=st.booleans(),
    window=st.integers(1, 60),
)
def test_elements_are_the_same_wherever_a_window_ends(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], indent: int | None, ascii_only: bool, window: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "windows.json"
    written = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "replace")
    path.write_bytes(b"\xef\xbb\xbf" * ascii_only + b" \r\n" + written + b"\n" * window)
    with patch.object(json_list, "WINDOW", window):
        assert parts(path) == json.loads(written)


@settings(max_examples=60)
@given(data=st.data(), window=st.integers(1, 60))
def test_complaints_are_the_same_wherever_a_window_ends(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, window: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "windows.json"
    letters = list(json.dumps(ODD, indent=data.draw(st.none() | st.integers(0, 2)), ensure_ascii=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 2))):
        letters[data.draw(st.integers(1, len(letters) - 1))] = data.draw(st.sampled_from([*'],[ "1{}\\u\n', "", ", "]))
    text = "".join(letters)
    path.write_text(text, "utf-8")
    with patch.object(json_list, "WINDOW", window):
        assert outcome(lambda: parts(path)) == outcome(lambda: json.loads(text))


def outcome(read: Callable[[], Any]) -> Any:
    """The list that is read, or what is complained about."""
    try:
        return read()
    except json.JSONDecodeError as error:
        return f"windows.json, line {error.lineno}: not JSON ({error.msg} at column {error.colno})"
    except UserError as error:
        return str(error)


def test_what_is_no_text_is_named_with_its_byte(write: Write) -> None:
    path = write("a.json", b"\xef\xbb\xbf" + b'["' + "\u00e9".encode() * 10 + b'\xff"]')
    for window in (1, 4, 100):
        with (
            patch.object(json_list, "WINDOW", window),
            pytest.raises(UserError, match=r"^a\.json: not UTF-8 text \(byte 0xff at 25\)$"),
        ):
            parts(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[" * 100_000, "a.json: JSON nested too deeply"),
        ("[1, " + "9" * 5000 + "]", r"a.json: Exceeds the limit \(4300 digits\)"),
        (
            '["' + "x" * 300 + "\n" * 3,
            r"a.json, line 1: not JSON \(Unterminated string|a.json, line 1: not JSON \(Invalid control",
        ),
        ("[1] \n" + " " * 300 + "2", r"a.json, line 2: not JSON \(Extra data at column 301\)"),
    ],
)
def test_what_cannot_be_read_is_refused_in_any_window(write: Write, text: str, complaint: str) -> None:
    path = write("a.json", text)
    for window in (64, 2**20):
        with patch.object(json_list, "WINDOW", window), pytest.raises(UserError, match=f"^{complaint}"):
            parts(path)


def test_a_damaged_record_is_named_before_the_rest_is_read(write: Write) -> None:
    """Of a file of any size a damaged record keeps no more in memory than itself and a window."""
    path = write(
        "a.json", "[" + '{"image": "cat.png"},\n' * 50 + '{"image" "dog.png"},\n' + '{"image": "cat.png"},\n' * 5000 + "1]"
    )
    read_on = json_list._Window.read_on
    with (
        patch.object(json_list, "WINDOW", 256),
        patch.object(json_list._Window, "read_on", autospec=True, side_effect=read_on) as calls,
        pytest.raises(UserError, match=r"^a\.json, line 51: not JSON \(Expecting ':' delimiter at column 10\)$"),
    ):
        parts(path)
    assert calls.call_count < 10
