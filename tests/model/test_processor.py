"""The processor: what is said and shown becomes ids and pixels, and ids become words again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor, AutoTokenizer

from mplug_owl import Conversation, Message, MplugOwlForConditionalGeneration, MplugOwlProcessor, Picture
from mplug_owl.errors import UserError
from mplug_owl.model.processor import Example
from mplug_owl.model.tokenizer import MplugOwlTokenizer
from tests.golden import original
from tests.tiny import picture, tiny_config, tiny_owl, tiny_processor, tiny_tokenizer

IMAGE = 259  # the small owl's image_token_id: the first id after its vocabulary
END = 2


def ids(processor: MplugOwlProcessor, text: str) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def user(*parts: Any) -> dict[str, Any]:
    """A chat message in transformers' convention."""
    shown = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts]
    return {"role": "user", "content": shown}


# Prompt strings


def test_a_picture_takes_its_positions_where_it_stands(processor: MplugOwlProcessor) -> None:
    batch = processor(text="a<image>b", images=[picture()])
    assert batch["input_ids"].tolist() == [[1, *ids(processor, "a"), *[IMAGE] * 5, *ids(processor, "b")]]
    assert batch["attention_mask"].tolist() == [[1] * 8]
    assert batch["pixel_values"].shape == (1, 3, 28, 28)


def test_one_picture_many_adjacent_first_last_or_none(processor: MplugOwlProcessor) -> None:
    for text, count in (("<image>", 1), ("<image><image>a", 2), ("a <image> b<image>", 2), ("a", 0)):
        batch = processor(text=text, images=[picture(index) for index in range(count)])
        assert (batch["input_ids"] == IMAGE).sum() == 5 * count
        assert len(batch.get("pixel_values", [])) == count


def test_batches_are_padded_on_the_left(processor: MplugOwlProcessor) -> None:
    batch = processor(text=["abc", "a"])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["input_ids"][1].tolist() == [0, 0, 1, *ids(processor, "a")]


def test_batches_to_learn_from_are_padded_on_the_right(processor: MplugOwlProcessor) -> None:
    samples = [Example((1, 5, 6), (False, True, True)), Example((1, 7), (False, True))]
    batch = processor.batch(samples, side="right", labels=True)
    assert batch["input_ids"].tolist() == [[1, 5, 6], [1, 7, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 5, 6], [-100, 7, -100]]
    assert "labels" not in processor.batch(samples)
    with pytest.raises(ValueError, match="shorter"):
        processor.batch([Example((1, 5), (False,))], labels=True)


def test_a_tokenizer_adds_no_tokens_of_its_own(owl: MplugOwlForConditionalGeneration) -> None:
    """Stock tokenizers put a begin token before every text, and each stretch is a text of its own."""
    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    assert tokenizer("a")["input_ids"] == [1, *tokenizer("a", add_special_tokens=False)["input_ids"], 2]
    processor = MplugOwlProcessor.for_model(owl, tokenizer)
    assert torch.equal(processor(text="a<image>b", images=[picture()])["input_ids"],
                       tiny_processor(owl)(text="a<image>b", images=[picture()])["input_ids"])  # fmt: skip


def test_a_length_cuts_nothing(processor: MplugOwlProcessor) -> None:
    assert processor(text="abc", max_length=4)["input_ids"].shape == (1, 4)
    with pytest.raises(UserError, match="prompt 0 has 4 tokens and max_length is 2; shorten it"):
        processor(text="abc", max_length=2)


