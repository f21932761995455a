"""mPLUG-Owl whole: f_V looks, f_K says it in language positions, f_L reads words and pictures and goes on.

Shapes: B batch, T text positions, I images, P vision tokens, N positions a picture takes, E language width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.generation import LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, ModelOutput
from transformers.utils.generic import can_return_tuple

from mplug_owl.model import checkpoints
from mplug_owl.model.attention import packed_sequences
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.connectors import build_connector
from mplug_owl.model.towers import encode_images
from mplug_owl.model.vision import MplugOwlVisionModel


@dataclass
class MplugOwlModelOutputWithPast(BaseModelOutputWithPast):
    """Hidden states of the language model, and the pictures' positions [I, N, E] that went into it."""

    image_hidden_states: Tensor | None = None


@dataclass
class MplugOwlCausalLMOutputWithPast(ModelOutput):
    """Logits [B, T, V], or [rows, V] where only learned rows were asked for, and the loss when labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Tensor | None = None


class MplugOwlPreTrainedModel(PreTrainedModel):
    """What transformers has to know of every owl."""

    config: MplugOwlConfig
    config_class = MplugOwlConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["AbstractorLayer", "QFormerLayer", "ResamplerLayer", *MplugOwlVisionModel._no_split_modules]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # Rotary tables that old checkpoints carry; they are computed, not learned.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if hasattr(module, "init_queries"):
            module.init_queries(self.config.visual_abstractor_config.initializer_range)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load an original checkpoint or one of ours; the layout is recognised by its names.

        As transformers' own, but a missing, unexpected or misshapen weight is an error: a module that is silently
        initialised anew is worse than none. Raises ValueError that names the weights.
        """
        return checkpoints.load(cls, super().from_pretrained, pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, save_original_format: bool = False, **kwargs: Any) -> None:
        """As transformers' own, in our layout, which every tool reads; `owl convert --original` writes the original's."""
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)


