"""BLIP-2's first step (arXiv 2301.12597, section 3.2): a Q-Former learns from pictures and their texts alone.

The Q-Former gets a text side: word embeddings and, in every layer, an MLP of its own. Queries and words share self-attention,
and a mask says who sees whom. Only queries see the picture. Three losses are summed:

    contrast    unimodal mask            the picture's best query and the text's first state, against the others of the batch
    matching    bidirectional mask       do picture and text belong together? the wrong ones are hard negatives
    generation  multimodal causal mask   the next word, from what the queries took out of the picture

Afterwards the text side is taken off, and the Q-Former is an owl's connector as any other.

Shapes: I pairs, Q queries, L words, A = Q + L, P vision tokens, D width, C width of contrast, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from mplug_owl.errors import UserError
from mplug_owl.model.checkpoints import read_tensors
from mplug_owl.model.connectors import QFormer, QFormerLayer
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.towers import encode_images

Sight = Literal["unimodal", "bidirectional", "multimodal causal"]

CONTRAST_WIDTH = 256  # released code, as are the next two
TEMPERATURE = 0.07
SMOOTHING = 0.1  # of the labels of contrast and generation


class TextSide(nn.Module):
    """What a Q-Former reads and writes words with, and the heads of the three losses.

    Args:
        qformer: whose layers the words share.
        vocabulary: V, how many tokens the texts are made of; two rows more are for what begins a text.
        longest: the longest text in tokens.
    """

    def __init__(self, qformer: QFormer, vocabulary: int, longest: int) -> None:
        super().__init__()
        width = qformer.norm.normalized_shape[0]
        # `[CLS]` begins a text that is read, `[DEC]` one that is written.
        self.cls_id, self.dec_id = vocabulary, vocabulary + 1
        self.words = nn.Embedding(vocabulary + 2, width)
        self.positions = nn.Embedding(longest + 1, width)
        self.layers = nn.ModuleList(TextMLP(cast(QFormerLayer, layer)) for layer in qformer.layers)
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.image_projection = nn.Linear(width, CONTRAST_WIDTH)
        self.text_projection = nn.Linear(width, CONTRAST_WIDTH)
        self.match = nn.Linear(width, 2)
        self.temperature = nn.Parameter(torch.tensor(TEMPERATURE))

    def embed(self, ids_IL: Tensor) -> Tensor:
        """Words and where they stand [I, L, D], before the norm that queries and words share."""
        return self.words(ids_IL) + self.positions.weight[: ids_IL.shape[1]]

    def scores(self, states: Tensor) -> Tensor:
        """The next word's scores [..., V]: BERT's head, its table that of the words read."""
        return nn.functional.linear(self.transform(states), self.words.weight[: len(self.bias)], self.bias)


class TextMLP(nn.Module):
    """The words' half of a Q-Former layer: an MLP as wide as the queries', and its norm."""

    def __init__(self, layer: QFormerLayer) -> None:
        super().__init__()
        first, second = cast(nn.Linear, layer.mlp[0]), cast(nn.Linear, layer.mlp[2])
        self.mlp = nn.Sequential(
            nn.Linear(first.in_features, first.out_features),
            nn.GELU(),
            nn.Linear(second.in_features, second.out_features),
        )
        self.mlp_norm = nn.LayerNorm(layer.mlp_norm.normalized_shape, layer.mlp_norm.eps)

    def forward(self, words_ILD: Tensor) -> Tensor:
        return self.mlp_norm(words_ILD + self.mlp(words_ILD))


@dataclass(frozen=True)
class Losses:
    """The three losses of a batch, each a mean: over pairs and both directions, over pairs right and wrong, over words."""

    contrast: Tensor
    matching: Tensor
    generation: Tensor


class FirstStep(nn.Module):
    """An owl whose Q-Former learns by the three losses; called as the owl itself is while it trains.

    Args:
        owl: has a Q-Former with a text side, see `add_text_side`. Its language model stays as it is, and is not run.
    """

    def __init__(self, owl: MplugOwlForConditionalGeneration) -> None:
        super().__init__()
        self.owl = owl

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        pixel_values: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **unused: object,
    ) -> ModelOutput:
        """The loss of a batch [B, T] whose rows have one picture each: what is supervised in a row is the picture's text.

        A pass of a larger step counts by its share of the step's words, `num_items_in_batch`. Its negatives are its own.
        Raises UserError where pictures and rows do not pair up.
        """
        side = text_side(self.owl)
        if not bool((labels[:, 1:] != -100).any()):  # a process with nothing to do; or a mean over no words would be no number
            return ModelOutput(loss=0.0 * side.temperature)
        if pixel_values is None or len(pixel_values) != len(input_ids):
            images = 0 if pixel_values is None else len(pixel_values)
            raise UserError(f"{images} pictures in {len(input_ids)} samples; BLIP-2's first step needs one picture in each")
        ids_IL, read_IL = texts_of(labels)
        found = losses(self.owl, pixel_values, ids_IL, read_IL)
        words = read_IL.sum()
        share = words / torch.as_tensor(words if num_items_in_batch is None else num_items_in_batch, device=words.device)
        return ModelOutput(loss=share * (found.contrast + found.matching + found.generation))


def add_text_side(owl: MplugOwlForConditionalGeneration, longest: int) -> None:
    """Give the owl's Q-Former a fresh text side for the language model's tokens. Raises UserError where it has none."""
    qformer = owl.model.abstractor
    if not isinstance(qformer, QFormer):
        kind = owl.config.visual_abstractor_config.connector
        raise UserError(f"visual_abstractor_config.connector is {kind}; BLIP-2's first step teaches a qformer")
    side = TextSide(qformer, owl.get_input_embeddings().num_embeddings, longest)
    qformer.text = side.apply(owl._init_weights)


def text_side(owl: MplugOwlForConditionalGeneration) -> TextSide:
    """The text side of the owl's Q-Former."""
    return cast(TextSide, owl.model.abstractor.text)