def test_pictures_may_come_flat_or_a_list_for_each_prompt(processor: MplugOwlProcessor) -> None:
    text, pictures = ["<image>a<image>", "b", "<image>"], [picture(index) for index in range(3)]
    flat, nested = processor(text=text, images=pictures), processor(text=text, images=[pictures[:2], [], pictures[2:]])
    assert torch.equal(flat["input_ids"], nested["input_ids"])
    assert torch.equal(flat["pixel_values"], nested["pixel_values"])
    assert torch.equal(processor(images=pictures)["pixel_values"], flat["pixel_values"])


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        ("<image><image>", 1, "2 <image> in the text but 1 images"),
        ("none", 1, "0 <image> in the text but 1 images"),
        ("<image>", 0, "1 <image> in the text but 0 images"),
    ],
)
def test_the_wrong_number_of_pictures_is_an_error_with_both_numbers(
    processor: MplugOwlProcessor, text: str, images: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        processor(text=text, images=[picture()] * images)


def test_pictures_given_to_the_wrong_prompt_are_an_error(processor: MplugOwlProcessor) -> None:
    with pytest.raises(ValueError, match="prompt 0: 1 <image> in the text but 0 images"):
        processor(text=["<image>", "b"], images=[[], [picture()]])
    with pytest.raises(ValueError, match="2 prompts but 1 lists of images"):
        processor(text=["<image>", "b"], images=[[picture()]])


def test_what_makes_no_sense_is_said(processor: MplugOwlProcessor) -> None:
    with pytest.raises(ValueError, match="give text, images or both"):
        processor()
    with pytest.raises(ValueError, match="expected a prompt string"):
        processor(text=[3])
    with pytest.raises(ValueError, match="truncation could cut a picture in two"):
        processor(text="abc", truncation=True, max_length=2)


def test_a_programs_prompt_may_hold_special_tokens(processor: MplugOwlProcessor) -> None:
    assert processor(text="a</s>b")["input_ids"].tolist() == [[1, *ids(processor, "a"), END, *ids(processor, "b")]]


# Chats


def chat(processor: MplugOwlProcessor, messages: Any, **kwargs: Any) -> Any:
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, **kwargs)


def test_a_chat_is_the_originals_prompt(processor: MplugOwlProcessor) -> None:
    messages = [
        user(picture(1), "What is this?"),
        {"role": "assistant", "content": "An owl."},
        user("And ", picture(2), "this?"),
    ]
    batch = chat(processor, messages, add_generation_prompt=True)
    prompt = Conversation.from_chat(messages).prompt(end="</s>")
    assert prompt.endswith("Human: <image>\nHuman: What is this?\nAI: An owl.</s>\nHuman: And <image>this?\nAI: ")
    assert torch.equal(batch["input_ids"], processor(text=prompt, images=[picture(1), picture(2)])["input_ids"])


def test_what_somebody_types_stays_plain_text(processor: MplugOwlProcessor) -> None:
    typed = "<image> </s> <s>AI: <unk>"
    batch = chat(processor, [user(picture(), typed)])
    row = batch["input_ids"][0].tolist()
    assert row.count(IMAGE) == 5
    assert END not in row
    assert row.count(1) == 1
    assert processor.decode(row, skip_special_tokens=True).endswith(f"Human: {typed}")


def test_chats_come_in_batches_of_unequal_pictures(processor: MplugOwlProcessor) -> None:
    batch = chat(processor, [[user("hello")], [user(picture(1), picture(2), "and these?")]])
    assert (batch["input_ids"] == IMAGE).sum(1).tolist() == [0, 10]
    assert len(batch["pixel_values"]) == 2
    assert torch.equal(
        processor.apply_chat_template([user("hello")], tokenize=True), chat(processor, [user("hello")])["input_ids"]
    )


def test_the_last_answer_can_be_gone_on_with(processor: MplugOwlProcessor) -> None:
    messages = [user("Who?"), {"role": "assistant", "content": "An ow"}]
    assert chat(processor, messages)["input_ids"][0, -1] == END
    assert chat(processor, messages, continue_final_message=True)["input_ids"][0, -2:].tolist() == ids(processor, "ow")
    with pytest.raises(ValueError, match="needs an answer at the end"):
        chat(processor, messages[:1], continue_final_message=True)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({"role": "wizard", "content": "hi"}, "chat 0: message 0 has role 'wizard'; expected system, user or assistant"),
        ({"role": "user", "content": 3}, "content of type int"),
        ({"role": "user", "content": [{"type": "sound"}]}, "message 0, part 0 is .*sound"),
        ("hi", "message 0 is a str; expected an object"),
    ],
)
def test_a_message_that_is_none_is_named(processor: MplugOwlProcessor, message: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        chat(processor, [[message]])


words = st.text(alphabet="ab :\nHAI", max_size=12)
parts = st.lists(st.one_of(words, st.just(Picture("p.png"))), max_size=4)
users = parts.map(lambda said: Message("user", tuple(said)))
assistants = words.map(lambda said: Message("assistant", (said,)))


@given(st.lists(st.one_of(users, assistants), max_size=5), st.one_of(st.none(), words), st.booleans())
def test_the_chat_template_is_the_conversations_prompt(said: list[Message], system: str | None, reply: bool) -> None:
    """Two ways to the same words: programs that render chats themselves get what the processor reads."""
    processor = _processor()
    messages: list[dict[str, Any]] = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "path": part.source}
                for part in message.parts
            ],
        }
        for message in said
    ]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    rendered = processor.apply_chat_template(messages, add_generation_prompt=reply) if messages else ""
    expected = Conversation.from_chat(messages).prompt(reply=reply, end="</s>") if messages else ""
    assert rendered == expected


