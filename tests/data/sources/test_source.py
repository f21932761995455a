"""Sources: records are read when asked for, and whatever is wrong with one is a BadSample."""

import pickle
import struct
import zlib
from pathlib import Path

import pytest

from mplug_owl import Conversation
from mplug_owl.conversation import caption
from mplug_owl.data import inspect
from mplug_owl.data.sources import check, read
from mplug_owl.data.sources.formats import text
from mplug_owl.data.sources.location import Location
from mplug_owl.data.sources.source import FileSource, in_turn
from mplug_owl.data.survey import READ_THROUGH, Survey
from mplug_owl.errors import BadSample, UserError
from tests.data.sources.conftest import Write
from tests.data.sources.samples import CAPTIONS


def test_records_are_read_when_asked_for(write: Write) -> None:
    path = write("photos.jsonl", CAPTIONS)
    source = read(f"captions:{path}")
    path.write_bytes(path.read_bytes().replace(b"a cat", b"A CAT"))
    assert source[0].answers == ("A CAT",)


def test_a_source_travels_to_worker_processes(write: Write) -> None:
    for path in (write("photos.jsonl", CAPTIONS), write("photos.csv", "image,caption\ncat.png,a cat"), write("a.txt", "One.")):
        source = read(str(path))
        assert pickle.loads(pickle.dumps(source))[0] == source[0]


def test_an_index_beyond_the_last_ends_a_loop(write: Write) -> None:
    source = read(str(write("photos.jsonl", CAPTIONS)))
    assert source[-1] == source[1]
    with pytest.raises(IndexError):
        source[2]
    assert len(list(source)) == 2


class Broken:
    """Two records; reading the second raises `error`."""

    folder = Path()

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, str]:
        if index:
            raise self.error
        return {"text": "Fine."}

    def location(self, index: int) -> str:
        return f"a.xyz, row {index + 1}"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        OSError(5, "Input/output error"),
        RuntimeError("bad"),
        struct.error("bad"),
        EOFError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        RecursionError("too deep"),
        NotImplementedError("no such type"),
        OverflowError("too large"),
        zlib.error("bad"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_is_a_bad_sample(error: Exception) -> None:
    source = FileSource("text:a.xyz", Broken(error), text)
    assert source[0].answers == ("Fine.",)
    with pytest.raises(BadSample, match=r"^a\.xyz, row 2: cannot be read \(.+\)$"):
        source[1]
    assert len(check(source)) == 1


def test_a_store_that_does_not_answer_is_no_records_fault() -> None:
    source = FileSource("text:a.xyz", Broken(UserError("s3://a: cannot be fetched")), text)
    with pytest.raises(UserError, match=r"^s3://a: cannot be fetched$"):
        check(source)


@pytest.mark.parametrize("error", [ValueError("zip() argument 2 is shorter"), KeyError("x"), TypeError("x")])
def test_a_mistake_of_ours_is_no_records_fault(error: Exception) -> None:
    def mistaken(record: object, location: Location) -> Conversation:
        raise error

    source = FileSource("text:a.xyz", Broken(ValueError()), mistaken)
    with pytest.raises(type(error)) as raised:
        source[0]
    assert raised.value is error


class Far:
    """A source that notes what it is told and refuses to give what it was not told of."""

    name = "far"

    def __init__(self, size: int) -> None:
        self.size, self.expected = size, list[int]()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Conversation:
        assert index in self.expected, index
        return caption("nowhere.png", f"number {index}")

    def expect(self, indices: list[int], nearby: bool = False) -> None:
        assert not nearby
        self.expected += indices


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 8, 9, 12, 13])
def test_each_is_told_once_and_not_all_at_once(count: int) -> None:
    source, indices = Far(100), list(range(0, 5 * count, 5))
    for done, index in enumerate(in_turn(source, indices, ahead=4)):
        assert source[index]
        assert len(source.expected) - done <= 8
    assert source.expected == indices


def test_a_source_that_does_not_listen_is_read_all_the_same() -> None:
    assert list(in_turn(range(5), [3, 1])) == [3, 1]


def test_checks_surveys_and_inspection_say_what_they_will_read() -> None:
    source = Far(READ_THROUGH + 1)
    assert len(check(source, indices=range(0, 5000, 100))) == 50  # there is no such picture
    assert Survey([source]).pictured == [1.0]
    assert inspect._readable(source, source.expected[0]) is not None
