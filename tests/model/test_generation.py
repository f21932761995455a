"""Generation: pictures go in once, repeat with their beam and are no token; an answer ends at the last position."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import BloomConfig, pipeline

from mplug_owl import MplugOwlForConditionalGeneration, MplugOwlProcessor
from mplug_owl.errors import UserError
from mplug_owl.model.config import max_positions
from tests.model.conftest import GREEDY, PICTURES, PROMPTS
from tests.tiny import LANGUAGES, picture, tiny_config, tiny_owl, tiny_processor


def owl_of(language: str, **fields: object) -> MplugOwlForConditionalGeneration:
    """A small owl with other fields in its language model's config."""
    config = tiny_config(language=language)
    for name, value in fields.items():
        setattr(config.text_config, name, value)
    return tiny_owl(config)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_model_says_how_many_positions_it_has(language: str) -> None:
    assert max_positions(tiny_config(language=language).text_config) == 512
    assert max_positions(BloomConfig()) is None


@pytest.mark.parametrize(("language", "field"), [("llama", "max_position_embeddings"), ("gpt2", "n_positions")])
def test_an_answer_ends_at_the_last_position_and_a_prompt_must_fit(language: str, field: str) -> None:
    """Learned positions would end in an IndexError; others would go on in silence where nothing was learned."""
    owl = owl_of(language, **{field: 12})
    processor = tiny_processor(owl)
    settings = {"max_new_tokens": 30, "eos_token_id": None, "pad_token_id": 0, "do_sample": False}
    assert owl.generate(**processor(text="12345678"), **settings).shape == (1, 12)
    with pytest.raises(UserError, match="the conversation takes 12 positions and the language model has 12, one of them for"):
        owl.generate(**processor(text="12345678901"), **settings)
    assert owl_of("bloom", max_position_embeddings=None).generate(**processor(text="12345678901"), **settings).shape == (1, 42)


def test_64_tokens_are_the_same_with_and_without_a_cache(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    long = {**GREEDY, "max_new_tokens": 64}
    assert torch.equal(owl.generate(**inputs, **long), owl.generate(**inputs, **long, use_cache=False))


def test_beams_keep_their_own_pictures(owl: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor) -> None:
    """Rows of two, one and no pictures: every beam of a row must see that row's."""
    beams = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
    together = owl.generate(**processor(text=PROMPTS, images=PICTURES), **beams)[:, -8:]
    for row, (prompt, pictures) in enumerate(zip(PROMPTS, PICTURES, strict=True)):
        alone = owl.generate(**processor(text=prompt, images=pictures), **beams)[:, -8:]
        assert torch.equal(together[2 * row : 2 * row + 2], alone)


def test_a_repeated_sample_brings_all_its_pictures(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    """As transformers before 5.17 asked for it: rows with one, two and no pictures, twice each."""
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    pixels = inputs["pixel_values"]
    ids, rest = owl._expand_inputs_for_generation(expand_size=2, **words, pixel_values=pixels)
    assert torch.equal(ids, inputs["input_ids"].repeat_interleave(2, 0))
    assert torch.equal(rest["pixel_values"], pixels[[0, 0, 1, 2, 1, 2]])
    _, rest = owl._expand_inputs_for_generation(expand_size=1, **words, pixel_values=pixels)
    assert torch.equal(rest["pixel_values"], pixels)


@torch.no_grad()
def test_pictures_go_in_with_the_prompt_alone(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    seen = {"image": owl.get_image_features(inputs["pixel_values"])}
    cache = owl(**inputs, use_cache=True).past_key_values
    first = owl.prepare_inputs_for_generation(**words, mm_encoder_outputs=seen, is_first_iteration=True)
    assert first["mm_encoder_outputs"] is seen
    later = owl.prepare_inputs_for_generation(**words, mm_encoder_outputs=seen, past_key_values=cache)
    assert later.get("mm_encoder_outputs") is None
    without_cache = owl.prepare_inputs_for_generation(**words, mm_encoder_outputs=seen, use_cache=False)
    assert without_cache["mm_encoder_outputs"] is seen


def test_sampling_several_answers_repeats_the_pictures(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    said = owl.generate(**inputs, max_new_tokens=3, do_sample=True, num_return_sequences=2, pad_token_id=0)
    assert len(said) == 6


def test_penalties_do_not_trip_over_a_pictures_id(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    """It is outside of the vocabulary, and penalties look tokens up in the scores."""
    said = owl.generate(**inputs, **GREEDY, repetition_penalty=1.3, no_repeat_ngram_size=2)
    for row in said[:, inputs["input_ids"].shape[1] :].tolist():
        pairs = list(pairwise(row))
        assert len(set(pairs)) == len(pairs)


def test_a_pictures_places_count_for_no_word(owl: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor) -> None:
    inputs = processor(text="<image>ab", images=[picture()])
    steps = owl.generate(
        **inputs, **GREEDY, repetition_penalty=5.0, return_dict_in_generate=True, output_scores=True, output_logits=True
    )
    penalised = steps.scores[0][0].ne(steps.logits[0][0]).nonzero().flatten().tolist()
    said = set(inputs["input_ids"][0].tolist()) - {owl.config.image_token_id}
    assert penalised == sorted(said)


def test_pipeline_answers_one_and_many(owl: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor) -> None:
    def chat(words: str, seed: int) -> list[dict]:
        parts = [{"type": "image", "image": picture(seed)}, {"type": "text", "text": words}]
        return [{"role": "user", "content": parts}]

    ask = pipeline("image-text-to-text", model=owl, processor=processor)
    chats = [chat("What?", 1), chat("And what is this?", 2)]
    settings = {"generate_kwargs": {**GREEDY}, "return_full_text": False}
    single = [ask(text=one, **settings)[0]["generated_text"] for one in chats]
    batched = [answer[0]["generated_text"] for answer in ask(text=chats, **settings, batch_size=2)]
    assert batched == single

    inputs = processor.apply_chat_template(chats[1], tokenize=True, return_dict=True, add_generation_prompt=True)
    said = owl.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    assert processor.batch_decode(said, skip_special_tokens=True) == [single[1]]


def test_without_a_begin_token_they_count_for_no_word_either(processor: MplugOwlProcessor) -> None:
    """Qwen has none: token 0 would be punished in every prompt with a picture."""
    owl = owl_of("llama", bos_token_id=None)
    inputs = processor(text="<image>ab<image>", images=[picture(), picture(1)], add_special_tokens=False)
    steps = owl.generate(
        **inputs, **GREEDY, repetition_penalty=5.0, return_dict_in_generate=True, output_scores=True, output_logits=True
    )
    penalised = steps.scores[0][0].ne(steps.logits[0][0]).nonzero().flatten().tolist()
    assert penalised == sorted(set(inputs["input_ids"][0].tolist()) - {owl.config.image_token_id})
    alone = processor(text="<image>", images=[picture()], add_special_tokens=False)
    assert len(owl.generate(**alone, **GREEDY, repetition_penalty=5.0)) == 1