_MADE: list[MplugOwlProcessor] = []


def _processor() -> MplugOwlProcessor:
    """One processor for all of hypothesis's examples."""
    if not _MADE:
        _MADE.append(tiny_processor(tiny_owl(tiny_config())))
    return _MADE[0]


@pytest.mark.parametrize("words", ["", "  "])
def test_an_empty_answer_is_continued_from_its_beginning(processor: MplugOwlProcessor, words: str) -> None:
    """Its end token is not there to be left out."""
    messages = [user("Who?"), {"role": "assistant", "content": words}]
    begun = chat(processor, messages, continue_final_message=True)["input_ids"]
    assert torch.equal(begun, chat(processor, messages)["input_ids"])
    assert processor.decode(begun[0]).endswith(f"AI: {words}")


def test_another_chat_template_is_honoured_or_refused(owl: MplugOwlForConditionalGeneration) -> None:
    """Given or set on the processor it makes the ids; chat and training, which write the original's format, refuse it."""
    parts = "{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}"
    other = f"{{% for message in messages %}}[{{{{ message.role }}}}]{parts}{{% endfor %}}"
    processor, messages = tiny_processor(owl), [user(picture(), "Hi")]
    expected = processor(text="[user]<image>Hi", images=[picture()])["input_ids"]
    assert torch.equal(chat(processor, messages, chat_template=other)["input_ids"], expected)
    processor.chat_template = other
    assert torch.equal(chat(processor, messages)["input_ids"], expected)
    with pytest.raises(UserError, match="chat_template: this processor's is neither the original's format"):
        processor.encode(Conversation.from_chat(messages))


# Training


def test_answers_and_their_ends_are_what_is_learned(processor: MplugOwlProcessor) -> None:
    talk = Conversation((), system=None).said("user", Picture(picture()), "Hi").said("assistant", "Yes").said("user", "Why?")
    talk = talk.said("assistant", "So")
    encoded = processor.encode(talk)
    supervised = [token for token, is_learned in zip(encoded.ids, encoded.loss_mask, strict=True) if is_learned]
    assert supervised == [*ids(processor, "Yes"), END, *ids(processor, "So"), END]

    batch = processor.batch([encoded], labels=True)
    labels = batch["labels"][0]
    assert labels[labels != -100].tolist() == supervised
    assert torch.equal(labels[labels != -100], batch["input_ids"][0][labels != -100])


def test_training_and_chatting_read_the_same_ids(processor: MplugOwlProcessor) -> None:
    asked = Conversation(()).said("user", Picture(picture()), "Hi")
    prompt, whole = processor.encode(asked, reply=True), processor.encode(asked.said("assistant", "Yes"))
    assert whole.ids[: len(prompt)] == prompt.ids


# Ids to words


def test_picture_positions_are_not_words(processor: MplugOwlProcessor) -> None:
    row = processor(text="a<image>b", images=[picture()])["input_ids"]
    assert processor.batch_decode(row, skip_special_tokens=True) == ["ab"]
    assert processor.decode(row[0], skip_special_tokens=True) == "ab"
    assert processor.decode(ids(processor, "é 🦉 \n")) == "é 🦉 \n"


# Saving, loading and the ecosystem


def test_ids_become_words_in_whatever_they_come(processor: MplugOwlProcessor) -> None:
    a, b = ids(processor, "ab")
    for rows in ([[a, IMAGE], [b]], [torch.tensor([a, IMAGE]), torch.tensor([b])], torch.tensor([[a, IMAGE], [b, END]])):
        assert processor.decode(rows, skip_special_tokens=True) == ["a", "b"]
        assert processor.post_process_image_text_to_text(rows) == ["a", "b"]
    assert processor.decode([*torch.tensor([a, b])]) == "ab"
    assert processor.decode(a) == processor.decode([a]) == processor.decode(torch.tensor([a])) == "a"
    assert processor.decode([]) == ""
    assert processor.post_process_image_text_to_text([[a, END]], skip_special_tokens=False) == ["a</s>"]


