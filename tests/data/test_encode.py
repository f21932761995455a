"""Conversations to examples: what is learned, what is cut, and the original's own training tokens."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from mplug_owl import Conversation, MplugOwlProcessor, Picture
from mplug_owl.conversation import PLAIN, Message, caption
from mplug_owl.data.encode import Encoding, encode
from mplug_owl.errors import UserError
from mplug_owl.model.processor import Example

CAT, DOG = Path("cat.jpg"), Path("dog.jpg")
TALK = (
    Conversation((), system=None)
    .said("user", Picture(CAT), "one")
    .said("assistant", "1")
    .said("user", Picture(DOG), "two")
    .said("assistant", "2")
)


def learned_words(example: Example, processor: MplugOwlProcessor) -> str:
    return processor.tokenizer.decode(
        [token for token, supervised in zip(example.ids, example.loss_mask, strict=True) if supervised]
    )


def test_answers_and_their_end_tokens_are_learned(processor: MplugOwlProcessor) -> None:
    example = encode(TALK, processor, Encoding(1024))
    assert learned_words(example, processor) == "1</s>2</s>"
    assert example.pictures == (CAT, DOG)
    assert example.ids.count(processor.image_token_id) == 2 * processor.num_image_tokens
    assert example.cut == 0


def test_a_cut_answer_keeps_what_fits_and_does_not_end(processor: MplugOwlProcessor) -> None:
    whole = encode(caption(CAT, "a cat on a mat"), processor, Encoding(1024))
    example = encode(caption(CAT, "a cat on a mat"), processor, Encoding(len(whole) - 4))
    assert learned_words(example, processor) == "a cat on a "
    assert example.cut == 4


def test_a_picture_that_does_not_fit_ends_the_example_before_it(processor: MplugOwlProcessor) -> None:
    whole = encode(TALK, processor, Encoding(1024))
    second = whole.ids.index(processor.image_token_id, whole.ids.index(processor.image_token_id) + processor.num_image_tokens)
    example = encode(TALK, processor, Encoding(second + processor.num_image_tokens - 1))
    assert len(example) == second
    assert example.pictures == (CAT,)
    assert example.cut == len(whole) - second


def test_nothing_may_be_left_to_learn(processor: MplugOwlProcessor) -> None:
    example = encode(TALK, processor, Encoding(4))
    assert not any(example.loss_mask)
    assert example.pictures == ()


def test_everything_is_learned_but_the_first_token_and_pictures(processor: MplugOwlProcessor) -> None:
    talk = TALK.said("user", "bye")
    example = encode(talk, processor, Encoding(1024, learn="everything"))
    assert not example.loss_mask[0]
    expected = "Human: \nHuman: one\nAI: 1</s>\nHuman: \nHuman: two\nAI: 2</s>\nHuman: bye</s>"
    assert learned_words(example, processor) == expected


def test_the_end_token_comes_once(processor: MplugOwlProcessor) -> None:
    example = encode(TALK, processor, Encoding(1024, learn="everything"))
    assert example.ids[-2:] != (processor.tokenizer.eos_token_id,) * 2


def test_pictures_can_be_left_out(processor: MplugOwlProcessor) -> None:
    example = encode(TALK, processor, Encoding(1024, pictures=False))
    assert example.pictures == ()
    assert processor.tokenizer.decode(example.ids[1:]) == "Human: one\nAI: 1</s>\nHuman: two\nAI: 2</s>"
    alone = encode(caption(CAT, "a cat"), processor, Encoding(1024, learn="everything", pictures=False))
    assert learned_words(alone, processor) == "AI: a cat</s>"


def test_an_end_token_that_somebody_typed_is_plain_text(processor: MplugOwlProcessor) -> None:
    example = encode(caption(CAT, "the </s> sign"), processor, Encoding(1024))
    assert example.ids.count(processor.tokenizer.eos_token_id) == 1


def test_without_a_begin_token_the_first_word_is_not_learned(processor: MplugOwlProcessor) -> None:
    begin, processor.tokenizer.bos_token = processor.tokenizer.bos_token, None
    try:
        example = encode(Conversation((Message("assistant", ("a cat",)),), None, PLAIN), processor, Encoding(1024))
    finally:
        processor.tokenizer.bos_token = begin
    assert learned_words(example, processor) == " cat</s>"


def test_too_short_a_length_is_refused(processor: MplugOwlProcessor) -> None:
    with pytest.raises(ValueError, match="max_tokens is 1"):
        encode(TALK, processor, Encoding(1))


# The original's style


def original(talk: Conversation, processor: MplugOwlProcessor, max_tokens: int) -> Example:
    return encode(talk, processor, Encoding(max_tokens, style="original"))


def test_the_original_takes_one_position_more_and_closes_the_answer_that_it_cuts(processor: MplugOwlProcessor) -> None:
    talk = Conversation((), system=None).said("user", "ab").said("assistant", "cdefgh")
    whole = original(talk, processor, 1024)
    assert processor.tokenizer.decode(whole.ids) == "<s>Human: ab\nAI: cdefgh</s>"
    assert learned_words(whole, processor) == "cdefgh</s>"
    assert (len(original(talk, processor, len(whole) - 1)), whole.cut) == (len(whole), 0)
    short = original(talk, processor, len(whole) - 4)
    assert processor.tokenizer.decode(short.ids) == "<s>Human: ab\nAI: cde</s>"
    assert learned_words(short, processor) == "cde</s>"
    assert short.cut == 3


def test_a_picture_that_does_not_fit_ends_the_originals_example_too(processor: MplugOwlProcessor) -> None:
    talk = Conversation((), system=None).said("user", Picture(CAT), "b").said("assistant", "c")
    until = len("<Human: ") + processor.num_image_tokens  # the begin token is one
    fits, none = original(talk, processor, until - 1), original(talk, processor, until - 2)
    assert (len(fits), fits.pictures) == (until, (CAT,))
    assert (len(none), none.pictures) == (len("<Human: "), ())
    assert fits.cut + len(fits) == none.cut + len(none) == len(original(talk, processor, 1024))


def test_special_tokens_that_somebody_typed_count_in_the_originals_style(processor: MplugOwlProcessor) -> None:
    talk = Conversation((), system=None).said("user", "a</s>b").said("assistant", "c")
    end = processor.tokenizer.eos_token_id
    assert original(talk, processor, 1024).ids.count(end) == 2
    assert encode(talk, processor, Encoding(1024)).ids.count(end) == 1


def test_the_original_learns_answers_alone(processor: MplugOwlProcessor) -> None:
    with pytest.raises(UserError, match='style "original" learns answers only'):
        encode(TALK, processor, Encoding(1024, style="original", learn="everything"))


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
turns = st.lists(st.tuples(st.lists(st.one_of(words, st.just(Picture(CAT))), max_size=3), words), min_size=1, max_size=3)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(turns, st.integers(2, 200), st.sampled_from(["owl", "original"]), st.sampled_from(["answers", "everything"]))
def test_wherever_it_is_cut(processor: MplugOwlProcessor, turns: list, length: int, style: str, learn: str) -> None:
    talk = Conversation((), system="S")
    for question, answer in turns:
        talk = talk.said("user", *question).said("assistant", answer)
    learn = "answers" if style == "original" else learn
    whole = encode(talk, processor, Encoding(10_000, learn, style=style))
    example = encode(talk, processor, Encoding(length, learn, style=style))

    # Pictures are whole and as many as their positions say.
    runs = "".join("p" if token == processor.image_token_id else "." for token in example.ids)
    assert all(len(run) % processor.num_image_tokens == 0 for run in re.findall("p+", runs))
    assert len(example.pictures) * processor.num_image_tokens == runs.count("p")
    # What fits is a beginning of the whole (the original closes it with an end token), and nothing is lost uncounted.
    assert len(example) <= length + (style == "original")
    closed = style == "original" and example.cut > 0
    kept = len(example) - closed
    assert example.ids[:kept] == whole.ids[:kept]
    assert example.loss_mask[:kept] == whole.loss_mask[:kept]
    assert len(example) + example.cut == len(whole)
    # Only answers are learned, unless everything is.
    if learn == "answers":
        answers = "".join(answer + "</s>" for answer in talk.answers if answer.strip())
        assert learned_words(whole, processor) == answers


# The original's own training tokens

GOLDENS = ("owl-llama-tiny", "owl-llama-64q", "owl-bloom-64q")


class Golden:
    """The lines of train.jsonl and what the original makes of them with one checkpoint's tokenizer."""

    def __init__(self, folder: Path, name: str) -> None:
        self.processor = MplugOwlProcessor.from_pretrained(folder / name)
        self.facts = json.loads((folder / f"golden_{name}.json").read_text("utf-8"))["train"]
        self.lines = [json.loads(line) for line in (folder / self.facts["jsonl"]).read_text("utf-8").splitlines()]
        self.length = self.facts["max_length"]
        with safe_open(folder / f"golden_{name}.safetensors", "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys() if key.startswith("train.")}  # noqa: SIM118

    def ids(self, line: int) -> tuple[int, ...]:
        ids = self.tensors[f"train.{line}.input_ids"][: self.facts["samples"][line]["seq_length"]].tolist()
        return tuple(self.processor.image_token_id if token < 0 else token for token in ids)

    def labels(self, line: int) -> list[int]:
        # The first label is no target: the loss shifts.
        return self.tensors[f"train.{line}.labels_after_forward"][1 : len(self.ids(line))].tolist()

    def conversation(self, line: int) -> Conversation:
        return Conversation.from_prompt(self.lines[line]["text"], self.lines[line].get("image", []))


@pytest.fixture(scope="module", params=GOLDENS)
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    if not (folder := shared / "parity" / request.param).is_dir():
        pytest.skip(f"{folder} is not here")
    return Golden(folder.parent, request.param)


def wrong_in_the_original(text: str) -> str:
    """Why the original learns the wrong words from a line, if it does."""
    if text.startswith("<image>"):
        return "a picture that comes first is tokenised as the letters of <image>"
    if re.search(r"AI: (\n|$)", text):
        return "with an empty answer, the next role mark is learned, or an end token for nothing"
    if re.search(r"[^\n]AI: ", text):
        return 'the end of "OpenAI: " starts an answer'
    return ""


def test_ids_and_labels_are_the_originals_wherever_it_is_right(golden: Golden) -> None:
    wrong = {}
    for line, record in enumerate(golden.lines):
        example = encode(golden.conversation(line), golden.processor, Encoding(golden.length, style="original"))
        labels = [token if supervised else -100 for token, supervised in zip(example.ids, example.loss_mask, strict=True)][1:]
        same = example.ids == golden.ids(line) and labels == golden.labels(line)
        if reason := wrong_in_the_original(record["text"]):
            wrong[line] = reason
            assert not same, f"line {line} was to differ: {reason}"
        else:
            assert same, f"line {line}"
    assert len(wrong) <= 3  # of 12: the rule excuses no line by accident


def test_pictures_without_positions_are_dropped(golden: Golden) -> None:
    """The original passes them on; its own forward then counts pictures wrongly for the rest of the batch."""
    for line in range(len(golden.lines)):
        example = encode(golden.conversation(line), golden.processor, Encoding(golden.length, style="original"))
        assert len(example.pictures) * golden.processor.num_image_tokens == example.ids.count(golden.processor.image_token_id)


def test_our_own_style_learns_the_same_tokens(golden: Golden) -> None:
    compared = 0
    for line, record in enumerate(golden.lines):
        if wrong_in_the_original(record["text"]):
            continue
        example = encode(golden.conversation(line), golden.processor, Encoding(10_000))
        ours = [token for token, supervised in zip(example.ids, example.loss_mask, strict=True) if supervised]
        theirs = [token for token in golden.labels(line) if token != -100]
        if encode(golden.conversation(line), golden.processor, Encoding(golden.length, style="original")).cut:
            # The original puts an end token where the text goes on; the tokens before it are the same.
            theirs = theirs[:-1]
            ours = ours[: len(theirs)]
        assert ours == theirs, f"line {line}"
        compared += 1
    assert compared >= 9


def test_an_answer_that_is_not_learned_is_read_with_its_end(processor: MplugOwlProcessor) -> None:
    first, second = Message("assistant", ("a dog",), supervised=False), Message("assistant", ("a cat",))
    talk = Conversation((Message("user", ("What?",)), first, Message("user", ("Sure?",)), second))
    example, learned = (
        encode(replace(talk, messages=messages), processor, Encoding(1024))
        for messages in (talk.messages, tuple(replace(message, supervised=True) for message in talk.messages))
    )
    assert example.ids == learned.ids
    assert learned_words(example, processor) == "a cat</s>"
    assert learned_words(learned, processor) == "a dog</s>a cat</s>"
