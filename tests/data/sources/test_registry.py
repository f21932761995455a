"""One door for data: every format is recognised, every kind of broken file told from the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from mplug_owl.data.sources import FORMATS, check, read
from mplug_owl.errors import UserError
from tests.data.sources.conftest import Write
from tests.data.sources.samples import ALPACA, CAPTIONS, CHAT, LLAVA, RECORDS, SHAREGPT


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("name", RECORDS)
def test_a_format_is_recognised_from_its_content(write: Write, name: str, ending: str) -> None:
    path = write(f"data.{ending}", RECORDS[name])
    recognised, named = read(str(path)), read(f"{name}:{path}")
    assert recognised.name == named.name == f"{name}:{path}"
    assert [recognised[i] for i in range(len(recognised))] == [named[i] for i in range(len(named))]
    assert len(named) == 2
    assert check(named) == []


def test_a_byte_order_mark_is_no_letter(write: Write) -> None:
    assert len(read(str(write("photos.csv", b"\xef\xbb\xbfimage,caption\ncat.png,a cat")))) == 1
    assert len(read(str(write("photos.jsonl", b'\xef\xbb\xbf{"image": "cat.png", "caption": "a cat"}')))) == 1
    assert len(read(str(write("photos.json", b'\xef\xbb\xbf[{"image": "cat.png", "caption": "a cat"}]')))) == 1


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no format is called 'blip'; there are webdataset, coco, captions, .*, text$"):
        read("blip:photos.json")


@pytest.mark.parametrize(("spec", "complaint"), [("", "no data is named"), ("llava:", "expected llava:PATH")])
def test_a_spec_without_a_path(spec: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(spec)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "scenes"])  # which are drawn
def test_a_missing_file(name: str, tmp_path: Path) -> None:
    for path in (tmp_path / "no.jsonl", tmp_path / "no.csv", tmp_path / "no.txt"):
        with pytest.raises(ValueError, match=r"no\.\w+: no such file"):
            read(f"{name}:{path}")
        with pytest.raises(ValueError, match=r"no\.\w+: no such file"):
            read(str(path))


@pytest.mark.parametrize("name", ["empty.json", "empty.jsonl", "empty.csv", "empty.txt"])
def test_an_empty_file(write: Write, name: str) -> None:
    with pytest.raises(ValueError, match="the file is empty"):
        read(str(write(name, "")))
    with pytest.raises(ValueError, match="no records in the file"):
        read(str(write(name, "\n \n")))


@pytest.mark.parametrize(("name", "content"), [("none.json", "[]"), ("none.csv", "image,caption\n")])
def test_a_file_without_records(write: Write, name: str, content: str) -> None:
    with pytest.raises(ValueError, match="no records in the file"):
        read(str(write(name, content)))


def test_a_folder_that_is_no_owleval(tmp_path: Path) -> None:
    for spec in (str(tmp_path), f"captions:{tmp_path}", f"owleval:{tmp_path}"):
        with pytest.raises(ValueError, match=r"a folder; expected|no questions\.jsonl"):
            read(spec)


def test_a_file_that_is_not_recognised(write: Write) -> None:
    with pytest.raises(ValueError, match=r"data.json, record 1: no known format has the fields 'a', 'b'; name the format"):
        read(str(write("data.json", [{"a": 1, "b": 2}])))
    with pytest.raises(ValueError, match=r"README.md, line 1: not JSON .*; name the format in front"):
        read(str(write("README.md", "# Title")))
    with pytest.raises(ValueError, match=r"data.json, record 1: a number; expected an object"):
        read(str(write("data.json", [1, 2])))


def test_the_first_record_of_a_mixed_file_does_not_decide_about_the_others(write: Write) -> None:
    source = read(str(write("mix.jsonl", [ALPACA[0], CAPTIONS[0], CHAT[0], LLAVA[0], SHAREGPT[0]])))
    assert source.name.startswith("alpaca:")
    assert check(source) == []
    assert [len(source[index].pictures) for index in range(5)] == [0, 1, 1, 1, 0]
    assert check(read(f"text:{write('text.jsonl', [{'text': 'One.'}, {'text': 'Human: Hi'}])}")) == []


def test_a_whole_that_is_no_list_of_records_is_said_to_be_so(write: Write) -> None:
    annotations = {"annotations": [{"image_id": "2", "caption": "red"}]}
    with pytest.raises(UserError, match="annotations without images, as MiniGPT-4 has them"):
        read(str(write("filter_cap.json", json.dumps(annotations, indent=1))))
    with pytest.raises(UserError, match="annotations without images, as MiniGPT-4 has them"):
        read(str(write("filter_cap.json", json.dumps(annotations))))


def test_lines_that_begin_as_coco_does_are_no_coco(write: Write) -> None:
    rows = [
        {"images": ["cat.png"], "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
    ]
    for count in (1, 2):
        assert read(str(write("chats.jsonl", rows * count))).name.startswith("chat:")


@pytest.mark.parametrize("spec", ["x" * 5000, "captions:" + "x" * 5000, "~nobody-of-this-name/a.jsonl", "a\0b.jsonl", "~"])
def test_names_that_no_file_has(spec: str) -> None:
    with pytest.raises(UserError) as error:
        read(spec)
    assert len(str(error.value)) < 1000


def test_a_file_that_may_not_be_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is played: whoever tests as root may read everything."""
    path, opened = write("a.jsonl", CAPTIONS), Path.open

    def refused(self: Path, *how: Any, **more: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *how, **more)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"a\.jsonl: Permission denied"):
        read(str(path))


