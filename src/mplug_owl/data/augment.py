"""Variety: which part of a picture is shown, how a caption is asked for and which of several answers is learned.

All are pure functions of the run's seed, the epoch and the sample. Nothing is ever flipped: letters and left and right would
turn with it.
"""

from dataclasses import replace

import numpy as np

from mplug_owl.conversation import Conversation, Message
from mplug_owl.data.mixture import SampleId

Box = tuple[int, int, int, int]

# How wide a crop may be for its height, and how often one that fits is looked for: RandomResizedCrop's own (arXiv 1409.4842).
RATIOS = (3 / 4, 4 / 3)
TRIES = 10

PROMPTS = (
    "Describe this picture.",
    "What does this picture show?",
    "What can you see here?",
    "Put this picture into words.",
    "Write a caption for this image.",
    "What is in this image?",
    "Say briefly what is shown.",
    "How would you describe this photo?",
    "Tell me about this picture.",
    "Give this image a short description.",
)


def crop_box(size: tuple[int, int], smallest: float, seed: int, sample: SampleId, index: int) -> Box:
    """Left, top, right and bottom of what is shown of a sample's picture number `index`, `size` wide and high.

    Between `smallest` and all of its area, 3:4 to 4:3; the middle where no such crop fits, as torchvision does it.
    """
    random = _chance(seed, 2, sample, index)
    width, height = size
    for _ in range(TRIES):
        area = width * height * random.uniform(smallest, 1.0)
        ratio = np.exp(random.uniform(*np.log(RATIOS)))
        wide, high = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(random.integers(width - wide + 1)), int(random.integers(height - high + 1))
            return left, top, left + wide, top + high
    wide, high = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def with_caption_prompt(talk: Conversation, seed: int, sample: SampleId) -> Conversation:
    """A caption after one of `PROMPTS`; whatever is not one picture and its caption stays as it is."""
    if (
        [message.role for message in talk.messages] != ["user", "assistant"]
        or len(talk.messages[0].parts) != 1
        or not talk.pictures
    ):
        return talk
    prompt = PROMPTS[_chance(seed, 3, sample).integers(len(PROMPTS))]
    question = Message("user", (*talk.messages[0].parts, prompt))
    return replace(talk, messages=(question, talk.messages[1]))


def with_one_answer(talk: Conversation, seed: int, sample: SampleId) -> Conversation:
    """Of every answer that has other wordings one, another each epoch."""
    if not any(message.alternatives for message in talk.messages):
        return talk
    random = _chance(seed, 5, sample)
    messages = []
    for message in talk.messages:
        if message.alternatives:
            wordings = (message.text, *message.alternatives)
            message = replace(message, parts=(wordings[random.integers(len(wordings))],), alternatives=())
        messages.append(message)
    return replace(talk, messages=tuple(messages))


def _chance(seed: int, purpose: int, sample: SampleId, picture: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, sample.source, sample.epoch, sample.index, picture])