def save_text_side(owl: MplugOwlForConditionalGeneration, file: Path) -> None:
    """Take the text side off into a file: what stays is an owl as any other."""
    save_file({name: tensor.contiguous() for name, tensor in text_side(owl).state_dict().items()}, file)
    del owl.model.abstractor.text


def load_text_side(owl: MplugOwlForConditionalGeneration, file: Path) -> None:
    """Put a text side back on the Q-Former that it learned with. Raises UserError where the two do not fit."""
    if not file.is_file():
        raise UserError(f"{file}: no such file; a run of BLIP-2's first step leaves it beside its model/")
    weights = read_tensors(file)
    try:
        add_text_side(owl, len(weights["positions.weight"]) - 1)
        text_side(owl).load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{file}: does not fit this model's Q-Former ({str(error).splitlines()[-1].strip()})") from error


def losses(owl: MplugOwlForConditionalGeneration, pixels_I3SS: Tensor, ids_IL: Tensor, read_IL: Tensor) -> Losses:
    """The three losses of pictures and the texts of the same index, `read_IL` false where a text has ended.

    Hard negatives are drawn from torch's generator: for every text a wrong picture, and for every picture a wrong text, the
    more often the more alike they are. A text that is word for word the right one is no wrong one.
    """
    qformer, side = cast(QFormer, owl.model.abstractor), text_side(owl)
    patches_IPD = encode_images(owl.model.vision_tower, pixels_I3SS).last_hidden_state
    assert patches_IPD is not None  # noqa: S101  (transformers types what every tower gives as optional)

    similar_II = similarities(qformer, side, patches_IPD, ids_IL, read_IL) / side.temperature
    own_I = torch.arange(len(ids_IL), device=ids_IL.device)
    contrast = (
        nn.functional.cross_entropy(similar_II, own_I, label_smoothing=SMOOTHING)
        + nn.functional.cross_entropy(similar_II.T, own_I, label_smoothing=SMOOTHING)
    ) / 2

    pictures_K, texts_K, fits_K = with_negatives(similar_II.detach(), ids_IL)
    matches_K2 = matching(qformer, side, patches_IPD[pictures_K], ids_IL[texts_K], read_IL[texts_K])
    match = nn.functional.cross_entropy(_whole(matches_K2), fits_K)

    written_ILD = joint(qformer, side, patches_IPD, *_begun(side.dec_id, ids_IL, read_IL), "multimodal causal")[1]
    scores_RV = _whole(side.scores(written_ILD[:, :-1][read_IL]))
    generation = nn.functional.cross_entropy(scores_RV, ids_IL[read_IL], label_smoothing=SMOOTHING)
    return Losses(contrast, match, generation)


def similarities(qformer: QFormer, side: TextSide, patches_IPD: Tensor, ids_JL: Tensor, read_JL: Tensor) -> Tensor:
    """Cosines of pictures and texts [I, J]: of a picture's queries the one that is most like the text counts.

    The unimodal mask lets neither side see the other, so each is computed alone.
    """
    queries_IQD = joint(qformer, side, patches_IPD, None, None, "unimodal")[0]
    words_JLD = joint(qformer, side, None, *_begun(side.cls_id, ids_JL, read_JL), "unimodal")[1]
    images_IQC = nn.functional.normalize(_whole(side.image_projection(queries_IQD)), dim=-1)
    texts_JC = nn.functional.normalize(_whole(side.text_projection(words_JLD[:, 0])), dim=-1)
    return torch.einsum("iqc,jc->ijq", images_IQC, texts_JC).amax(-1)