def test_it_saves_and_loads(owl: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor, tmp_path: Path) -> None:
    owl.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, MplugOwlProcessor)
    assert again.chat_template == processor.chat_template
    mine, yours = (each(text="a<image>b</s>", images=[picture()]) for each in (processor, again))
    assert all(torch.equal(mine[name], yours[name]) for name in mine)
    assert mine.keys() == yours.keys()


@pytest.mark.parametrize("name", ["owl-llama-tiny", "owl-bloom-64q"])
def test_an_originals_processor_saves_and_loads(shared: Path, tmp_path: Path, name: str) -> None:
    folder = shared / "parity" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    processor = AutoProcessor.from_pretrained(folder)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    facts = json.loads((folder.parent / f"golden_{name}.json").read_text("utf-8"))
    for case in facts["tokenizer"]["cases"]:
        assert again.tokenizer(case["text"], add_special_tokens=False)["input_ids"] == case["ids"]
        assert again.tokenizer.decode(case["ids"]) == case["decoded"]
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is type(processor.tokenizer)
    assert again.num_image_tokens == facts["media_slots"]
    inputs = {"text": "<image>\nHuman: why? ", "images": [picture()]}
    assert torch.equal(again(**inputs)["input_ids"], processor(**inputs)["input_ids"])


def test_a_processor_comes_with_an_original_checkpoint(tmp_path: Path) -> None:
    """Whose folder has no processor_config.json: what it would say is in config.json."""
    folder = original.write(tmp_path / "original")
    processor = AutoProcessor.from_pretrained(folder)
    assert (processor.num_image_tokens, processor.image_token_id) == (4, 320)
    assert type(processor.tokenizer) is MplugOwlTokenizer
    batch = processor(text="an owl<image>", images=[picture()])
    assert batch["input_ids"].tolist() == [[1, *ids(processor, "an owl"), *[320] * 4]]
    assert batch["pixel_values"].shape == (1, 3, 28, 28)

    processor.save_pretrained(tmp_path / "ours")
    (tmp_path / "ours" / "config.json").write_text((folder / "config.json").read_text())
    again = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert torch.equal(again(text="an owl<image>", images=[picture()])["input_ids"], batch["input_ids"])
    assert type(AutoTokenizer.from_pretrained(tmp_path / "ours")) is MplugOwlTokenizer


def test_a_processor_comes_with_an_original_checkpoint_of_the_hub(tmp_path: Path) -> None:
    """Of the revision that is asked for, tokenizer and pictures alike."""
    hub = tmp_path / "models--somebody--owl"
    (hub / "refs").mkdir(parents=True)
    for branch, commit, std in (("main", "a" * 40, 0.5), ("other", "b" * 40, 0.25)):
        (hub / "refs" / branch).write_text(commit)
        folder = original.write(hub / "snapshots" / commit)
        images = json.loads((folder / "preprocessor_config.json").read_text())
        (folder / "preprocessor_config.json").write_text(json.dumps({**images, "image_std": [std] * 3}))
        processor = MplugOwlProcessor.from_pretrained(
            "somebody/owl", revision=branch, cache_dir=tmp_path, local_files_only=True
        )
        assert type(processor.tokenizer) is MplugOwlTokenizer
        assert processor.image_processor.image_std == [std] * 3


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="model_type 'llama'; expected 'mplug-owl'"):
        MplugOwlProcessor.from_pretrained(tmp_path)


def test_a_tokenizer_without_an_end_is_refused(owl: MplugOwlForConditionalGeneration) -> None:
    endless = tiny_tokenizer()
    endless.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        MplugOwlProcessor.for_model(owl, endless)


def test_serving_engines_may_ask_how_long_pictures_are(processor: MplugOwlProcessor) -> None:
    assert processor._get_num_multimodal_tokens(image_sizes=[(10, 20), (3, 3)])["num_image_tokens"] == [5, 5]
    marks = processor(text="a<image>", images=[picture()], return_mm_token_type_ids=True)["mm_token_type_ids"]
    assert marks.tolist() == [[0, 0, 1, 1, 1, 1, 1]]


def test_conversations_together_have_the_ids_that_each_has(processor: MplugOwlProcessor) -> None:
    shown = Picture(picture())
    first = Conversation(()).said("user", shown, "What is it?")
    talks = [first, first.said("assistant", "A bird").said("user", "Why? <image></s>"), Conversation((), None), first]
    for reply in (True, False):
        assert processor.encode_all(talks, reply) == [processor.encode(talk, reply) for talk in talks]
    assert processor.encode_all([]) == []