class MplugOwlModel(MplugOwlPreTrainedModel):
    """The owl without its head. The forward pass in four steps:

    1. `vision_tower` (f_V) turns pictures into vision tokens;
    2. `abstractor` (f_K, or another connector) turns them into N language positions a picture;
    3. they take the places that the text left for them;
    4. `language_model` (f_L) reads it all.
    """

    # A whole owl's checkpoint has a head; here it is left out on purpose.
    _keys_to_ignore_on_load_unexpected = [*MplugOwlPreTrainedModel._keys_to_ignore_on_load_unexpected, r"lm_head\."]

    def __init__(
        self, config: MplugOwlConfig, language_model: nn.Module | None = None, connector: nn.Module | None = None
    ) -> None:
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.abstractor = connector if connector is not None else build_connector(config)
        self.set_language_model(language_model if language_model is not None else AutoModel.from_config(config.text_config))
        self.post_init()

    def set_language_model(self, language_model: nn.Module) -> None:
        """Put a decoder in as f_L.

        BLOOM norms its embeddings. That belongs to words alone, so it happens before the pictures take their places.
        """
        self.language_model = language_model
        self.embedding_norm: nn.Module = nn.Identity()
        if hasattr(language_model, "word_embeddings_layernorm"):
            self.embedding_norm = language_model.word_embeddings_layernorm
            language_model.word_embeddings_layernorm = nn.Identity()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's embedding table."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embedding table."""
        self.language_model.set_input_embeddings(value)

    @can_return_tuple
    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Steps 1 and 2: pictures [I, 3, S, S] to language positions, `pooler_output` [I, N, E]."""
        seen = encode_images(self.vision_tower, pixel_values, **kwargs)
        seen.pooler_output = self.abstractor(seen.last_hidden_state)
        return seen

    def embed(self, input_ids_BT: Tensor) -> Tensor:
        """Word embeddings [B, T, E]; zeros' embedding at the places of pictures, whose id no table need hold."""
        words_BT = input_ids_BT.masked_fill(input_ids_BT.eq(self.config.image_token_id), 0)
        return self.embedding_norm(self.get_input_embeddings()(words_BT))

    def place(self, visual_INE: Tensor | None, input_ids_BT: Tensor, inputs_BTE: Tensor) -> Tensor:
        """Step 3: pictures, in order, into the positions marked for them."""
        marked_BT = input_ids_BT.eq(self.config.image_token_id)
        marked = int(marked_BT.sum())
        pictures, positions = (0, getattr(self.abstractor, "num_tokens", 0)) if visual_INE is None else visual_INE.shape[:2]
        if marked != pictures * positions:
            raise ValueError(
                f"the text has {marked} picture positions, but {pictures} pictures of {positions} positions each were "
                f"given: {pictures * positions}; the processor makes the two agree"
            )
        if visual_INE is None:
            return inputs_BTE
        return inputs_BTE.masked_scatter(marked_BT.unsqueeze(-1), visual_INE.to(inputs_BTE))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> MplugOwlModelOutputWithPast:
        """Words and pictures to hidden states [B, T, E].

        `mm_encoder_outputs={"image": get_image_features(...)}` in place of `pixel_values` uses pictures seen before.
        `inputs_embeds` are taken as they are, pictures and BLOOM's norm included.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        seen = (mm_encoder_outputs or {}).get("image")
        if pixel_values is not None:
            if seen is not None:
                raise ValueError("give either pixel_values or mm_encoder_outputs, not both")
            if inputs_embeds is not None:
                raise ValueError("inputs_embeds already hold their pictures: give input_ids with pixel_values")
            seen = self.get_image_features(pixel_values, return_dict=True)
        visual_INE = _stacked(seen.pooler_output) if seen is not None else None
        if inputs_embeds is None:
            inputs_embeds = self.place(visual_INE, input_ids, self.embed(input_ids))
        if position_ids is None and past_key_values is None and attention_mask is not None and attention_mask.ndim == 2:
            # Padding takes no position: a row says the same in any batch, whatever kind of positions its language model has.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        if position_ids is not None and attention_mask is None and past_key_values is None and len(position_ids) == 1:
            kwargs |= packed_sequences(self.language_model, position_ids)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
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


class MplugOwlForConditionalGeneration(MplugOwlPreTrainedModel, GenerationMixin):
    """An owl that speaks: `model` and the language model's own head."""

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
        return self.model.abstractor.num_tokens

    def get_input_embeddings(self) -> nn.Module:
        """The language model's embedding table."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embedding table."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The head that turns hidden states into logits."""
        return self.lm_head

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Pictures [I, 3, S, S] to language positions, `pooler_output` [I, N, E]."""
        return self.model.get_image_features(pixel_values, **kwargs)

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
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        supervised_only: bool = False,
        num_items_in_batch: int | Tensor | None = None,
        **kwargs: Any,
    ) -> MplugOwlCausalLMOutputWithPast:
        """Words and pictures to logits, and to a loss where `labels` [B, T] say what is learned (-100: nothing).

        The loss is cross entropy in fp32, summed over learned tokens and divided by `num_items_in_batch`, by default
        their number here; with nothing to learn it is 0 with zero gradients. `loss_weights` [B, T] weigh each label's loss, and
        `num_items_in_batch` is then their sum, which the caller gives. `supervised_only` computes the head
        where a label is learned and nowhere else: same loss and gradients, logits [rows, V]. `pixel_values` are
        [I, 3, S, S], every picture of the batch in reading order.
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
        hidden_BTE, loss = outputs.last_hidden_state, None
        if labels is None:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.logits(hidden_BTE[:, keep])
        else:
            if not isinstance(logits_to_keep, int) or logits_to_keep:
                raise ValueError("labels need every position: give them without logits_to_keep")
            next_BT = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
            supervised_BT = next_BT.ne(-100)
            if supervised_only:
                logits = self.logits(hidden_BTE[supervised_BT])
                supervised = logits
            else:
                logits = self.logits(hidden_BTE)
                supervised = logits[supervised_BT]
            count = supervised_BT.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            if loss_weights is None:
                summed = nn.functional.cross_entropy(supervised.float(), next_BT[supervised_BT], reduction="sum")
            else:
                weights = nn.functional.pad(loss_weights, (0, 1))[:, 1:][supervised_BT]
                summed = (
                    nn.functional.cross_entropy(supervised.float(), next_BT[supervised_BT], reduction="none") * weights
                ).sum()
            loss = summed / torch.as_tensor(count, device=summed.device).clamp(min=1)
        return MplugOwlCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """The head, with the cap and the scales that some language models (Gemma, Cohere, Granite) put on it."""
        text, logits = self.config.text_config, self.lm_head(hidden)
        logits = logits * (getattr(text, "logit_scale", None) or 1) / (getattr(text, "logits_scaling", None) or 1)
        if cap := getattr(text, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def prepare_inputs_for_generation(self, *args: Any, is_first_iteration: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Pictures go in with the prompt, once: transformers 5.17 would give those seen before at every step."""
        if not is_first_iteration and kwargs.get("use_cache", True):
            kwargs.pop("mm_encoder_outputs", None)
        return super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        """Repetition penalties and the like look tokens up by id; a picture's id is in no table."""
        processors = super()._get_logits_processor(*args, **kwargs)
        begin = self.config.text_config.bos_token_id or 0
        return _PictureBlind(processors, self.config.image_token_id, begin) if processors else processors

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Beams repeat a sample with all its pictures: [A, B] gives [A, B, A, B], never [A, A, B, B].

        transformers before mm_encoder_outputs (5.17) hands the pixels through here; later ones the pictures already seen.
        """
        pixels = kwargs.pop("pixel_values", None)
        expanded, kwargs = super()._expand_inputs_for_generation(expand_size=expand_size, input_ids=input_ids, **kwargs)
        if pixels is not None and expand_size > 1:
            counts = (input_ids.eq(self.config.image_token_id).sum(1) // self.num_image_tokens).tolist()
            pixels = torch.cat([group.repeat(expand_size, 1, 1, 1) for group in pixels.split(counts)])
        if pixels is not None:
            kwargs["pixel_values"] = pixels
        return expanded, kwargs


class _PictureBlind(LogitsProcessorList):
    """Logits processors that see the begin token, which every prompt holds anyway, in the places of pictures."""

    def __init__(self, processors: LogitsProcessorList, image_token_id: int, begin: int) -> None:
        super().__init__(processors)
        self.image_token_id, self.begin = image_token_id, begin

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return super().__call__(input_ids.masked_fill(input_ids.eq(self.image_token_id), self.begin), scores, **kwargs)


def _stacked(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else torch.stack(list(features))


AutoModel.register(MplugOwlConfig, MplugOwlModel)
AutoModelForImageTextToText.register(MplugOwlConfig, MplugOwlForConditionalGeneration)
