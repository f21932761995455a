"""mPLUG-Owl whole: f_V sees, f_K turns what it saw into language positions, f_L reads words and pictures.

Shapes: B batch, T text positions, I images, P vision tokens, N positions an image takes, E language width, V vocabulary.
"""

from typing import Unpack, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import TransformersKwargs, can_return_tuple
from transformers.utils.loading_report import LoadStateDictInfo

from mplug_owl.errors import UserError
from mplug_owl.model.attention import packed_sequences
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.connectors import build_connector
from mplug_owl.model.generation import PictureGenerationMixin
from mplug_owl.model.loss import summed_cross_entropy
from mplug_owl.model.pretrained import MplugOwlCausalLMOutputWithPast, MplugOwlModelOutputWithPast, MplugOwlPreTrainedModel
from mplug_owl.model.towers import encode_images

# Pictures encoded before, as transformers hands them on: {"image": what get_image_features gave}.
MmEncoderOutputs = dict[str, BaseModelOutputWithPooling]


class MplugOwlModel(MplugOwlPreTrainedModel):
    """The owl without its head. The forward pass in four steps:

    1. `vision_tower` (f_V) turns pictures into vision tokens;
    2. `abstractor` (f_K, or another connector) turns them into N language positions a picture;
    3. they fill the positions that the text left for them;
    4. `language_model` (f_L) reads it all.

    Args:
        config: The three modules' sizes.
        language_model: A decoder to take as f_L; by default one is made from `config.text_config`.
        connector: A module to take as f_K; by default the one that the config names.
    """

    vision_tower: PreTrainedModel
    language_model: PreTrainedModel

    def __init__(
        self, config: MplugOwlConfig, language_model: PreTrainedModel | None = None, connector: nn.Module | None = None
    ) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.abstractor = connector if connector is not None else build_connector(config)
        self.set_language_model(language_model if language_model is not None else AutoModel.from_config(config.text_config))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: MmEncoderOutputs | None = None,
        **kwargs: object,
    ) -> MplugOwlModelOutputWithPast:
        """Words and pictures to hidden states [B, T, E].

        `mm_encoder_outputs={"image": get_image_features(...)}` in place of `pixel_values` uses pictures encoded before.
        `inputs_embeds` are taken as they are, pictures and BLOOM's norm included.
        """
        begins = past_key_values is None  # else there are words that were read before
        visual_INE = self._visual(pixel_values, mm_encoder_outputs)  # steps 1 and 2
        inputs_BTE = self._inputs(input_ids, inputs_embeds, visual_INE, decodes=not begins)  # step 3
        if begins and position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # Padding takes no position: a row says the same in any batch, whatever kind of positions its language model has.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        if begins and position_ids is not None and attention_mask is None and len(position_ids) == 1:
            # One row without padding may be packed: its positions start anew with every conversation in it.
            kwargs |= packed_sequences(self.language_model, position_ids)
        outputs = self.language_model(  # step 4
            inputs_embeds=inputs_BTE,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        return MplugOwlModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.get("past_key_values"),
            hidden_states=outputs.get("hidden_states"),
            attentions=outputs.get("attentions"),
            image_hidden_states=visual_INE,
        )

    def _visual(self, pixel_values: Tensor | None, mm_encoder_outputs: MmEncoderOutputs | None) -> Tensor | None:
        """Steps 1 and 2: language positions of pictures [I, N, E], encoded now or before; None where there are no pictures."""
        encoded = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None and len(pixel_values):
            if encoded is not None:
                raise ValueError("give either pixel_values or mm_encoder_outputs, not both")
            encoded = self.get_image_features(pixel_values, return_dict=True)
        if encoded is None or encoded.pooler_output is None:
            return None
        # transformers' beam search hands pictures back as a list.
        return encoded.pooler_output if isinstance(encoded.pooler_output, Tensor) else torch.stack(list(encoded.pooler_output))

    def _inputs(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, visual_INE: Tensor | None, decodes: bool
    ) -> Tensor:
        """Step 3: words' embeddings with the pictures in their positions [B, T, E]."""
        if inputs_embeds is not None and input_ids is None:
            if visual_INE is not None:
                raise ValueError("inputs_embeds already hold their pictures: give input_ids with pixel_values")
            return inputs_embeds
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("give either input_ids or inputs_embeds")
        inputs_BTE = self.embed(input_ids)
        if visual_INE is None and decodes and input_ids.shape[1] == 1:
            return inputs_BTE  # a token that was just chosen: to count its pictures would make the device wait
        mask_BT1 = self.get_placeholder_mask(input_ids, inputs_BTE, visual_INE)
        return inputs_BTE if visual_INE is None else inputs_BTE.masked_scatter(mask_BT1, visual_INE.to(inputs_BTE))

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutputWithPooling:
        """Steps 1 and 2: pictures [I, 3, S, S] to language positions, `pooler_output` [I, N, E]."""
        outputs = encode_images(self.vision_tower, pixel_values, **kwargs)
        outputs.pooler_output = self.abstractor(outputs.last_hidden_state)
        return outputs

    def embed(self, input_ids_BT: Tensor) -> Tensor:
        """Word embeddings [B, T, E]. Token 0's stands where a picture goes: `image_token_id` need have no row in the table."""
        words_BT = input_ids_BT.masked_fill(input_ids_BT.eq(self.config.image_token_id), 0)
        return self.embedding_norm(self.get_input_embeddings()(words_BT))

    def get_placeholder_mask(self, input_ids: Tensor, inputs_embeds: Tensor, image_features: Tensor | None) -> Tensor:
        """Which positions [B, T, 1] pictures [I, N, E] fill.

        Raises:
            UserError: The text has other positions for pictures than the pictures fill, or these are not as wide as its words.
        """
        if image_features is not None and image_features.shape[-1] != inputs_embeds.shape[-1]:  # OPT-350m: 1024 and 512
            raise UserError(
                f"the connector gives positions of width {image_features.shape[-1]} and the language model's word embeddings "
                f"have {inputs_embeds.shape[-1]}; the two have to be alike"
            )
        mask_BT = input_ids.eq(self.config.image_token_id)
        images, width = (0, self.num_image_tokens) if image_features is None else image_features.shape[:2]
        if (marked := int(mask_BT.sum())) != images * width:
            raise UserError(
                f"the text has {marked} picture positions, but {images} pictures of {width} positions each were "
                f"given: {images * width}; the processor makes the two agree"
            )
        return mask_BT.unsqueeze(-1).to(inputs_embeds.device)

    @property
    def num_image_tokens(self) -> int:
        """N, how many language positions a picture takes."""
        return int(getattr(self.abstractor, "num_tokens", 0))

    def set_language_model(self, language_model: PreTrainedModel) -> None:
        """Put a decoder in as f_L.

        BLOOM norms its embeddings. That belongs to words alone, so it happens before the pictures go in between them.
        """
        self.language_model = language_model
        self.embedding_norm: nn.Module = nn.Identity()
        if isinstance(norm := getattr(language_model, "word_embeddings_layernorm", None), nn.Module):
            self.embedding_norm = norm
            language_model.word_embeddings_layernorm = nn.Identity()

    def get_input_embeddings(self) -> nn.Embedding:
        """The language model's embedding table."""
        return cast(nn.Embedding, self.language_model.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embedding table."""
        self.language_model.set_input_embeddings(value)

    def _adjust_missing_and_unexpected_keys(self, loading_info: LoadStateDictInfo) -> None:
        """A whole owl's checkpoint has a head; here it is left out on purpose."""
        super()._adjust_missing_and_unexpected_keys(loading_info)
        loading_info.unexpected_keys = {key for key in loading_info.unexpected_keys if not key.startswith("lm_head.")}


class MplugOwlForConditionalGeneration(MplugOwlPreTrainedModel, PictureGenerationMixin):
    """An owl that speaks: `model` and the language model's own head.

    Args:
        config: The three modules' sizes.

    Raises:
        UserError: The sizes do not fit together.

    Example:
        >>> from mplug_owl import MplugOwlConfig, MplugOwlForConditionalGeneration
        >>> small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        >>> config = MplugOwlConfig(vision_config=small, text_config=small, visual_abstractor_config=small)
        >>> MplugOwlForConditionalGeneration(config).num_image_tokens
        65
    """

    def __init__(self, config: MplugOwlConfig) -> None:
        super().__init__(config)
        whole = AutoModelForCausalLM.from_config(config.text_config)
        self.model = MplugOwlModel(config, whole.base_model, self.build_connector(config))
        self.lm_head = whole.get_output_embeddings()
        table = self.model.get_input_embeddings().weight
        source = next(name for name, parameter in self.named_parameters(remove_duplicate=False) if parameter is table)
        self._tied_weights_keys = {"lm_head.weight": source}
        self.post_init()

    def build_connector(self, config: MplugOwlConfig) -> nn.Module:
        """The module between vision and language; override to plug in your own.

        It maps vision tokens [I, P, D] to language positions [I, N, E] and has N as `num_tokens`.
        """
        return build_connector(config)

    @property
    def num_image_tokens(self) -> int:
        """N, how many language positions a picture takes."""
        return self.model.num_image_tokens

    def get_input_embeddings(self) -> nn.Embedding:
        """The language model's embedding table."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embedding table."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The head that turns hidden states into logits."""
        return self.lm_head

    def get_image_features(self, pixel_values: Tensor, **kwargs: object) -> BaseModelOutputWithPooling:
        """Pictures [I, 3, S, S] to language positions, `pooler_output` [I, N, E]."""
        return self.model.get_image_features(pixel_values, **kwargs)

    # Over 40 lines: transformers reads the parameters' names, so they are written out, and each says what it is.
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        loss_weights: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: MmEncoderOutputs | None = None,
        supervised_only: bool = False,
        loss_only: bool = False,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: object,
    ) -> MplugOwlCausalLMOutputWithPast:
        """Words and pictures to logits, and to a loss where labels are given.

        Args:
            input_ids: Token ids [B, T], `config.image_token_id` at every position of a picture.
            pixel_values: Pictures [I, 3, S, S], every one of the batch in reading order.
            attention_mask: 1 for what is read and 0 for padding, [B, T].
            position_ids: Positions [B, T]; by default padding takes none. Without a mask, a row that starts anew is packed.
            past_key_values: What was read before.
            inputs_embeds: In place of `input_ids`: embeddings [B, T, E], pictures and BLOOM's norm included.
            labels: What is supervised [B, T], -100 elsewhere. The loss is cross entropy in fp32, summed over supervised
                tokens and divided by their number; where nothing is supervised it is 0 with zero gradients.
            loss_weights: A weight [B, T] for each label's loss; `num_items_in_batch` is then their sum.
            logits_to_keep: The head is computed at this many last positions (0: all), or at these positions.
            mm_encoder_outputs: `{"image": get_image_features(...)}` in place of `pixel_values`: pictures encoded before.
            supervised_only: Compute the head at supervised positions alone: same loss and gradients, logits [rows, V].
            loss_only: Return no logits, which takes a third of the head's memory and time beside its products: for training.
            num_items_in_batch: What the summed loss is divided by.
            kwargs: What the language model takes beside these.

        Raises:
            UserError: The text has other positions for pictures than the pictures fill.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        hidden_BTE = outputs.last_hidden_state
        logits: Tensor | None = None
        loss: Tensor | None = None
        if labels is None:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.logits(hidden_BTE[:, keep])
        else:
            if not isinstance(logits_to_keep, int) or logits_to_keep:
                raise ValueError("labels need every position: give them without logits_to_keep")
            some = "none" if loss_only and self.has_plain_head else "some"
            rows = some if supervised_only or loss_only else "all"
            logits, loss = self._supervised(hidden_BTE, labels, loss_weights, rows, num_items_in_batch)
            logits = None if loss_only else logits
        return MplugOwlCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def _supervised(
        self, hidden_BTE: Tensor, labels_BT: Tensor, weights_BT: Tensor | None, rows: str, items: int | Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """The loss of the next token at every position that is supervised; logits of "all" positions, of "some", or "none"."""
        next_BT = nn.functional.pad(labels_BT, (0, 1), value=-100)[:, 1:]
        supervised_BT = next_BT.ne(-100)
        targets_R, logits = next_BT[supervised_BT], None
        weights_R = None if weights_BT is None else nn.functional.pad(weights_BT, (0, 1))[:, 1:][supervised_BT]
        if rows == "none":
            summed = summed_cross_entropy(self.lm_head, hidden_BTE[supervised_BT], targets_R, weights_R)
        else:
            logits = self.logits(hidden_BTE[supervised_BT] if rows == "some" else hidden_BTE)
            logits_RV = (logits if rows == "some" else logits[supervised_BT]).float()
            losses = nn.functional.cross_entropy(logits_RV, targets_R, reduction="sum" if weights_R is None else "none")
            summed = losses if weights_R is None else (losses * weights_R).sum()
        count = torch.as_tensor(supervised_BT.sum() if items is None else items, device=summed.device)
        return logits, summed / count.masked_fill(count == 0, 1)

    @property
    def has_plain_head(self) -> bool:
        """Whether logits are a linear layer's and nothing more, no scale, no cap and no adapter."""
        extras = ("logit_scale", "logits_scaling", "final_logit_softcapping")
        plain = all(getattr(self.config.text_config, name, None) in (None, 1) for name in extras)
        return plain and type(self.lm_head) is nn.Linear

    def logits(self, hidden: Tensor) -> Tensor:
        """The head, with the cap and the scales that some language models (Gemma, Cohere, Granite) put on it."""
        text, logits = self.config.text_config, self.lm_head(hidden)
        # Where there is no scale nothing is multiplied: logits are the largest tensor of a step.
        if (scale := (getattr(text, "logit_scale", None) or 1) / (getattr(text, "logits_scaling", None) or 1)) != 1:
            logits = logits * scale
        if cap := getattr(text, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits


AutoModel.register(MplugOwlConfig, MplugOwlModel)
AutoModelForImageTextToText.register(MplugOwlConfig, MplugOwlForConditionalGeneration)
