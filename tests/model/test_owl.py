"""The owl whole: forward, loss, gradients, and what the ecosystem expects of it."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForImageTextToText

from mplug_owl import MplugOwlForConditionalGeneration, MplugOwlProcessor
from mplug_owl.errors import UserError
from mplug_owl.model.attention import use_packed_attention
from mplug_owl.model.owl import MplugOwlModel
from tests.model.conftest import GREEDY, PICTURES, PROMPTS
from tests.tiny import VOCABULARY, picture, tiny_config, tiny_owl, tiny_processor


def targets(owl: MplugOwlForConditionalGeneration, inputs: Any, last: int = 4) -> Tensor:
    """Labels that learn the last words alone."""
    labels = inputs["input_ids"].clone()
    labels[:, :-last] = -100
    return labels.masked_fill(labels == owl.config.image_token_id, -100)


def gradients(owl: MplugOwlForConditionalGeneration, **batch: Any) -> dict[str, Tensor]:
    """Gradients of one batch, by name."""
    owl.zero_grad()
    owl(**batch).loss.backward()
    found = {name: weight.grad.clone() for name, weight in owl.named_parameters() if weight.grad is not None}
    owl.zero_grad()
    return found


# Pictures take their places


@torch.no_grad()
def test_each_picture_goes_where_it_stands(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    features = owl.get_image_features(inputs["pixel_values"]).pooler_output
    words = owl.model.embed(inputs["input_ids"])
    embeds = words.masked_scatter(owl.model.get_placeholder_mask(inputs["input_ids"], words, features), features)
    marked = inputs["input_ids"] == owl.config.image_token_id
    assert torch.equal(embeds[marked], features.flatten(0, 1))
    assert torch.equal(embeds[~marked], owl.get_input_embeddings()(inputs["input_ids"][~marked]))


@torch.no_grad()
def test_no_device_waits_for_a_decoded_token(
    owl: MplugOwlForConditionalGeneration, inputs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions are counted once, with the prompt: counting them at every token would make an accelerator wait."""
    counted, mask = [], owl.model.get_placeholder_mask
    monkeypatch.setattr(owl.model, "get_placeholder_mask", lambda *args: counted.append(1) or mask(*args))
    owl.generate(**inputs, **GREEDY)
    assert len(counted) == 1


