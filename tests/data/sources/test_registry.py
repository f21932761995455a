"""One door for data: every format read, every kind of broken file told from the others."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mplug_owl import Conversation, Message, Picture
from mplug_owl.conversation import OWL as OWL_STYLE
from mplug_owl.conversation import SYSTEM_PROMPT
from mplug_owl.data.sources import FORMATS, check, checks, read
from mplug_owl.data.sources.json_file import read_json
from mplug_owl.errors import BadSample
from tests.tiny import picture

Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file beside two pictures: text as it is, a list as a JSON list or, for .jsonl, as JSON lines."""
    picture(0).save(tmp_path / "cat.png")
    (tmp_path / "images").mkdir()
    picture(1).save(tmp_path / "images" / "dog.png")

    def write(name: str, content: Any) -> Path:
        if isinstance(content, list):
            lines = [json.dumps(record) for record in content]
            content = "\n".join(lines) if name.endswith(".jsonl") else json.dumps(content, indent=1)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return write


def said(*turns: tuple[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(role, parts if isinstance(parts, tuple) else (parts,)) for role, parts in turns)


CAPTIONS = [{"image": "cat.png", "caption": "a cat"}, {"image": "dog.png", "caption": "a dog, seated"}]
LLAVA = [
    {
        "id": "1",
        "image": "cat.png",
        "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}],
    },
    {"id": "2", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello!"}]},
]
OWL = [
    {
        "image": ["cat.png"],
        "text": f"{SYSTEM_PROMPT}\nHuman: <image>\nHuman: What is it?\nAI: A cat.",
        "task_type": "llava_sft",
    },
    {"text": "Human: Hello\nAI: Hello!"},
]
CHAT = [
    {
        "messages": [
            {"role": "user", "content": [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": "A cat."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello!"}]},
        ]
    },
]
SHAREGPT = [
    {"id": "a_0", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello!"}]},
    {
        "id": "a_1",
        "conversations": [
            {"from": "gpt", "value": "an answer to what is in part 0"},
            {"from": "human", "value": "What does <image> mean in HTML?"},
            {"from": "gpt", "value": "Nothing; it is <img>."},
        ],
    },
]
ALPACA = [
    {"instruction": "Give three tips for staying healthy.", "input": "", "output": "Eat, sleep, walk."},
    {"instruction": "Classify the animal.", "input": "Owl", "output": "A bird."},
]
OPENING = "The conversation between human and AI assistant.\n"
BAIZE = [
    {
        "topic": "a",
        "input": f"{OPENING}[|Human|] Hello\n[|AI|] Hello!\nHow are you?\n[|Human|] Well.\n[|AI|] Good.\n[|Human|] ",
    },
    {"topic": "b", "input": f"{OPENING}[|Human|] What is [|AI|] in a line?\n[|AI|] A mark."},
]
TEXT = [{"text": "One document."}, {"text": "Another."}]
RECORDS = {
    "captions": CAPTIONS,
    "llava": LLAVA,
    "owl": OWL,
    "chat": CHAT,
    "text": TEXT,
    "sharegpt": SHAREGPT,
    "alpaca": ALPACA,
    "baize": BAIZE,
}


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("name", RECORDS)
def test_a_format_is_recognised_from_its_content(write: Write, name: str, ending: str) -> None:
    path = write(f"data.{ending}", RECORDS[name])
    recognised, named = read(str(path)), read(f"{name}:{path}")
    assert recognised.name == named.name == f"{name}:{path}"
    assert [recognised[i] for i in range(len(recognised))] == [named[i] for i in range(len(named))]
    assert len(named) == 2
    assert check(named) == []


def test_captions(write: Write, tmp_path: Path) -> None:
    source = read(str(write("photos.jsonl", CAPTIONS)))
    assert source[0].messages == said(("user", Picture(tmp_path / "cat.png")), ("assistant", "a cat"))
    assert source[1].pictures == (Picture(tmp_path / "images" / "dog.png"),)
    assert (source[1].style, source[1].system, source[1].name) == (OWL_STYLE, None, "photos.jsonl, line 2")


@pytest.mark.parametrize(("ending", "comma"), [("csv", ","), ("tsv", "\t")])
def test_captions_in_a_table(write: Write, ending: str, comma: str) -> None:
    rows = [("image", "caption"), ("cat.png", '"a cat\non two ""lines"""'), ("dog.png", "un café")]
    source = read(str(write(f"photos.{ending}", "\r\n".join(comma.join(row) for row in rows))))
    assert [source[i].answers for i in range(len(source))] == [('a cat\non two "lines"',), ("un café",)]
    assert source[1].name == f"photos.{ending}, line 4"


def test_llava(write: Write, tmp_path: Path) -> None:
    source = read(str(write("llava.json", LLAVA)))
    assert source[0].messages == said(("user", (Picture(tmp_path / "cat.png"), "What is it?")), ("assistant", "A cat."))
    assert source[0].prompt(reply=False) == OWL[0]["text"]
    assert source[1].pictures == ()


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("What is it?\n<image>", (Picture, "What is it?")),
        ("<image>", (Picture,)),
        ("Is it <image> or\nnot?", ("Is it ", Picture, " or\nnot?")),
    ],
)
def test_llavas_pictures_come_in_front_unless_words_surround_them(write: Write, value: str, parts: tuple) -> None:
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "Yes."}]
    talk = read(str(write("llava.json", [{"image": "cat.png", "conversations": turns}])))[0]
    assert tuple(Picture if isinstance(part, Picture) else part for part in talk.messages[0].parts) == parts


