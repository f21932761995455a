"""Records of every format become conversations; a wrong one says what would be right."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mplug_owl import Picture
from mplug_owl.conversation import OWL as OWL_STYLE
from mplug_owl.conversation import SYSTEM_PROMPT
from mplug_owl.data.sources import check, read
from mplug_owl.data.sources.formats import CONVERTERS, FIELDS, Mixed
from mplug_owl.data.sources.records import Listed
from mplug_owl.data.sources.source import FileSource
from mplug_owl.errors import BadSample
from tests.data.sources.conftest import Write
from tests.data.sources.samples import ALPACA, BAIZE, CAPTIONS, CHAT, LLAVA, MESSAGE, OWL, RECORDS, SHAREGPT, broken, said
from tests.tiny import picture


def test_captions(write: Write, tmp_path: Path) -> None:
    source = read(str(write("photos.jsonl", CAPTIONS)))
    assert source[0].messages == said(("user", Picture(tmp_path / "cat.png")), ("assistant", "a cat"))
    assert source[1].pictures == (Picture(tmp_path / "images" / "dog.png"),)
    assert (source[1].style, source[1].system, source[1].name) == (OWL_STYLE, None, "photos.jsonl, line 2")


def test_owl_keeps_the_prompt_as_it_is(write: Write, tmp_path: Path) -> None:
    source = read(str(write("train.jsonl", OWL)))
    assert source[0].prompt(reply=False) == OWL[0]["text"]
    assert source[0].pictures == (Picture(tmp_path / "cat.png"),)


def test_text_is_one_learned_piece_a_document(write: Write) -> None:
    source = read(str(write("book.txt", "One\nline.\n\n\n  \nTwo.\r\n\r\nThree.")))
    assert [source[i].prompt(reply=False) for i in range(len(source))] == ["One\nline.", "Two.", "Three."]
    assert [piece.supervised for piece in source[0].pieces()] == [True]
    assert source[1].name == "book.txt, line 6"


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


@pytest.mark.parametrize(
    ("name", "record", "complaint"),
    [
        ("captions", broken(CAPTIONS[0], caption=None), "no field 'caption'; it has 'image'"),
        ("captions", broken(CAPTIONS[0], image=None), "no field 'image'; it has 'caption'"),
        ("captions", broken(CAPTIONS[0], caption={}), "field 'caption' is an object; expected text"),
        ("captions", broken(CAPTIONS[0], image=[["cat.png"]]), "an image is a list; expected a file's path"),
        ("captions", broken(CAPTIONS[0], caption=" "), "no words to learn; the text is empty"),
        ("captions", broken(CAPTIONS[0], caption="<image> a cat"), "<image> inside a caption"),
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


def test_the_originals_own_lines(shared: Path) -> None:
    if not (path := shared / "parity" / "train.jsonl").is_file():
        pytest.skip(f"{path} is not here")
    assert check(read(str(path))) == ["train.jsonl, line 12: no answer to learn; expected at least one with words in it"]


def test_several_captions_are_one_answer_in_other_wordings(write: Write) -> None:
    for name in ("caption", "captions"):
        talk = read(str(write("a.jsonl", [{"image": "cat.png", name: ["a cat", " ", "one cat "]}])))[0]
        assert talk.answers == ("a cat",)
        assert talk.messages[1].alternatives == ("one cat",)


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"answer": 1}, ("1",)),
        ({"answer": 0.5}, ("0.5",)),
        ({"answer": True}, ("true",)),
        ({"answer": False}, ("false",)),
        ({"answer": ["blue", "navy", 7]}, ("blue", "navy", "7")),
        ({"label": ["1"]}, ("1",)),
        ({"answers": ["yes", "yes", "no"]}, ("yes", "yes", "no")),
        ({"answer": None, "answers": ["yes"]}, ("yes",)),
        ({"answers": ["yes", "no"], "multiple_choice_answer": "no"}, ("no",)),
    ],
)
def test_answers_of_every_kind(write: Write, fields: dict[str, Any], answers: tuple[str, ...]) -> None:
    source = read(str(write("a.jsonl", [{"image": "cat.png", "question": "Which?", **fields}])))
    assert source.name.startswith("questions:")
    reply = source[0].messages[-1]
    assert (reply.text, *reply.alternatives) == answers


@pytest.mark.parametrize(
    ("question", "prompt"),
    [
        ("What?", "Human: <image>\nHuman: What?"),
        ("<image>\nWhat?", "Human: <image>\nHuman: What?"),
        ("What?\n<image>", "Human: <image>\nHuman: What?"),
        ("Is <image> a cat?", "Human: Is <image> a cat?"),
    ],
)
def test_a_mark_in_a_question_is_the_pictures_position(write: Write, question: str, prompt: str) -> None:
    talk = read(str(write("a.jsonl", [{"image": "cat.png", "question": question, "answer": "Yes."}])))[0]
    assert talk.prompt(reply=False) == f"{SYSTEM_PROMPT}\n{prompt}\nAI: Yes."
    assert len(talk.pictures) == 1


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        ({"question": "<image> or <image>?", "answer": "x"}, "2 <image> in the text but 1 images"),
        ({"question": "What?", "answer": "<image>"}, "<image> inside an answer"),
        ({"question": "What?", "answer": "x", "history": 7}, "field 'history' is a number; expected a list"),
        ({"question": "What?", "answer": float("nan")}, "field 'answer' is NaN; expected text"),
        ({"question": "What?", "answer": {"a": 1}}, "field 'answer' is an object; expected text"),
        ({"question": "What?", "answer": []}, "no answer to learn"),
        ({"question": 7, "answer": "x"}, "field 'question' is a number; expected text"),
        ({"question": "What?", "answer": "x", "image": float("nan")}, "an image is NaN; expected a file's path"),
    ],
)
def test_a_wrong_question(write: Write, record: dict[str, Any], complaint: str) -> None:
    (problem,) = check(read(f"questions:{write('a.jsonl', [{'image': 'cat.png', **record}])}"))
    assert complaint in problem


@pytest.mark.parametrize(
    ("fields", "is_refused"),
    [
        ({"choices": ["red", "blue"], "answer": 1}, True),
        ({"options": ["red", "blue"], "answer": "B"}, True),
        ({"options": "['red', 'blue']", "answer": "(B)"}, True),
        ({"choices": ["red", "blue"], "answer": "blue"}, False),
        ({"choices": [2, 3], "answer": 3}, False),
        ({"choices": [], "answer": "B"}, False),
        ({"choices": ["red", "blue"], "answer": "B", "A": "red", "B": "blue"}, False),
        ({"choices": ["red", "blue"], "answer": "B", "question": "Which? (A) red (B) blue"}, False),
    ],
)
def test_an_answer_that_names_an_option_nobody_sees_is_refused(write: Write, fields: dict, is_refused: bool) -> None:
    record = {"image": "cat.png", "question": "Which?", **fields}
    problems = check(read(f"questions:{write('a.jsonl', [record])}"))
    assert ["which are not shown" in problem for problem in problems] == [True] * is_refused


def test_several_pictures_of_one_caption(write: Write) -> None:
    talk = read(str(write("a.jsonl", [{"image": ["cat.png", "dog.png"], "caption": "both"}])))[0]
    assert len(talk.pictures) == 2
    assert talk.prompt(reply=False) == "Human: <image>\nHuman: <image>\nAI: both"


def test_the_originals_pictures_without_a_mark_stand_in_front(write: Write) -> None:
    talk = read(f"owl:{write('a.jsonl', [{'image': ['cat.png'], 'text': 'Human: What?' + chr(10) + 'AI: A cat.'}])}")[0]
    assert talk.prompt(reply=False) == "Human: <image>\nHuman: What?\nAI: A cat."


def test_a_role_mark_without_its_space_is_no_silent_loss(write: Write) -> None:
    (problem,) = check(read(f"owl:{write('a.jsonl', [{'text': 'Human: Hi' + chr(10) + 'AI:Hello.'}])}"))
    assert "'AI:' begins a line without a space after it; expected 'AI: '" in problem


def test_a_field_that_has_a_value_is_taken(write: Write, tmp_path: Path) -> None:
    for empty in (None, float("nan"), ""):
        record = {"image": empty, "file_name": "cat.png", "caption": empty, "text": "a cat"}
        talk = read(str(write("a.jsonl", [record])))[0]
        assert (talk.answers, talk.pictures) == (("a cat",), (Picture(tmp_path / "cat.png"),))


NAMES = ["type", "text", "role", "from", "value", "content", "user", "image"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("<image>") | st.just("cat.png"),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inside, max_size=4),
    max_leaves=6,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=st.dictionaries(st.sampled_from(sorted(FIELDS)), ANYTHING, max_size=5), name=st.sampled_from(sorted(CONVERTERS)))
def test_whatever_a_record_holds_it_is_a_conversation_or_a_bad_sample(
    tmp_path: Path, record: dict[str, Any], name: str
) -> None:
    """Nothing else is raised, however odd the record is: a programmer's mistake would be."""
    picture(0).save(tmp_path / "cat.png")
    with contextlib.suppress(BadSample):
        talk = FileSource("any", Listed(tmp_path / "a.json", [record]), Mixed(name))[0]
        assert any(answer.strip() for answer in talk.answers)
        talk.prompt().encode()
