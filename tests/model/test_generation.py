"""What generate does at the end of the language model's positions. How it treats pictures is in test_owl."""

import pytest
from transformers import BloomConfig

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.errors import UserError
from mplug_owl.model.config import max_positions
from tests.tiny import LANGUAGES, tiny_config, tiny_owl, tiny_processor


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