def test_owl_keeps_the_prompt_as_it_is(write: Write, tmp_path: Path) -> None:
    source = read(str(write("train.jsonl", OWL)))
    assert source[0].prompt(reply=False) == OWL[0]["text"]
    assert source[0].pictures == (Picture(tmp_path / "cat.png"),)


def test_chat(write: Write, tmp_path: Path) -> None:
    source = read(str(write("chats.jsonl", CHAT)))
    assert source[0].messages == said(("user", (Picture(tmp_path / "cat.png"), "What is it?")), ("assistant", "A cat."))


def test_chat_with_its_images_beside_the_messages(write: Write, tmp_path: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "and"}, {"type": "image"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Two."}]
    record = {"messages": messages, "images": ["cat.png", "dog.png"]}
    talk = read(str(write("chats.jsonl", [record])))[0]
    assert talk.pictures == (Picture(tmp_path / "cat.png"), Picture(tmp_path / "images" / "dog.png"))
    with pytest.raises(ValueError, match="2 image parts in the messages but 1 images"):
        read(str(write("chats.jsonl", [{**record, "images": ["cat.png"]}])))[0]


def test_sharegpt_is_words_alone(write: Write) -> None:
    source = read(str(write("vicuna.json", SHAREGPT)))
    assert source[0].prompt(reply=False) == f"{SYSTEM_PROMPT}\nHuman: Hello\nAI: Hello!"
    assert source[1].messages == said(("user", "What does <image> mean in HTML?"), ("assistant", "Nothing; it is <img>."))
    turns = [{"from": "system", "value": "Be brief."}, *SHAREGPT[0]["conversations"]]
    assert read(f"sharegpt:{write('vicuna.jsonl', [{'conversations': turns}])}")[0].system == "Be brief."


def test_alpacas_input_stands_below_the_instruction(write: Write) -> None:
    source = read(str(write("alpaca.json", ALPACA)))
    assert source[0].messages == said(("user", "Give three tips for staying healthy."), ("assistant", "Eat, sleep, walk."))
    assert source[1].prompt(reply=False) == f"{SYSTEM_PROMPT}\nHuman: Classify the animal.\nOwl\nAI: A bird."


def test_baize(write: Write) -> None:
    source = read(str(write("baize.json", BAIZE)))
    assert source[0].messages == said(
        ("user", "Hello"), ("assistant", "Hello!\nHow are you?"), ("user", "Well."), ("assistant", "Good.")
    )
    assert source[0].system == SYSTEM_PROMPT
    assert source[1].messages == said(("user", "What is [|AI|] in a line?"), ("assistant", "A mark."))


def test_text_is_one_learned_piece_a_document(write: Write) -> None:
    source = read(str(write("book.txt", "One\nline.\n\n\n  \nTwo.\r\n\r\nThree.")))
    assert [source[i].prompt(reply=False) for i in range(len(source))] == ["One\nline.", "Two.", "Three."]
    assert [piece.supervised for piece in source[0].pieces()] == [True]
    assert source[1].name == "book.txt, line 6"


@pytest.fixture
def owleval(tmp_path: Path) -> Path:
    """Two pictures and three questions, ids as text in the answers and another ending on the pictures."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "answer").mkdir()
    for number in (1, 2):
        picture(number).save(tmp_path / "cases" / f"{number}.jpg")
    questions = [
        {"image": f"{image}.png", "question_id": index, "question": f"Question {index}?"}
        for index, image in enumerate((1, 2, 2), 1)
    ]
    answers = [{"image": "x", "question_id": str(index), "answer": f"Answer {index}."} for index in (3, 1, 2)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (tmp_path / "answer" / "mPLUG_Owl_7b_answer.jsonl").write_text("\n".join(map(json.dumps, answers)))
    answers[1]["answer"] = "无法回溯"
    (tmp_path / "answer" / "other.jsonl").write_text("\n".join(map(json.dumps, answers)))
    return tmp_path


def test_owleval_is_one_conversation_a_picture(owleval: Path) -> None:
    for spec in (f"{owleval}", f"owleval:{owleval}", f"owleval:{owleval}/questions.jsonl", f"{owleval}/questions.jsonl"):
        source = read(spec)
        assert len(source) == 2
        assert source[1].messages == said(
            ("user", (Picture(owleval / "cases" / "2.jpg"), "Question 2?")),
            ("assistant", "Answer 2."),
            ("user", "Question 3?"),
            ("assistant", "Answer 3."),
        )


def test_owleval_leaves_out_what_a_system_could_not_answer(owleval: Path) -> None:
    source = read(f"owleval:{owleval}/answer/other.jsonl")
    assert [source[i].answers for i in range(len(source))] == [("Answer 2.", "Answer 3.")]


def test_owleval_says_what_is_missing(owleval: Path) -> None:
    (owleval / "cases" / "2.jpg").unlink()
    assert check(read(str(owleval)))[0].endswith(f"no picture 2.png, nor with another ending, in {owleval / 'cases'}")
    (owleval / "answer" / "mPLUG_Owl_7b_answer.jsonl").unlink()
    with pytest.raises(ValueError, match="no such file; name a file of answers"):
        read(str(owleval))


def test_the_real_owleval(shared: Path) -> None:
    if not (folder := shared / "owleval").is_dir():
        pytest.skip(f"{folder} is not here")
    for answers in sorted((folder / "answer").glob("*.jsonl")):
        source = read(f"owleval:{answers}")
        assert check(source, decode=False) == []
        talks = [source[i] for i in range(len(source))]
        if answers.name == "mPLUG_Owl_7b_answer.jsonl":
            assert len(talks) == 50
            assert sum(len(talk.answers) for talk in talks) == 82


def test_the_originals_own_lines(shared: Path) -> None:
    if not (path := shared / "parity" / "train.jsonl").is_file():
        pytest.skip(f"{path} is not here")
    assert check(read(str(path))) == ["train.jsonl, line 12: no answer to learn; expected at least one with words in it"]


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


def test_a_byte_order_mark_is_no_letter(write: Write) -> None:
    assert len(read(str(write("photos.csv", b"\xef\xbb\xbfimage,caption\ncat.png,a cat")))) == 1
    assert len(read(str(write("photos.jsonl", b'\xef\xbb\xbf{"image": "cat.png", "caption": "a cat"}')))) == 1
    assert len(read(str(write("photos.json", b'\xef\xbb\xbf[{"image": "cat.png", "caption": "a cat"}]')))) == 1


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


# What is wrong with a file as a whole


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


# What is wrong with one record


def broken(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A record with fields changed, or left out where the change is None."""
    return {key: value for key, value in {**record, **changes}.items() if value is not None}


MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("name", "record", "complaint"),
    [
        ("captions", broken(CAPTIONS[0], caption=None), "no field 'caption'; it has 'image'"),
        ("captions", broken(CAPTIONS[0], image=None), "no field 'image'; it has 'caption'"),
        ("captions", broken(CAPTIONS[0], caption={}), "field 'caption' is an object; expected text"),
        ("captions", broken(CAPTIONS[0], image=[["cat.png"]]), "an image is a list; expected a file's path"),
        ("captions", broken(CAPTIONS[0], caption=" "), "no words to learn; the text is empty"),
        ("captions", broken(CAPTIONS[0], image="gone.png"), "no picture gone.png; looked for "),
        ("captions", broken(CAPTIONS[0], image="https://example.com/a.png"), "pictures are read from files, not fetched"),
        ("captions", broken(CAPTIONS[0], caption="half \ud83e"), r"half a character, \ud83e, in 'half"),
        ("captions", ["cat.png", "a cat"], "a list; expected an object with the field 'image'"),
        ("llava", broken(LLAVA[0], conversations=None), "no field 'conversations'"),
        ("llava", broken(LLAVA[0], conversations="hi"), "field 'conversations' is text; expected a list"),
        ("llava", broken(LLAVA[0], conversations=["hi"]), "conversations[0]: text; expected an object with the field 'from'"),
        ("llava", broken(LLAVA[0], conversations=[{"from": "cat", "value": ""}]), "from 'cat'; expected human or gpt"),
        ("llava", broken(LLAVA[0], conversations=LLAVA[0]["conversations"][:1]), "no answer to learn"),
        ("llava", broken(LLAVA[0], image=None), "1 <image> in the text but 0 images"),
        ("llava", broken(LLAVA[0], image=7), "an image is a number; expected a file's path"),
        ("captions", broken(CAPTIONS[0], image=""), "an image is empty text; expected a file's path"),
        ("owl", broken(OWL[0], text=None), "no field 'text'"),
        ("owl", broken(OWL[0], text="Human: <image><image>\nAI: x"), "2 <image> in the text but 1 images"),
        ("owl", broken(OWL[1], text="Human: Hello\nAI: "), "no answer to learn"),
        ("owl", broken(OWL[1], text="Hello"), "no answer to learn"),
        ("chat", {"messages": MESSAGE}, "field 'messages' is an object; expected a list"),
        ("chat", {"messages": [MESSAGE]}, "no answer to learn"),
        ("chat", {"messages": [{**MESSAGE, "role": "cat"}]}, "message 0 has role 'cat'; expected system, user or assistant"),
        ("chat", {"messages": [{**MESSAGE, "content": [{"type": "image", "image": 7}]}]}, "an image is a number; expected"),
        ("chat", {"messages": CHAT[0]["messages"], "images": ["cat.png"]}, "0 image parts in the messages but 1 images"),
        ("sharegpt", {"conversations": [{"from": "human"}]}, "conversations[0]: no field 'value'; it has 'from'"),
        ("sharegpt", broken(SHAREGPT[0], conversations=[{"from": "cat", "value": ""}]), "from 'cat'; expected human or gpt"),
        ("sharegpt", broken(SHAREGPT[0], conversations=[]), "no answer to learn"),
        ("alpaca", broken(ALPACA[0], instruction=None), "no field 'instruction'"),
        ("alpaca", broken(ALPACA[0], output=""), "no answer to learn"),
        ("alpaca", broken(ALPACA[0], input=7), "field 'input' is a number; expected text"),
        ("baize", broken(BAIZE[0], input="Hello"), "no turns; expected [|Human|] and [|AI|] at the start of lines"),
        ("baize", broken(BAIZE[0], input="[|Human|] Hello\n[|AI|] "), "no answer to learn"),
        ("text", {"text": None}, "field 'text' is null; expected text"),
        ("text", {"text": ""}, "no words to learn"),
    ],
)
def test_a_wrong_record(write: Write, name: str, record: Any, complaint: str) -> None:
    good = RECORDS[name][0]
    problems = check(read(f"{name}:{write('data.jsonl', [good, record, good])}"))
    assert len(problems) == 1
    assert problems[0].startswith("data.jsonl, line 2")
    assert complaint in problems[0]


