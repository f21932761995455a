"""BLIP-2's first step against the paper's equations written out, and against transformers' Q-Former and its retrieval."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import gelu, pad
from transformers import Blip2Config, Blip2ForImageTextRetrieval, Blip2QFormerConfig

from mplug_owl import MplugOwlForConditionalGeneration, UserError
from mplug_owl.model import blip2
from mplug_owl.model.connectors import QFormer
from mplug_owl.model.towers import encode_images
from tests.model.equations import norm
from tests.model.test_connectors import blip2_name
from tests.tiny import shaken, tiny_config, tiny_owl

LABELS = torch.tensor([[-100, -100, 7, 8, 2], [-100, -100, 9, 2, -100], [-100, -100, 7, 9, 2]])
IDS = torch.tensor([[7, 8, 2], [9, 2, 0], [7, 9, 2]])
READ = IDS != 0
PIXELS = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def learner(longest: int = 6) -> MplugOwlForConditionalGeneration:
    """A small owl with a text side, every weight of it random, in float64."""
    owl = tiny_owl(tiny_config(connector="qformer"))
    blip2.add_text_side(owl, longest)
    shaken(blip2.text_side(owl))
    with torch.no_grad():
        blip2.text_side(owl).temperature.fill_(0.07)
    return owl.double()


# The equations, a pair and a word at a time.


def sees(sight: str, row: int, column: int, queries: int) -> bool:
    """Figure 2 of the paper, a cell at a time."""
    if sight == "bidirectional":
        return True
    if row < queries:
        return column < queries
    return column >= queries if sight == "unimodal" else column < queries or column <= row


def plain_states(owl: MplugOwlForConditionalGeneration, patches: Tensor, ids: list[int], sight: str) -> Tensor:
    """Queries and the words of one text, through every layer: each row's attention from the columns that it sees."""
    qformer, side = owl.model.abstractor, blip2.text_side(owl)
    words = torch.stack([side.words.weight[word] + side.positions.weight[place] for place, word in enumerate(ids)])
    queries = qformer.num_tokens
    states = norm(qformer.norm, torch.cat([qformer.query_tokens[0], words]))
    for layer, text in zip(qformer.layers, side.layers, strict=True):
        states = norm(layer.own_norm, states + plain_attention(layer.own, states, states, sight, queries))
        rows = []
        for row, state in enumerate(states):
            if row < queries and layer.cross is not None:
                state = norm(layer.cross_norm, state + plain_attention(layer.cross, state[None], patches)[0])
            half = layer if row < queries else text
            inner, _, outer = half.mlp
            rows.append(norm(half.mlp_norm, state + outer(gelu(inner(state)))))
        states = torch.stack(rows)
    return states


def plain_attention(mix: Any, rows: Tensor, columns: Tensor, sight: str = "bidirectional", queries: int = 0) -> Tensor:
    """Each row's mix of the columns that it sees, head by head."""
    found = []
    for number, row in enumerate(rows):
        seen = torch.stack([column for place, column in enumerate(columns) if sees(sight, number, place, queries)])
        heads = [
            (q @ k.T / len(q) ** 0.5).exp() / (q @ k.T / len(q) ** 0.5).exp().sum() @ v
            for q, k, v in zip(*(part(each).chunk(mix.heads, -1) for part, each in PARTS(mix, row, seen)), strict=True)
        ]
        found.append(mix.out_proj(torch.cat(heads)))
    return torch.stack(found)


def PARTS(mix: Any, row: Tensor, seen: Tensor) -> list[tuple[Any, Tensor]]:
    return [(mix.query, row), (mix.key, seen), (mix.value, seen)]


def smoothed(scores: Tensor, right: int) -> Tensor:
    """-Σ p log softmax, p = 0.9 on the right one and 0.1 spread over all."""
    chances = scores.exp() / scores.exp().sum()
    return -(0.9 * chances[right].log() + 0.1 * chances.log().mean())


def plain_losses(owl: MplugOwlForConditionalGeneration, pixels: Tensor, texts: list[list[int]]) -> tuple[Tensor, ...]:
    """Contrast, matching and generation of these pictures and texts; the wrong pairs are those that torch draws now."""
    side, queries = blip2.text_side(owl), owl.model.abstractor.num_tokens
    patches = encode_images(owl.model.vision_tower, pixels).last_hidden_state
    pairs = range(len(texts))

    def unit(vector: Tensor) -> Tensor:
        return vector / vector.pow(2).sum().sqrt()

    read = [plain_states(owl, patches[i], [side.cls_id, *texts[i]], "unimodal") for i in pairs]
    images = [[unit(side.image_projection(query)) for query in states[:queries]] for states in read]
    said = [unit(side.text_projection(states[queries])) for states in read]
    alike = torch.stack([torch.stack([max(q @ text for q in image) for text in said]) for image in images]) / side.temperature
    contrast = sum(smoothed(alike[i], i) + smoothed(alike[:, i], i) for i in pairs) / (2 * len(texts))

    ids = nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    matches = []
    for picture, text, fits in zip(*(each.tolist() for each in blip2.with_negatives(alike.detach(), ids)), strict=True):
        states = plain_states(owl, patches[picture], [side.cls_id, *texts[text]], "bidirectional")
        scores = side.match(states[:queries]).mean(0)
        matches.append(-(scores[fits].exp() / scores.exp().sum()).log())

    words = []
    for i in pairs:
        states = plain_states(owl, patches[i], [side.dec_id, *texts[i]], "multimodal causal")[queries:]
        for state, word in zip(states, texts[i], strict=False):
            first, _, last = side.transform
            hidden = norm(last, gelu(first(state)))
            words.append(smoothed(hidden @ side.words.weight[:-2].T + side.bias, word))
    return contrast, sum(matches) / len(matches), sum(words) / len(words)


