"""One chat format for all who write prompts: training, chat, exams, transformers' pipeline, and programs that render it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import pipeline

from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.chat.owl import answer_words
from mplug_owl.conversation import PLAIN, Conversation, Message, Picture
from mplug_owl.data.encode import Encoding, encode
from mplug_owl.data.inspect import as_sample
from mplug_owl.errors import BadSample, UserError
from mplug_owl.eval.answer import conversation
from mplug_owl.eval.task import Question
from mplug_owl.model.build import end_with_turns
from mplug_owl.model.load import Owl, load
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.model.template import with_pictures
from mplug_owl.serve.answering import Words
from tests.model.families import BY_NAME, tokenizer_of
from tests.tiny import picture, tiny_config, tiny_owl


@pytest.fixture(scope="module", params=["qwen3", "gemma", "llama2"])
def owl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Owl:
    """A small owl with a family's chat format, saved and loaded."""
    folder = tmp_path_factory.mktemp(request.param)
    made(request.param, folder)
    return load(folder, device="cpu")


def made(name: str, folder: Path) -> Owl:
    tokenizer, config = tokenizer_of(BY_NAME[name]), tiny_config()
    config.text_config.vocab_size = config.image_token_id = len(tokenizer)
    model = tiny_owl(config)
    processor = MplugOwlProcessor.for_model(model, tokenizer, None, with_pictures(BY_NAME[name].template, tokenizer))
    model.generation_config.eos_token_id = 7  # the language model's
    end_with_turns(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Owl(model, processor)


def test_what_ends_a_turn_is_no_word_of_the_answer() -> None:
    """Some tokenizers do not call the end of a turn special."""
    plain = replace(BY_NAME["llama3"], special=BY_NAME["llama3"].special[:-1], words=("<|eot_id|>",))
    tokenizer, config = tokenizer_of(plain), tiny_config()
    config.text_config.vocab_size = config.image_token_id = len(tokenizer)
    model = tiny_owl(config)
    processor = MplugOwlProcessor.for_model(model, tokenizer, None, with_pictures(plain.template, tokenizer))
    assert tokenizer.decode(processor.end_token_ids[0], skip_special_tokens=True) == "<|eot_id|>"
    ids = [*tokenizer.encode("A cat.", add_special_tokens=False), processor.end_token_ids[0]]
    assert answer_words(model, processor, ids) == Words(Owl(model, processor)).decode(ids) == "A cat."


TALK = Conversation(
    (
        Message("user", (Picture(picture(1)), "What is this?")),
        Message("assistant", ("A cat.",)),
        Message("user", ("And this? ", Picture(picture(2)), " Look. <|im_end|></s>")),
    )
)


def asked(talk: Conversation) -> list[dict[str, Any]]:
    return [
        {
            "role": one.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part.source}
                for part in one.parts
            ],
        }
        for one in talk.messages
    ]


