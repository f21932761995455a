"""Talking with an owl: a conversation goes in, words stream out. Nothing else in the project calls generate.

owl = load("runs/tiny.instruct")
chat = Chat(owl)
print(chat.ask("What is in the picture?", images=["photo.jpg"]))
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any

from transformers import GenerationConfig, TextIteratorStreamer

from mplug_owl.conversation import Conversation, ImageSource, Picture
from mplug_owl.model.build import Owl, load
from mplug_owl.model.images import open_image

__all__ = ["Chat", "Decoding", "answer", "load", "stream"]


@dataclass(frozen=True)
class Decoding:
    """How words are chosen: greedily at temperature 0, else drawn from the `top_p` likeliest mass."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 0.9

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"{self}: max_new_tokens is at least 1, temperature at least 0, top_p above 0 and at most 1")


class Chat:
    """One conversation with history. Pictures come with the question they belong to and stay in sight."""

    def __init__(self, owl: Owl, conversation: Conversation | None = None, decoding: Decoding | None = None) -> None:
        self.owl = owl
        self.empty = conversation or Conversation(())
        self.conversation = self.empty
        self.decoding = decoding or Decoding()

    def ask(self, question: str, images: Sequence[ImageSource] = ()) -> str:
        """The owl's answer, once it is whole."""
        return "".join(self.stream(question, images))

    def stream(self, question: str, images: Sequence[ImageSource] = ()) -> Iterator[str]:
        """The owl's answer as it comes. The history takes question and answer in when it has ended."""
        pictures = [Picture(open_image(image)) for image in images]  # opened now: a bad file leaves the history as it was
        asked = self.conversation.said("user", *pictures, *([question] if question else []))
        words = []
        for word in stream(self.owl, asked, self.decoding):
            words.append(word)
            yield word
        self.conversation = asked.said("assistant", "".join(words))

    def forget(self) -> None:
        """Start a new conversation."""
        self.conversation = self.empty


def answer(owl: Owl, conversations: Sequence[Conversation], decoding: Decoding | None = None, batch: int = 8) -> list[str]:
    """What the owl says next in each conversation, `batch` of them at a time. Text alone and pictures mix freely."""
    answers: list[str] = []
    for first in range(0, len(conversations), batch):
        samples = [owl.processor.encode(talk, reply=True) for talk in conversations[first : first + batch]]
        inputs = owl.processor.batch(samples).to(owl.model.device)
        ids_BT = owl.model.generate(**inputs, **_settings(owl, decoding or Decoding()))
        answers += owl.processor.batch_decode(ids_BT[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [said.strip() for said in answers]


def stream(owl: Owl, conversation: Conversation, decoding: Decoding | None = None) -> Iterator[str]:
    """What the owl says next, word by word."""
    inputs = owl.processor.batch([owl.processor.encode(conversation, reply=True)]).to(owl.model.device)
    streamer = TextIteratorStreamer(owl.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            owl.model.generate(**inputs, **_settings(owl, decoding or Decoding()), streamer=streamer)
        except BaseException as error:  # raised again below, in the caller's thread
            failures.append(error)
            streamer.end()

    thread = Thread(target=work, daemon=True)
    thread.start()
    started = False
    for word in streamer:
        word = word if started else word.lstrip()
        started = started or bool(word)
        if word:
            yield word
    thread.join()
    if failures:
        raise failures[0]


def _settings(owl: Owl, decoding: Decoding) -> dict[str, Any]:
    tokenizer, draws = owl.processor.tokenizer, decoding.temperature > 0
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    # Said in full: what is left out, transformers takes from the checkpoint's own file, which is meant for other programs.
    config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        min_new_tokens=0,
        num_beams=1,
        num_return_sequences=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        do_sample=draws,
        temperature=decoding.temperature if draws else 1.0,
        top_p=decoding.top_p if draws else 1.0,
        top_k=0 if draws else 50,  # transformers' own default, which it does not complain about
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
    )
    return {"generation_config": config}
