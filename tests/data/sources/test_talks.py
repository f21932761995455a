"""Records of several turns: pictures in their positions, systems and histories used, all else refused by name."""

from pathlib import Path
from typing import Any

import pytest

from mplug_owl import Conversation, Picture
from mplug_owl.conversation import SYSTEM_PROMPT
from mplug_owl.data.sources import check, read
from tests.data.sources.conftest import Write
from tests.data.sources.samples import ALPACA, BAIZE, CAULDRON, CHAT, LLAVA, OWL, SHAREGPT, SWIFT, said


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


def pictured(talk: Conversation) -> str:
    """The prompt without the usual system sentence."""
    return talk.prompt(reply=False).removeprefix(f"{SYSTEM_PROMPT}\n")


def test_ms_swifts_query_and_response(write: Write) -> None:
    source = read(str(write("swift.jsonl", SWIFT)))
    assert source.name.startswith("swift:")
    assert pictured(source[0]) == "Human: <image>\nHuman: What is it?\nAI: A cat."
    assert pictured(source[1]) == "Be brief.\nHuman: What is it?\nAI: A cat.\nHuman: And now?\nAI: A dog."


def test_the_cauldrons_images_and_texts(write: Write) -> None:
    source = read(str(write("cauldron.jsonl", CAULDRON)))
    assert pictured(source[0]) == "Human: <image>\nHuman: What is it?\nAI: A cat."
    assert pictured(source[1]) == "Human: <image>\nHuman: <image>\nHuman: Which?\nAI: Both.\nHuman: Why?\nAI: So."


def turns(*words: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(words)]


def messages(*words: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(words)]


def in_every_layout(question: str, answer: str, **fields: Any) -> dict[str, dict[str, Any]]:
    """One question and its answer, as each layout of talks has them."""
    return {
        "llava": {"conversations": turns(question, answer), **fields},
        "chat": {"messages": messages(question, answer), **fields},
        "alpaca": {"instruction": question, "output": answer, **fields},
        "swift": {"query": question, "response": answer, **fields},
        "cauldron": {"texts": [{"user": question, "assistant": answer}], **fields},
    }


