"""Every vision encoder with every connector with every language model, by config alone."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from mplug_owl import MplugOwlForConditionalGeneration
from mplug_owl.model.connectors import num_image_tokens
from tests.tiny import CONNECTORS, LANGUAGES, VISIONS, picture, tiny_config, tiny_owl, tiny_processor

GREEDY = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": None, "pad_token_id": 0}


ALL = [(vision, connector, language) for vision in VISIONS for connector in CONNECTORS for language in LANGUAGES]
# Each two of the three meet in these; the other triples are slow tests.
PAIRS = {
    (vision, list(CONNECTORS)[(row + column) % len(CONNECTORS)], language)
    for row, vision in enumerate(VISIONS)
    for column, language in enumerate(LANGUAGES)
}


def test_the_quick_triples_have_every_pair() -> None:
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert {(triple[one], triple[other]) for triple in PAIRS} == {(triple[one], triple[other]) for triple in ALL}


@pytest.mark.parametrize(
    ("vision", "connector", "language"),
    [pytest.param(*triple, marks=[] if triple in PAIRS else pytest.mark.slow) for triple in ALL],
)
def test_all_parts_fit(vision: str, connector: str, language: str, tmp_path: Path) -> None:
    owl = tiny_owl(tiny_config(vision, connector, language))
    inputs = tiny_processor(owl)(text=["a<image>b<image>", "left-padded"], images=[picture(1), picture(2)])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == owl.config.image_token_id, -100)
    assert num_image_tokens(owl.config) == owl.num_image_tokens

    outputs = owl(**inputs, labels=labels)
    outputs.loss.backward()
    still = [name for name, weight in owl.model.abstractor.named_parameters() if not weight.grad.any()]
    # A bias added to every key moves all scores alike: softmax does not see it.
    assert [name for name in still if not name.endswith("key.bias")] == []

    torch.testing.assert_close(owl.generate(**inputs, **GREEDY), owl.generate(**inputs, **GREEDY, use_cache=False))

    owl.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(AutoModelForImageTextToText.from_pretrained(tmp_path)(**inputs).logits, owl(**inputs).logits)


@torch.no_grad()
@pytest.mark.parametrize("language", LANGUAGES)
def test_without_pictures_it_is_the_stock_language_model(language: str) -> None:
    owl = tiny_owl(tiny_config(language=language))
    stock = AutoModelForCausalLM.from_config(owl.config.text_config).eval()
    weights = {name.removeprefix("model."): tensor for name, tensor in owl.model.language_model.state_dict().items()}
    weights |= {f"word_embeddings_layernorm.{name}": tensor for name, tensor in owl.model.embedding_norm.state_dict().items()}
    stock.base_model.load_state_dict(weights)
    stock.get_output_embeddings().load_state_dict(owl.lm_head.state_dict())

    ids = torch.randint(3, owl.config.text_config.vocab_size, (2, 20))
    assert torch.equal(owl(input_ids=ids).logits, stock(input_ids=ids).logits)
    assert torch.equal(owl.generate(ids, **GREEDY), stock.generate(ids, **GREEDY))


class Mean(torch.nn.Module):
    """The whole picture in one position."""

    num_tokens = 1

    def __init__(self, seen: int, width: int) -> None:
        super().__init__()
        self.project = torch.nn.Linear(seen, width)

    def forward(self, patches_IPD: torch.Tensor) -> torch.Tensor:
        return self.project(patches_IPD.mean(1, keepdim=True))


def test_a_connector_of_ones_own_is_one_method(tmp_path: Path) -> None:
    class MeanOwl(MplugOwlForConditionalGeneration):
        def build_connector(self, config):
            return Mean(config.vision_config.hidden_size, config.text_config.hidden_size)

    owl = MeanOwl(tiny_config()).eval()
    inputs = tiny_processor(owl)(text="a<image>b", images=[picture()])
    assert inputs["input_ids"].eq(owl.config.image_token_id).sum() == 1
    owl.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(MeanOwl.from_pretrained(tmp_path)(**inputs).logits, owl(**inputs).logits)


@torch.no_grad()
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_left_padded_batch_of_eight_is_eight_single_prompts(language: str) -> None:
    owl = tiny_owl(tiny_config(language=language))
    processor = tiny_processor(owl)
    words = "What is in this picture, and what is not, and who says so?"
    prompts = ["<image>" * (index % 3) + words[: 4 + 7 * index] for index in range(8)]
    pictures = [[picture(10 * index + image) for image in range(index % 3)] for index in range(8)]
    batch = processor(text=prompts, images=pictures)
    together, said = owl(**batch).logits, owl.generate(**batch, **GREEDY)
    for row, (prompt, images) in enumerate(zip(prompts, pictures, strict=True)):
        single = processor(text=prompt, images=images)
        alone, length = owl(**single).logits[0], single["input_ids"].shape[1]
        torch.testing.assert_close(together[row, -length:], alone, atol=1e-5, rtol=0)  # the bar; worst measured 1.1e-6
        assert torch.equal(said[row, -GREEDY["max_new_tokens"] :], owl.generate(**single, **GREEDY)[0, length:])


def test_what_a_connector_computes_and_does_not_save_is_there_again(tmp_path: Path) -> None:
    class Waves(Mean):
        """The same with a table beside it that no file has."""

        def __init__(self, seen: int, width: int) -> None:
            super().__init__(seen, width)
            self.register_buffer("table", torch.arange(seen).sin(), persistent=False)

        def forward(self, patches_IPD: torch.Tensor) -> torch.Tensor:
            return super().forward(patches_IPD + self.table)

    class WavesOwl(MplugOwlForConditionalGeneration):
        def build_connector(self, config):
            return Waves(config.vision_config.hidden_size, config.text_config.hidden_size)

    owl = WavesOwl(tiny_config()).eval()
    inputs = tiny_processor(owl)(text="a<image>b", images=[picture()])
    owl.save_pretrained(tmp_path)
    again = WavesOwl.from_pretrained(tmp_path)
    assert torch.equal(again.model.abstractor.table, owl.model.abstractor.table)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, owl(**inputs).logits)