def test_losses_and_gradients_are_the_equations() -> None:
    """In float64: the bar is 1e-5, and a wrong mask, head or mean would be 1e-2."""
    owl = learner()
    owl.requires_grad_(False)
    owl.model.abstractor.requires_grad_(True)
    torch.manual_seed(1)
    found = blip2.losses(owl, PIXELS.double(), IDS, READ)
    torch.manual_seed(1)
    plain = plain_losses(owl, PIXELS.double(), [row[row != 0].tolist() for row in IDS])
    ours = (found.contrast, found.matching, found.generation)
    learned = {name: one for name, one in owl.named_parameters() if one.requires_grad and ".project." not in name}
    for one, other in zip(ours, plain, strict=True):
        assert one.item() == pytest.approx(other.item(), abs=1e-10)
        gradients = (
            torch.autograd.grad(each, list(learned.values()), allow_unused=True, retain_graph=True) for each in (one, other)
        )
        for name, first, second in zip(learned, *gradients, strict=True):
            zero = torch.zeros_like(learned[name])
            torch.testing.assert_close(
                first if first is not None else zero, second if second is not None else zero, atol=1e-10, rtol=0, msg=name
            )


@torch.no_grad()
def test_contrast_and_matching_are_transformers_own() -> None:
    """`Blip2ForImageTextRetrieval` with the same weights gives the same scores; norms' eps aside."""
    owl = learner()
    qformer, side = owl.model.abstractor, blip2.text_side(owl)
    sizes = {
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    theirs = Blip2ForImageTextRetrieval(
        Blip2Config(
            vision_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
            qformer_config=Blip2QFormerConfig(
                **sizes, vocab_size=len(side.words.weight), max_position_embeddings=7, layer_norm_eps=1e-5,
                use_qformer_text_input=True,
            ).to_dict(),
            num_query_tokens=4,
            image_text_hidden_size=blip2.CONTRAST_WIDTH,
        )
    ).double().eval()  # fmt: skip
    weights = qformer.state_dict()
    inside = {blip2_name(name): one for name, one in weights.items() if name.startswith(("norm.", "layers."))}
    for number, half in enumerate(side.layers):
        for name, one in half.state_dict().items():
            theirs_name = blip2_name(f"layers.{number}.{name}").replace("_query", "")
            inside[theirs_name] = one
    theirs.qformer.load_state_dict(inside)
    theirs.query_tokens.copy_(qformer.query_tokens)
    theirs.embeddings.word_embeddings.load_state_dict(side.words.state_dict())
    theirs.embeddings.position_embeddings.load_state_dict(side.positions.state_dict())
    theirs.vision_projection.load_state_dict(side.image_projection.state_dict())
    theirs.text_projection.load_state_dict(side.text_projection.state_dict())
    theirs.itm_head.load_state_dict(side.match.state_dict())

    patches = encode_images(owl.model.vision_tower, PIXELS.double()).last_hidden_state
    theirs.vision_model.forward = lambda **kwargs: (patches,)
    begun, read = pad(IDS, (1, 0), value=side.cls_id), pad(READ, (1, 0), value=True).long()
    asked = {"pixel_values": PIXELS.double(), "input_ids": begun, "attention_mask": read}
    torch.testing.assert_close(
        blip2.similarities(qformer, side, patches, IDS, READ), theirs(**asked).logits_per_image, atol=1e-6, rtol=0
    )
    matched = theirs(**asked, use_image_text_matching_head=True).logits_per_image
    torch.testing.assert_close(blip2.matching(qformer, side, patches, IDS, READ), matched, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_masks_hide_what_they_say() -> None:
    """Queries do not change with the text but where both see each other; a word does not change with those after it."""
    owl = learner()
    qformer, side = owl.model.abstractor, blip2.text_side(owl)
    assert isinstance(qformer, QFormer)
    patches = encode_images(owl.model.vision_tower, PIXELS.double()).last_hidden_state
    other = IDS.clone()
    other[:, 1:] = 5
    for sight, queries_change in (("unimodal", False), ("multimodal causal", False), ("bidirectional", True)):
        one, two = (blip2.joint(qformer, side, patches, ids, READ, sight) for ids in (IDS, other))  # type: ignore[arg-type]
        assert (one[0] != two[0]).any().item() is queries_change, sight
        assert (one[1][:, 0] != two[1][:, 0]).any().item() is (sight != "multimodal causal"), sight
    blind = blip2.joint(qformer, side, patches.flip(0), IDS, READ, "unimodal")[1]
    torch.testing.assert_close(blind, blip2.joint(qformer, side, patches, IDS, READ, "unimodal")[1], atol=0, rtol=0)


@torch.no_grad()
def test_what_comes_after_a_text_is_not_read() -> None:
    owl = learner()
    longer = [torch.cat([IDS, IDS.new_full((3, 2), 9)], 1), pad(READ, (0, 2), value=False)]
    patches = encode_images(owl.model.vision_tower, PIXELS.double()).last_hidden_state
    for asked in (blip2.similarities, blip2.matching):
        alone, padded = (asked(owl.model.abstractor, blip2.text_side(owl), patches, *text) for text in ((IDS, READ), longer))
        torch.testing.assert_close(alone, padded)


def test_wrong_pairs_are_wrong_and_the_alike_ones_come_first() -> None:
    """Text 0 and text 2 are the same words: neither is the other's wrong one."""
    ids = torch.tensor([[7, 2], [8, 2], [7, 2], [9, 2]])
    alike = torch.tensor([[9.0, 0, 9, 20], [0, 9, 0, 0], [9, 0, 9, 20], [0, 0, 0, 9]])
    pictures, texts, fits = blip2.with_negatives(alike, ids)
    assert fits.tolist() == 4 * [1] + 8 * [0]
    assert pictures[:4].tolist() == texts[:4].tolist() == [0, 1, 2, 3]
    assert all((ids[picture] != ids[text]).any() for picture, text in zip(pictures[4:], texts[4:], strict=True))
    assert texts[8:][pictures[8:] == 0].tolist() == texts[8:][pictures[8:] == 2].tolist() == [3]
    assert blip2.with_negatives(alike[:1, :1], ids[:1])[2].tolist() == [1]


def test_what_is_supervised_is_the_text() -> None:
    ids, read = blip2.texts_of(LABELS)
    assert ids.tolist() == IDS.tolist()
    assert read.tolist() == READ.tolist()


def test_a_pass_counts_by_its_share_of_the_steps_words() -> None:
    step = blip2.FirstStep(learner())
    rows = {"input_ids": LABELS, "labels": LABELS, "pixel_values": PIXELS.double()}
    torch.manual_seed(0)
    alone = step(**rows).loss
    torch.manual_seed(0)
    assert step(**rows, num_items_in_batch=torch.tensor(16)).loss.item() == pytest.approx(alone.item() / 2)
    nothing = step(input_ids=LABELS[:1], labels=torch.full((1, 5), -100)).loss
    nothing.backward()
    assert nothing.item() == 0.0
    with pytest.raises(UserError, match=r"2 pictures in 3 samples"):
        step(**{**rows, "pixel_values": PIXELS[:2]})


def test_the_text_side_comes_off_and_goes_on_again(tmp_path: Path) -> None:
    owl, file = learner(), tmp_path / "text_side.safetensors"
    before = {name: one.clone() for name, one in blip2.text_side(owl).state_dict().items()}
    names = set(tiny_owl(tiny_config(connector="qformer")).state_dict())
    blip2.save_text_side(owl, file)
    assert set(owl.state_dict()) == names
    blip2.load_text_side(owl, file)
    assert all(torch.equal(one, before[name].to(one.dtype)) for name, one in blip2.text_side(owl).state_dict().items())
    with pytest.raises(UserError, match="no such file"):
        blip2.load_text_side(owl, tmp_path / "other")
    with pytest.raises(UserError, match="connector is linear"):
        blip2.add_text_side(tiny_owl(tiny_config(connector="linear")), 6)


def test_a_picture_without_a_text_teaches_nothing() -> None:
    """A text that was cut away whole leaves no words to take a mean of."""
    loss = blip2.FirstStep(learner())(LABELS[:1], torch.full((1, 5), -100), PIXELS[:1].double()).loss
    loss.backward()
    assert loss.item() == 0.0


def test_a_text_side_that_is_damaged_is_named(tmp_path: Path) -> None:
    owl, file = learner(), tmp_path / "text_side.safetensors"
    blip2.save_text_side(owl, file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"text_side\.safetensors: not readable as weights"):
        blip2.load_text_side(owl, file)
    save_file({"other": torch.ones(1)}, file)
    with pytest.raises(UserError, match=r"text_side\.safetensors: does not fit this model's Q-Former"):
        blip2.load_text_side(owl, file)
