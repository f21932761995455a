"""What the model's tests share: three prompts with one, two and no pictures."""

from typing import Any

import pytest

from mplug_owl import MplugOwlProcessor
from tests.tiny import picture

GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None, "pad_token_id": 0}
PROMPTS = ["<image>\nWhat?", "Who <image> saw <image> here?", "Nothing to see."]
PICTURES = [[picture(1)], [picture(2), picture(3)], []]


@pytest.fixture
def inputs(processor: MplugOwlProcessor) -> Any:
    """The prompts as one batch."""
    return processor(text=PROMPTS, images=PICTURES)