@torch.no_grad()
def test_another_picture_is_another_answer(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    before = owl(**inputs).logits
    inputs["pixel_values"][2] += 1
    after = owl(**inputs).logits
    assert not torch.allclose(before[1], after[1], atol=1e-3)  # the second prompt's second picture
    assert torch.equal(before[[0, 2]], after[[0, 2]])


@torch.no_grad()
def test_pictures_seen_before_need_not_be_seen_again(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    seen = {"image": owl.get_image_features(inputs["pixel_values"])}
    words = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(owl(**words, mm_encoder_outputs=seen).logits, owl(**inputs).logits)
    assert torch.equal(owl.generate(**words, mm_encoder_outputs=seen, **GREEDY), owl.generate(**inputs, **GREEDY))
    seen["image"].pooler_output = list(seen["image"].pooler_output)  # one by one, as transformers' own models give them
    assert torch.equal(owl(**words, mm_encoder_outputs=seen).logits, owl(**inputs).logits)
    with pytest.raises(ValueError, match="either pixel_values or mm_encoder_outputs"):
        owl(**inputs, mm_encoder_outputs=seen)


@pytest.mark.parametrize("pictures", [0, 1, 4])
def test_too_few_or_too_many_pictures_are_an_error_with_both_numbers(
    owl: MplugOwlForConditionalGeneration, inputs: Any, pictures: int
) -> None:
    pixels = torch.zeros(pictures, 3, 28, 28) if pictures else None
    message = rf"15 picture positions, but {pictures} pictures of 5 positions each were given: {5 * pictures}"
    with pytest.raises(ValueError, match=message):
        owl(**{**inputs, "pixel_values": pixels})


def test_embeddings_hold_their_pictures_already(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    embeds = torch.zeros(1, 3, 24)
    with pytest.raises(ValueError, match="already hold their pictures"):
        owl(inputs_embeds=embeds, pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        owl(input_ids=inputs["input_ids"], inputs_embeds=embeds)


@torch.no_grad()
def test_blooms_norm_is_for_words_alone(processor: MplugOwlProcessor) -> None:
    owl, given = tiny_owl(tiny_config(language="bloom")), []
    owl.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    inputs = processor(text=PROMPTS, images=PICTURES)
    owl(**inputs)
    marked = inputs["input_ids"] == owl.config.image_token_id
    words = owl.get_input_embeddings()(inputs["input_ids"][~marked])
    assert torch.equal(given[0][~marked], owl.model.embedding_norm(words))
    assert not torch.equal(given[0][~marked], words)
    assert torch.equal(given[0][marked], owl.get_image_features(inputs["pixel_values"]).pooler_output.flatten(0, 1))


@torch.no_grad()
def test_all_that_was_asked_for_comes_out(inputs: Any) -> None:
    owl = tiny_owl(tiny_config())
    owl.set_attn_implementation("eager")
    for model in (owl, owl.model):
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True, use_cache=True)
        assert len(outputs.hidden_states) == 1 + 2
        assert outputs.hidden_states[0].shape == (*inputs["input_ids"].shape, 24)
        assert [weights.shape[:2] for weights in outputs.attentions] == [(3, 2)] * 2
        assert outputs.past_key_values.get_seq_length() == inputs["input_ids"].shape[1]
        assert torch.equal(outputs.image_hidden_states, owl.get_image_features(inputs["pixel_values"]).pooler_output)
        bare = model(**inputs, use_cache=False)
        assert (bare.hidden_states, bare.attentions, bare.past_key_values) == (None, None, None)
    assert owl(input_ids=torch.tensor([[5, 6]])).image_hidden_states is None


@torch.no_grad()
def test_the_owl_without_its_head(inputs: Any, tmp_path: Path) -> None:
    owl = tiny_owl(tiny_config())
    owl.save_pretrained(tmp_path)
    bare = AutoModel.from_pretrained(tmp_path)
    assert type(bare) is MplugOwlModel
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is MplugOwlForConditionalGeneration
    hidden = bare(**inputs).last_hidden_state
    assert torch.equal(hidden, owl.model(**inputs).last_hidden_state)
    assert torch.equal(owl.lm_head(hidden), owl(**inputs).logits)
    assert MplugOwlModel(tiny_config()).language_model.config.hidden_size == 24


# Attention and memory


@torch.no_grad()
def test_attention_by_hand_and_by_sdpa_agree(inputs: Any) -> None:
    owl = tiny_owl(tiny_config())
    assert owl.model.vision_tower.config._attn_implementation == "sdpa"
    by_sdpa = owl(**inputs)
    owl.set_attn_implementation("eager")
    assert {owl.config._attn_implementation, owl.model.vision_tower.config._attn_implementation} == {"eager"}
    by_hand = owl(**inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(by_hand.logits[real], by_sdpa.logits[real], atol=3e-6, rtol=0)  # worst measured 6e-7


def test_activation_checkpointing_gives_the_same_gradients(inputs: Any) -> None:
    config = tiny_config()
    config.visual_abstractor_config.attention_probs_dropout_prob = 0
    owl = tiny_owl(config).train()
    batch = {**inputs, "labels": targets(owl, inputs)}
    plain = gradients(owl, **batch)
    # transformers 5.23 renamed it
    enable = getattr(owl, "activation_checkpointing_enable", None) or owl.gradient_checkpointing_enable
    enable()
    parts = (owl.model.vision_tower.layers, owl.model.abstractor.layers, owl.model.language_model.layers)
    assert all(layer.gradient_checkpointing for layers in parts for layer in layers)
    torch.testing.assert_close(gradients(owl, **batch), plain, atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("language", ["llama", "gpt2"])  # rotary positions and learned ones
def test_padding_takes_no_position(language: str) -> None:
    owl, given = tiny_owl(tiny_config(language=language)), []
    owl.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["position_ids"]), with_kwargs=True
    )
    ids = torch.tensor([[0, 0, 0, 5, 6, 7], [8, 9, 10, 11, 12, 13]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    padded = owl(input_ids=ids, attention_mask=mask).logits
    assert given[0].tolist() == [[0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5]]
    torch.testing.assert_close(padded[0, 3:], owl(input_ids=ids[:1, 3:]).logits[0], atol=2e-6, rtol=0)  # worst measured 3e-7


@torch.no_grad()
def test_a_packed_row_tells_the_kernel_its_bounds() -> None:
    owl, given = tiny_owl(tiny_config()), []
    use_packed_attention(owl.model.language_model)
    owl.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs.get("packed_bounds")), with_kwargs=True
    )
    ids, restarting = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[0, 1, 2, 0, 1]])
    cache = owl(input_ids=ids, position_ids=restarting, use_cache=True).past_key_values
    assert given[0].tolist() == [0, 3, 5]
    owl(input_ids=ids)
    owl(input_ids=ids, position_ids=restarting, attention_mask=torch.ones_like(ids))
    owl(input_ids=ids.expand(2, -1), position_ids=restarting.expand(2, -1))
    owl(input_ids=ids[:, :1], position_ids=torch.tensor([[5]]), past_key_values=cache)
    assert given[1:] == [None] * 4  # neither packed nor alone


# The loss


def test_the_loss_is_the_mean_over_learned_words_not_over_rows(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    labels = targets(owl, inputs)
    labels[0, :-1] = -100
    outputs = owl(**inputs, labels=labels)
    chosen = outputs.logits[:, :-1].log_softmax(-1).gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    by_hand = -chosen[labels[:, 1:] != -100].mean()
    torch.testing.assert_close(outputs.loss, by_hand)
    whole_run = owl(**inputs, labels=labels, num_items_in_batch=100).loss  # of several accumulated batches
    torch.testing.assert_close(whole_run, outputs.loss * 9 / 100)


def test_a_head_at_learned_rows_alone_gives_the_same_loss_and_gradients(
    owl: MplugOwlForConditionalGeneration, inputs: Any
) -> None:
    batch = {**inputs, "labels": targets(owl, inputs)}
    everywhere, there = owl(**batch), owl(**batch, supervised_only=True)
    assert there.logits.shape == (12, VOCABULARY)
    torch.testing.assert_close(there.loss, everywhere.loss, atol=1e-6, rtol=0)  # worst measured 0
    ours, theirs = gradients(owl, **batch, supervised_only=True), gradients(owl, **batch)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)  # worst measured 0


@pytest.mark.parametrize("supervised_only", [False, True])
def test_nothing_to_learn_is_loss_0_and_gradients_0(
    owl: MplugOwlForConditionalGeneration, inputs: Any, supervised_only: bool
) -> None:
    """The original has NaN here, and loses the run."""
    batch = {**inputs, "labels": torch.full_like(inputs["input_ids"], -100), "supervised_only": supervised_only}
    assert owl(**batch).loss.item() == 0
    found = gradients(owl, **batch)
    assert found.keys() == dict(owl.named_parameters()).keys()
    assert not any(gradient.any() for gradient in found.values())


def test_labels_need_every_position(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    with pytest.raises(ValueError, match="labels need every position"):
        owl(**inputs, labels=inputs["input_ids"], logits_to_keep=1)


@torch.no_grad()
def test_logits_can_be_had_at_the_end_alone(owl: MplugOwlForConditionalGeneration, inputs: Any) -> None:
    torch.testing.assert_close(owl(**inputs, logits_to_keep=2).logits, owl(**inputs).logits[:, -2:])


@torch.no_grad()
@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("final_logit_softcapping", 0.5, lambda logits: torch.tanh(logits / 0.5) * 0.5),  # Gemma
        ("logit_scale", 0.25, lambda logits: logits * 0.25),  # Cohere
        ("logits_scaling", 8.0, lambda logits: logits / 8.0),  # Granite
    ],
)
def test_a_language_model_may_cap_or_scale_its_logits(inputs: Any, field: str, value: float, expected: Any) -> None:
    owl = tiny_owl(tiny_config())
    plain = owl(**inputs).logits
    setattr(owl.config.text_config, field, value)
    torch.testing.assert_close(owl(**inputs).logits, expected(plain), atol=1e-7, rtol=1e-6)