def matching(qformer: QFormer, side: TextSide, patches_KPD: Tensor, ids_KL: Tensor, read_KL: Tensor) -> Tensor:
    """Scores [K, 2] of pairs: not of each other, of each other. The mean over what every query says."""
    queries_KQD = joint(qformer, side, patches_KPD, *_begun(side.cls_id, ids_KL, read_KL), "bidirectional")[0]
    return side.match(queries_KQD).mean(1)


@torch.no_grad()
def with_negatives(similar_II: Tensor, ids_IL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs to match: the right ones, then a wrong picture for each text, then a wrong text for each picture.

    Indices of pictures, of texts, and 1 where they fit. Rows that have no wrong partner in the batch get none.
    """
    same_II = (ids_IL[:, None] == ids_IL[None]).all(-1)
    own_I = torch.arange(len(ids_IL), device=ids_IL.device)
    has_I = ~same_II.all(-1)
    pictures, texts = [own_I], [own_I]
    if bool(has_I.any()):
        for_texts, for_pictures = (
            torch.multinomial(each.softmax(-1).masked_fill(same_II, 0.0)[has_I] + 1e-6 * ~same_II[has_I], 1)[:, 0]
            for each in (similar_II.T, similar_II)
        )
        pictures += [for_texts, own_I[has_I]]
        texts += [own_I[has_I], for_pictures]
    chosen_K = torch.cat(pictures)
    return chosen_K, torch.cat(texts), (torch.arange(len(chosen_K), device=ids_IL.device) < len(ids_IL)).long()


def joint(
    qformer: QFormer,
    side: TextSide,
    patches_IPD: Tensor | None,
    ids_IL: Tensor | None,
    read_IL: Tensor | None,
    sight: Sight,
) -> tuple[Tensor, Tensor]:
    """Queries and words through the Q-Former under a mask: [I, Q, D] and [I, L, D]. Either may be left out, as none."""
    queries = 0 if patches_IPD is None else qformer.num_tokens
    parts = [] if patches_IPD is None else [qformer.query_tokens.expand(len(patches_IPD), -1, -1)]
    mask = None
    if ids_IL is not None and read_IL is not None:
        parts.append(side.embed(ids_IL))
        mask = attention_mask(sight, queries, read_IL)
    states_IAD = qformer.norm(torch.cat(parts, 1))
    for layer, text in zip(qformer.layers, side.layers, strict=True):
        layer = cast(QFormerLayer, layer)
        states_IAD = layer.self_attend(states_IAD, mask)
        queries_IQD, words_ILD = states_IAD[:, :queries], states_IAD[:, queries:]
        if layer.cross is not None and layer.cross_norm is not None and patches_IPD is not None:
            queries_IQD = layer.cross_norm(queries_IQD + layer.cross(queries_IQD, patches_IPD))
        halves = [layer.mlp_norm(queries_IQD + layer.mlp(queries_IQD))] if queries else []
        states_IAD = torch.cat([*halves, text(words_ILD)] if ids_IL is not None else halves, 1)
    return states_IAD[:, :queries], states_IAD[:, queries:]


def attention_mask(sight: Sight, queries: int, read_IL: Tensor) -> Tensor:
    """Who sees whom [I, 1, A, A], true where a row may look at a column; the paper's figure 2.

    unimodal: queries see queries, words see words. bidirectional: all see all. multimodal causal: queries see queries, words
    see queries and the words up to themselves. Nobody sees what comes after a text's end.
    """
    length = queries + read_IL.shape[1]
    place_A = torch.arange(length, device=read_IL.device)
    is_query_A = place_A < queries
    if sight == "unimodal":
        sees_AA = is_query_A[:, None] == is_query_A
    elif sight == "bidirectional":
        sees_AA = torch.ones(length, length, dtype=torch.bool, device=read_IL.device)
    else:
        sees_AA = is_query_A | (~is_query_A[:, None] & (place_A <= place_A[:, None]))
    there_IA = nn.functional.pad(read_IL, (queries, 0), value=True)
    return (sees_AA & there_IA[:, None])[:, None]


def texts_of(labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """What is supervised of each row, put together from the left [B, L], and where it is: end tokens included."""
    supervised_BT = labels_BT[:, 1:] != -100
    order_BT = supervised_BT.long().argsort(dim=1, descending=True, stable=True)
    first_BL = order_BT[:, : max(1, int(supervised_BT.sum(1).max()))]
    read_BL = supervised_BT.gather(1, first_BL)
    return labels_BT[:, 1:].gather(1, first_BL).masked_fill(~read_BL, 0), read_BL


def _begun(begin: int, ids_IL: Tensor, read_IL: Tensor) -> tuple[Tensor, Tensor]:
    """Texts with the token that begins them in front."""
    return nn.functional.pad(ids_IL, (1, 0), value=begin), nn.functional.pad(read_IL, (1, 0), value=True)


def _whole(states: Tensor) -> Tensor:
    """At least fp32, for a loss is not computed in half precision; under autocast a product of such states is one."""
    return states.to(torch.promote_types(states.dtype, torch.float32))