def test_damaged_records_in_front_do_not_hide_the_format(write: Write) -> None:
    lines = ["{", "7", '{"a": 1}', *map(json.dumps, CAPTIONS)]
    source = read(str(write("a.jsonl", "\n".join(lines))))
    assert source.name.startswith("captions:")
    assert [problem.partition(":")[0] for problem in check(source)] == [f"a.jsonl, line {line}" for line in (1, 2, 3)]
    source = read(str(write("a.csv", "image,question,answer\nonly one\ncat.png,What?,A cat.\n")))
    assert source.name.startswith("questions:")
    assert check(source) == ["a.csv, line 2: 1 cells but 3 columns (image, question, answer)"]


@pytest.mark.parametrize("name", ["o" * 300, "o/" * 3_000, "~nobody/a.json", "a\0.json", "half \ud800.json"])
def test_a_name_of_no_file_is_one_sentence(name: str) -> None:
    for spec in (name, *(f"{kind}:{name}" for kind in FORMATS if kind not in ("hub", "scenes"))):
        with pytest.raises(UserError, match=r"^[^\n]+$"):
            read(spec)
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        read("scenes:captions", image_root=name)


def test_a_file_without_read_permission_is_one_sentence(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("photos.jsonl", CAPTIONS)

    def refused(*how: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"photos\.jsonl: Permission denied"):
        read(str(path))


def test_a_number_of_hundreds_of_digits_is_an_answer(write: Write) -> None:
    assert read(str(write("a.jsonl", [{"instruction": "?", "output": 10**400}])))[0].answers == (str(10**400),)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,text\n1,hello\n2,world\n"),
        ("a.tsv", "id\ttext\n1\thello\n2\tworld\n"),
        ("a.ndjson", '{"text": "hello"}\n{"text": "world"}\n'),
    ],
)
def test_rows_of_text_are_no_document(write: Write, name: str, content: str) -> None:
    path = write(name, content)
    for spec in (str(path), f"text:{path}"):
        source = read(spec)
        assert [source[index].answers for index in range(len(source))] == [("hello",), ("world",)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_questions_with_ids_are_no_owleval(write: Write, name: str) -> None:
    record = {"question_id": 1, "image": "cat.png", "question": "What?", "answer": "A cat."}
    table = "question_id,image,question,answer\n1,cat.png,What?,A cat.\n"
    source = read(str(write(name, table if name == "a.csv" else [record])))
    assert (source.name.partition(":")[0], source[0].answers) == ("questions", ("A cat.",))