# The parts


def test_what_transformers_asks_of_a_class(owl: MplugOwlForConditionalGeneration) -> None:
    """Whether layers may be recomputed, and which kernels of attention may be put in."""
    for part in (owl, owl.model, owl.model.vision_tower):
        assert part.supports_gradient_checkpointing
        assert part._supports_sdpa
        assert part._supports_flash_attn
        assert part._supports_attention_backend
    assert owl.input_modalities == ["image", "text"]


def test_growing_the_vocabulary_leaves_pictures_alone() -> None:
    """The pictures' id moves on in the model and in its processor, so no new token is a picture."""
    owl = tiny_owl(tiny_config())
    processor = tiny_processor(owl)
    prompt = {"text": "a<image>b", "images": [picture()]}
    before = owl(**processor(**prompt)).logits
    processor.tokenizer.add_tokens(["[NEW]"])
    owl.resize_token_embeddings(VOCABULARY + 5)
    assert processor.image_token_id == owl.config.image_token_id == VOCABULARY + 5
    assert processor(text="[NEW]")["input_ids"].tolist() == [[1, VOCABULARY]]
    torch.testing.assert_close(owl(**processor(**prompt)).logits[..., :VOCABULARY], before)


@torch.no_grad()
def test_an_embedding_table_can_be_replaced() -> None:
    owl, ids = tiny_owl(tiny_config()), torch.tensor([[5, 6, 7]])
    table = torch.nn.Embedding(VOCABULARY, 24)
    owl.set_input_embeddings(table)
    assert owl.get_input_embeddings() is owl.model.get_input_embeddings() is owl.model.language_model.embed_tokens is table
    assert owl.get_output_embeddings() is owl.lm_head
    assert torch.equal(owl(input_ids=ids).logits, owl(inputs_embeds=table(ids)).logits)