LAYOUTS = list(in_every_layout("", ""))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("question", "images", "prompt"),
    [
        ("<image>\nWhat?", ["cat.png"], "Human: <image>\nHuman: What?\nAI: A cat."),
        ("What?", ["cat.png"], "Human: <image>\nHuman: What?\nAI: A cat."),
        ("What?\n<image>", ["cat.png"], "Human: <image>\nHuman: What?\nAI: A cat."),
        ("What?", ["cat.png", "dog.png"], "Human: <image>\nHuman: <image>\nHuman: What?\nAI: A cat."),
        ("Is <image> like <image>?", ["cat.png", "dog.png"], "Human: Is <image> like <image>?\nAI: A cat."),
        ("<Image>\nWhat?", ["cat.png"], "Human: <image>\nHuman: What?\nAI: A cat."),
        ("What does <image> mean in HTML?", [], "Human: What does <image> mean in HTML?\nAI: A cat."),
        ("What?", None, "Human: What?\nAI: A cat."),
    ],
)
def test_pictures_stand_at_their_marks_or_in_front(
    write: Write, layout: str, question: str, images: list[str] | None, prompt: str
) -> None:
    record = in_every_layout(question, "A cat.", images=images)[layout]
    talk = read(f"{layout}:{write('a.jsonl', [record])}")[0]
    assert pictured(talk) == prompt
    assert len(talk.pictures) == len(images or [])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("question", "answer", "fields", "complaint"),
    [
        ("<image>What?", "A cat.", {}, "1 <image> in the text but 0 images"),
        ("What?\n<image>", "A cat.", {"images": []}, "1 <image> in the text but 0 images"),
        ("<image><image>What?", "A cat.", {"images": ["cat.png"]}, "2 <image> in the text but 1 images"),
        ("What?", "See <image>.", {"images": ["cat.png"]}, "<image> inside an answer"),
        ("What?", "A cat.", {"image": "dog.png", "images": ["cat.png"]}, "pictures in 'image' and others in 'images'"),
        ("What?", "A cat.", {"videos": ["a.mp4"]}, "has 'videos'; an owl sees pictures"),
        ("<video>What?", "A cat.", {"video": "a.mp4"}, "has 'video'; an owl sees pictures"),
        ("<audio>What?", "A cat.", {}, "<audio> in the text; an owl sees pictures"),
        ("What?", "A cat.", {"audios": ["a.wav"]}, "has 'audios'; an owl sees pictures"),
        ("What?", "A cat.", {"tools": "[{}]"}, "has 'tools'"),
        ("What?", "A cat.", {"image_path": "cat.png"}, "has 'image_path'; expected pictures in 'image' or 'images'"),
        ("What?", "A cat.", {"img": "cat.png", "image": None}, "has 'img'; expected pictures in 'image' or 'images'"),
        ("What?", "A cat.", {"rejected": "A dog."}, "preferences are not learned"),
        ("What?", "A cat.", {"system": ["Be brief."]}, "field 'system' is a list; expected text"),
        ("What?", "A cat.", {"history": "before"}, "field 'history' is text; expected a list"),
        ("What?", "A cat.", {"history": [["only one"]]}, "history[0]: a list; expected a pair"),
        ("What?", " ", {}, "no answer to learn"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(
    write: Write, layout: str, question: str, answer: str, fields: dict[str, Any], complaint: str
) -> None:
    record = in_every_layout(question, answer, **fields)[layout]
    (problem,) = check(read(f"{layout}:{write('a.jsonl', [record])}"))
    assert problem.startswith("a.jsonl, line 1")
    assert complaint in problem


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("empty", [None, [], "", float("nan")])
def test_a_field_without_a_value_is_not_there(write: Write, layout: str, empty: Any) -> None:
    fields = {"image": empty, "images": ["cat.png"], "videos": empty, "tools": empty}
    talk = read(f"{layout}:{write('a.jsonl', [in_every_layout('<image>What?', 'A cat.', **fields)[layout]])}")[0]
    assert pictured(talk) == "Human: <image>\nHuman: What?\nAI: A cat."


@pytest.mark.parametrize("layout", LAYOUTS)
def test_system_and_history_stand_in_front(write: Write, layout: str) -> None:
    record = in_every_layout("And now?", "A dog.", system="Be brief.", history=[["What?", "A cat."]])[layout]
    talk = read(f"{layout}:{write('a.jsonl', [record])}")[0]
    assert talk.prompt(reply=False) == "Be brief.\nHuman: What?\nAI: A cat.\nHuman: And now?\nAI: A dog."


def test_two_system_sentences_are_one_too_many(write: Write) -> None:
    said = [{"from": "system", "value": "Be long."}, *turns("Hi", "Hello.")]
    for record in (
        {"conversations": said, "system": "Be brief."},
        {"messages": [{"role": "system", "content": "Be long."}, *messages("Hi", "Hello.")], "system": "Be brief."},
    ):
        (problem,) = check(read(str(write("a.jsonl", [record]))))
        assert problem == "a.jsonl, line 1: a system sentence in 'system' and another one elsewhere; expected one"
    assert read(str(write("a.jsonl", [{"conversations": said, "system": "Be long."}])))[0].system == "Be long."


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "gpt", "value": "the rest"}, *turns("<image>\nWhat?", "A cat.")], "image": "cat.png"},
        {
            "messages": [{"role": "assistant", "content": "the rest"}, *messages("<image>\nWhat?", "A cat.")],
            "images": ["cat.png"],
        },
        {"text": "AI: the rest\nHuman: <image>\nHuman: What?\nAI: A cat.", "image": ["cat.png"]},
    ],
)
def test_an_answer_in_front_of_the_first_question_is_not_learned(write: Write, record: dict[str, Any]) -> None:
    talk = read(str(write("a.jsonl", [record])))[0]
    assert talk.answers == ("A cat.",)
    assert pictured(talk) == "Human: <image>\nHuman: What?\nAI: A cat."


def test_one_file_mixes_talks_with_pictures_and_without(write: Write) -> None:
    for records in (LLAVA, LLAVA[::-1]):
        source = read(str(write("mix.json", records)))
        assert check(source) == []
        assert sorted(len(talk.pictures) for talk in (source[0], source[1])) == [0, 1]