def test_everybody_makes_the_same_ids(owl: Owl) -> None:
    processor, prompt = owl.processor, owl.processor.encode(TALK, reply=True).ids
    # Training's prompt is what stands in front of the answer.
    whole = encode(TALK.said("assistant", "Two dogs."), processor, Encoding(1024))
    first = whole.loss_mask.index(True, whole.loss_mask.index(False, whole.loss_mask.index(True)))
    assert whole.ids[:first] == prompt
    # Chat and exams.
    seen = list[tuple[int, ...]]()

    def watch(model: torch.nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        seen.extend(tuple(row) for row in inputs["input_ids"].tolist())

    hook = owl.model.register_forward_pre_hook(watch, with_kwargs=True)
    decoding = Decoding(max_new_tokens=1)
    OwlChatModel(owl).answers([TALK], decoding)
    list(OwlChatModel(owl).stream(TALK, decoding))
    # transformers: by its pipeline, and by itself.
    ask = pipeline("image-text-to-text", model=owl.model, processor=processor)
    ask(text=asked(TALK), generate_kwargs={"max_new_tokens": 1, "do_sample": False})
    hook.remove()
    assert seen == [prompt] * 3
    ids = processor.apply_chat_template(asked(TALK), tokenize=True, add_generation_prompt=True)
    assert tuple(ids[0].tolist()) == prompt


def test_a_rendered_prompt_is_read_as_the_template_wrote_it(owl: Owl) -> None:
    """What a server does that renders first. Typed control tokens are its own affair, so there are none here."""
    quiet = replace(
        TALK, messages=(*TALK.messages[:2], replace(TALK.messages[2], parts=("And?", *TALK.messages[2].parts[1:2])))
    )
    text = owl.processor.apply_chat_template(asked(quiet), add_generation_prompt=True)
    found = owl.processor(text=text, images=[part.source for part in quiet.pictures])["input_ids"]
    expected = owl.processor.encode(quiet, reply=True).ids
    assert tuple(found[0].tolist()) == expected


def test_an_answer_ends_with_any_of_the_end_tokens(owl: Owl) -> None:
    config = OwlChatModel(owl)._generation_config(Decoding())
    assert set(config.eos_token_id) == {*owl.processor.end_token_ids, 7}
    assert set(owl.model.generation_config.eos_token_id) == set(config.eos_token_id)
    for end in config.eos_token_id:
        steps = []

        def says_it(module: torch.nn.Module, inputs: Any, logits: Tensor, end: int = end, steps: list[int] = steps) -> Tensor:
            steps.append(end)
            return one_hot(torch.tensor(end), logits.shape[-1]).to(logits).expand_as(logits)

        hook = owl.model.lm_head.register_forward_hook(says_it)
        assert len(OwlChatModel(owl).answers([TALK], Decoding(max_new_tokens=5))) == len(steps) == 1
        hook.remove()


@pytest.mark.parametrize("mode", ["picture", "none", "description"])
def test_an_exam_asks_as_chat_does(owl: Owl, mode: Any) -> None:
    """Its picture or description comes as a message of its own; who wants turns to alternate gets them as one."""
    shown = picture(1)
    question = Question("q", "colour", "colour", (("What colour?", "red"),), lambda: shown, "A red cat.")
    before = {"picture": (Picture(shown),), "none": (), "description": ("A red cat.\n",)}[mode]
    once = Conversation((Message("user", (*before, "What colour?")),))
    apart = Conversation((Message("user", ("A red cat.",)), Message("user", ("What colour?",))))
    ids = owl.processor.encode(conversation(question, mode, ()), reply=True).ids
    alternates = mode != "description" or owl.processor.tokenizer.bos_token == "<bos>"
    assert ids == owl.processor.encode(once if alternates else apart, reply=True).ids


def test_inspect_shows_the_answer_and_its_end(owl: Owl) -> None:
    sample = as_sample(TALK.said("assistant", "Two dogs."), owl.processor, 1024)
    marked = ["".join(stretch.cuts).strip() for stretch in sample.stretches if stretch.supervised]
    end = owl.processor.tokenizer.convert_ids_to_tokens(owl.processor.end_token_ids[0])
    assert [text.replace(" ", "") for text in marked] == [f"Acat.{end}", f"Twodogs.{end}"]


def test_an_answer_is_continued_where_it_stops(owl: Owl) -> None:
    begun = asked(TALK.said("assistant", "Two"))
    ids = owl.processor.apply_chat_template(begun, tokenize=True, continue_final_message=True)[0].tolist()
    whole = owl.processor.encode(TALK.said("assistant", "Two dogs."))
    assert tuple(ids) == whole.ids[: len(ids)]


def test_an_answer_that_is_empty_yet_is_begun(owl: Owl) -> None:
    begun = asked(TALK.said("assistant", ""))
    ids = owl.processor.apply_chat_template(begun, tokenize=True, continue_final_message=True)[0].tolist()
    assert tuple(ids) == owl.processor.encode(TALK, reply=True).ids


def test_documents_stay_plain(owl: Owl) -> None:
    """A text without a speaker is read as it is, and its end token is learned."""
    text = Conversation((Message("user", ("Once there was.",)),), None, PLAIN)
    example = encode(text, owl.processor, Encoding(1024, learn="everything"))
    assert owl.processor.decode(example.ids, skip_special_tokens=True).strip() == "Once there was."
    assert example.ids[-1] == owl.processor.tokenizer.eos_token_id


def test_what_the_format_cannot_say_is_one_record_or_a_wrong_setting(owl: Owl) -> None:
    with pytest.raises(UserError, match='style "original" cuts'):
        encode(TALK, owl.processor, Encoding(1024, style="original"))
    answered = replace(TALK, messages=(*TALK.messages[:2], *TALK.messages[1:2]))
    if owl.processor.tokenizer.bos_token == "<bos>":
        with pytest.raises(BadSample, match="must alternate"):
            encode(answered, owl.processor, Encoding(1024))