@pytest.mark.parametrize("language", ["bloom", "gemma3", "opt"])
def test_a_tied_head_stays_tied(language: str, tmp_path: Path) -> None:
    config = tiny_config(language=language)
    assert config.tie_word_embeddings
    tiny_owl(config).save_pretrained(tmp_path)
    for owl in (tiny_owl(config), MplugOwlForConditionalGeneration.from_pretrained(tmp_path)):
        assert owl.lm_head.weight is owl.get_input_embeddings().weight
    assert not any(name.startswith("lm_head") for name in load_file(tmp_path / "model.safetensors"))


def test_the_config_given_is_left_as_it_is() -> None:
    config = tiny_config()
    before = deepcopy(config.to_dict())
    tiny_owl(config)
    assert config.to_dict() == before


def test_losses_may_be_weighed() -> None:
    """By weights of one it is the plain loss; a label that weighs nothing changes nothing."""
    owl = tiny_owl(tiny_config())
    ids = torch.randint(3, 90, (2, 9))
    labels, ones = ids.clone(), torch.ones(2, 9)
    labels[:, :4] = -100
    plain = owl(input_ids=ids, labels=labels).loss
    weighed = owl(input_ids=ids, labels=labels, loss_weights=ones, num_items_in_batch=10).loss
    torch.testing.assert_close(weighed, plain)
    half = torch.where(torch.arange(9) < 6, ones, 0)
    less = torch.where(torch.arange(9) < 6, labels, -100)
    torch.testing.assert_close(
        owl(input_ids=ids, labels=labels, loss_weights=half, num_items_in_batch=4).loss, owl(input_ids=ids, labels=less).loss
    )


def test_weights_that_sum_to_less_than_one_are_divided_by_their_sum() -> None:
    owl, ids = tiny_owl(tiny_config()), torch.randint(3, 90, (1, 9))
    weights = torch.full((1, 9), 0.1)
    weighed = owl(input_ids=ids, labels=ids, loss_weights=weights, num_items_in_batch=weights[:, 1:].sum()).loss
    torch.testing.assert_close(weighed, owl(input_ids=ids, labels=ids).loss)


@torch.no_grad()
def test_no_pictures_may_be_a_tensor_of_none(owl: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor) -> None:
    words = processor(text="ab")
    assert torch.equal(owl(**words, pixel_values=torch.zeros(0, 3, 28, 28)).logits, owl(**words).logits)


def test_pictures_of_another_width_than_words_are_not_scattered_over_them() -> None:
    """OPT-350m's embeddings are half as wide as its hidden states; torch would fill the positions with half a picture."""
    config = tiny_config(language="opt")
    config.text_config.word_embed_proj_dim = 12
    owl = tiny_owl(config)
    with pytest.raises(UserError, match=r"positions of width 24 and the language model's word embeddings have 12"):
        owl(**tiny_processor(owl)(text="a<image>b", images=[picture()]))