def test_speakers_may_have_capital_letters(write: Write) -> None:
    record = {"conversations": [{"from": "Human", "value": "Hi"}, {"from": "GPT", "value": 7}]}
    assert pictured(read(str(write("a.jsonl", [record])))[0]) == "Human: Hi\nAI: 7"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "cat.png"},
        {"type": "image", "path": "cat.png"},
        {"type": "image_url", "image_url": {"url": "cat.png", "detail": "auto"}},
        {"type": "image_url", "image_url": "cat.png"},
        {"type": "image_url", "value": "cat.png"},
        {"type": "image", "value": "cat.png"},
        {"type": "image", "image": "cat.png", "text": None},  # a table's columns
    ],
)
@pytest.mark.parametrize("words", [{"type": "text", "text": "What?"}, {"type": "text", "value": "What?"}])
def test_parts_as_every_program_writes_them(write: Write, tmp_path: Path, part: dict, words: dict) -> None:
    said = [{"role": "user", "content": [part, words]}, {"role": "assistant", "content": [{"type": "text", "value": "A cat."}]}]
    talk = read(str(write("a.jsonl", [{"messages": said}])))[0]
    assert talk.pictures == (Picture(tmp_path / "cat.png"),)
    assert pictured(talk) == "Human: <image>\nHuman: What?\nAI: A cat."


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ({"type": "video", "video": "a.mp4"}, "is of type 'video'; an owl sees pictures"),
        ({"type": "audio_url", "audio_url": {"url": "a.wav"}}, "is of type 'audio_url'; an owl sees pictures"),
        ({"type": "video_url", "value": "a.mp4"}, "is of type 'video_url'; an owl sees pictures"),
        ({"type": "input_audio", "input_audio": {}}, "is of type 'input_audio'"),
        ({"type": "text", "text": 7}, "part 0 is {'type': 'text', 'text': 7}; expected"),
        ("words", "part 0 is 'words'; expected"),
    ],
)
def test_parts_that_cannot_be_used(write: Write, part: Any, complaint: str) -> None:
    (problem,) = check(read(str(write("a.jsonl", [{"messages": [{"role": "user", "content": [part]}, *messages()]}]))))
    assert problem.startswith("a.jsonl, line 1: message 0")
    assert complaint in problem


def test_marks_and_image_parts_are_not_mixed(write: Write) -> None:
    parts = [{"type": "image", "image": "cat.png"}, {"type": "text", "text": "<image>\nWhat?"}]
    record = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A cat."}]}
    assert "<image> in the text beside image parts" in check(read(str(write("a.jsonl", [record]))))[0]
    record["images"] = ["dog.png"]
    record["messages"][0]["content"] = parts[:1]
    assert "0 image parts in the messages but 1 images" in check(read(str(write("a.jsonl", [record]))))[0]


@pytest.mark.parametrize("weight", ["weight", "loss_weight", "train", "loss"])
def test_an_answer_of_weight_0_is_not_learned(write: Write, weight: str) -> None:
    said = messages("What?", "A dog.", "Sure?", "A cat.")
    said[1][weight], said[3][weight] = 0, 1
    talk = read(str(write("a.jsonl", [{"messages": said}])))[0]
    assert [piece.text for piece in talk.pieces() if piece.supervised] == ["A cat."]
    assert talk.prompt(reply=False, end="</s>").endswith("AI: A dog.</s>\nHuman: Sure?\nAI: A cat.</s>")
    said[3][weight] = 0
    assert "no answer to learn" in check(read(str(write("a.jsonl", [{"messages": said}]))))[0]


def test_talks_that_were_disliked_are_not_learned(write: Write) -> None:
    (problem,) = check(read(str(write("kto.jsonl", [{"messages": messages("Hi", "Go away."), "label": False}]))))
    assert "preferences are not learned" in problem


@pytest.mark.parametrize("name", ["image", "images", "videos", "tool_calls"])
def test_what_stands_in_a_turn_is_not_lost_in_silence(write: Write, name: str) -> None:
    for record in ({"conversations": turns("What?", "A cat.")}, {"messages": messages("What?", "A cat.")}):
        (first, *_) = next(iter(record.values()))
        first[name] = ["cat.png"]
        (problem,) = check(read(str(write("a.jsonl", [record]))))
        assert f"has '{name}'; expected" in problem


@pytest.mark.parametrize("unlearned", [{"weight": 0}, {"train": False}, {"loss": False}])
def test_a_turn_that_is_not_to_be_learned(write: Write, unlearned: dict[str, Any]) -> None:
    said = turns("What?", "A dog.", "Sure?", "A cat.")
    said[1] |= unlearned
    talk = read(str(write("a.jsonl", [{"conversations": said}])))[0]
    assert [piece.text for piece in talk.pieces() if piece.supervised] == ["A cat."]


def test_numbers_are_answers_in_chats_too(write: Write) -> None:
    for value, words in ((7, "7"), (0.5, "0.5"), (True, "true")):
        record = {"messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": value}]}
        assert read(str(write("a.jsonl", [record])))[0].answers == (words,)


@pytest.mark.parametrize("name", ["image", "images", "file_name", "jpg", "png"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_picture_is_taken_under_every_name_of_its_own(write: Write, tmp_path: Path, layout: str, name: str) -> None:
    record = in_every_layout("What?", "A cat.", **{"image": None, name: "cat.png"})[layout]
    talk = read(f"{layout}:{write('a.jsonl', [record])}")[0]
    assert talk.pictures == (Picture(tmp_path / "cat.png"),)
