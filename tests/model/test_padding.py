"""What a processor is asked for beside prompts: done, or refused by name."""

import pytest
import torch

from mplug_owl import MplugOwlProcessor
from mplug_owl.errors import UserError

ROWS = ["abc", "a"]  # four tokens and two, the begin token among them


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, 4),
        ({"padding": True}, 4),
        ({"padding": "longest"}, 4),
        ({"padding": "max_length", "max_length": 6}, 6),
        ({"max_length": 6, "truncation": True}, 4),
        ({"max_length": 4}, 4),
        ({"text_kwargs": {"padding": "max_length", "max_length": 5}}, 5),
        ({"return_tensors": "pt", "videos": None, "return_assistant_tokens_mask": False}, 4),
    ],
    ids=str,
)
def test_what_can_be_done_is_done(processor: MplugOwlProcessor, options: dict, length: int) -> None:
    assert processor(text=ROWS, **options)["input_ids"].shape == (2, length)


def test_chats_take_the_same_options(processor: MplugOwlProcessor) -> None:
    chats = [[{"role": "user", "content": row}] for row in ROWS]
    asked = {"tokenize": True, "return_tensors": "pt"}
    longest = processor.apply_chat_template(chats, **asked).shape[1]
    for options in ({"max_length": longest + 3}, {"processor_kwargs": {"max_length": longest + 3}}):
        rows = processor.apply_chat_template(chats, **asked, **options, padding="max_length")
        assert rows.shape == (2, longest + 3)
    with pytest.raises(UserError, match=rf"prompt 0 has {longest} tokens and max_length is 5"):
        processor.apply_chat_template(chats, **asked, max_length=5)
    with pytest.raises(UserError, match=r"tools=.*: an owl's processor has no such option"):
        processor.apply_chat_template(chats, **asked, tools=[{"type": "function"}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": False}, "padding=False: rows of 2 to 4 tokens make no tensor; expected padding=True"),
        ({"padding": "right"}, "padding='right': expected True, False, 'longest' or 'max_length'"),
        ({"padding": "max_length"}, "padding='max_length' needs max_length"),
        ({"max_length": 0}, "max_length=0: expected a number of tokens"),
        ({"max_length": "long"}, "max_length='long': expected a number of tokens"),
        ({"max_length": 3}, "prompt 0 has 4 tokens and max_length is 3; shorten it"),
        ({"return_tensors": "np"}, "return_tensors='np': ids and pixels come as PyTorch tensors"),
        ({"videos": ["a.mp4"]}, r"videos=\['a.mp4'\]: an owl's processor has no such option"),
        ({"images_kwargs": {"size": 3}}, "size=3: an owl's processor has no such option"),
        ({"load_audio_from_video": True}, "load_audio_from_video=True: an owl's processor has no such option"),
        ({"return_assistant_tokens_mask": True}, "return_assistant_tokens_mask=True: an owl's processor has no such option"),
        ({"do_resize": False}, "do_resize=False: an owl's processor has no such option"),
    ],
    ids=str,
)
def test_what_cannot_is_refused(processor: MplugOwlProcessor, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        processor(text=ROWS, **options)


def test_one_row_needs_no_padding(processor: MplugOwlProcessor) -> None:
    assert torch.equal(processor(text="abc", padding=False)["input_ids"], processor(text="abc")["input_ids"])


def test_a_prompt_that_brings_its_begin_token_gets_no_second(processor: MplugOwlProcessor) -> None:
    assert processor(text="<s>a", add_special_tokens=False)["input_ids"].tolist() == processor(text="a")["input_ids"].tolist()