def test_a_table_with_a_wrong_row(write: Write) -> None:
    problems = check(read(str(write("photos.csv", "image,caption\ncat.png,a cat\ncat.png,a cat, seated\n"))))
    assert problems == ["photos.csv, line 3: 3 cells but 2 columns (image, caption)"]
    problems = check(read(str(write("photos.csv", "file,caption\ncat.png,a cat\n"))))
    assert problems == ["photos.csv, line 2: no field 'image'; it has 'file', 'caption'"]


def test_bad_pictures_are_found_before_training(write: Write, tmp_path: Path) -> None:
    whole = (tmp_path / "cat.png").read_bytes()
    for name, content in {"empty.png": b"", "words.png": b"not a picture " * 10, "cut.png": whole[: len(whole) - 40]}.items():
        (tmp_path / name).write_bytes(content)
    bad = [{"image": name, "caption": "?"} for name in ("empty.png", "words.png", "cut.png")]
    source = read(str(write("photos.jsonl", [*CAPTIONS, *bad])))
    problems = check(source)
    assert [problem.split(":")[0] for problem in problems] == [f"photos.jsonl, line {line}" for line in (3, 4, 5)]
    for problem, complaint in zip(problems, ("empty (0 bytes)", "words.png: ", "damaged or cut short"), strict=True):
        assert complaint in problem
    assert check(source, decode=False) == problems[:2]


def test_a_huge_picture_is_found_by_its_header(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_PIXELS", 100)
    problems = check(read(str(write("photos.jsonl", CAPTIONS[:1]))), decode=False)
    assert "40 x 30 is more than the 100 pixels allowed" in problems[0]


def test_other_sources_fit_the_door() -> None:
    class Mine:
        name = "mine"

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Conversation:
            raise BadSample(f"mine, {index}: broken")

    assert check(Mine()) == ["mine, 0: broken"]


def test_questions_of_a_table_are_about_its_pictures(write: Write) -> None:
    source = read(str(write("asked.csv", "image,question,answer\ncat.png,What is it?,A cat.\ncat.png,Where?,On a mat.")))
    assert source.name.startswith("questions:")
    assert [(len(talk.pictures), talk.messages[1].text, *talk.answers) for talk in (source[0], source[1])] == [
        (1, "What is it?", "A cat."),
        (1, "Where?", "On a mat."),
    ]
    assert read(str(write("asked.jsonl", [{"image": "cat.png", "question": "What?", "answer": "A cat."}])))[0].answers
    with pytest.raises(ValueError, match="no answer to learn"):
        read(str(write("empty.csv", "image,question,answer\ncat.png,What is it?,")))[0]
