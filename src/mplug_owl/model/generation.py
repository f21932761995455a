"""What transformers' generate has to know of pictures: they go in once, repeat with their beam, and are no token."""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import FloatTensor, LongTensor, Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.generation import LogitsProcessorList

from mplug_owl.errors import RefusedConversationError
from mplug_owl.model.config import MplugOwlConfig, max_positions

if TYPE_CHECKING:

    class Generation:
        """GenerationMixin without its type of `self`, a protocol whose `device` can be set: no PreTrainedModel is one."""

        @property
        def num_image_tokens(self) -> int: ...
        def generate(self, inputs: Tensor | None = None, **kwargs: object) -> Tensor: ...
        def prepare_inputs_for_generation(
            self, input_ids: LongTensor, *args: object, is_first_iteration: bool | None = False, **kwargs: object
        ) -> dict[str, Any]: ...
        def _expand_inputs_for_generation(
            self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
        ) -> tuple[Tensor, dict[str, Any]]: ...
        def _get_logits_processor(self, *args: object, **kwargs: object) -> LogitsProcessorList: ...
        def _validate_generated_length(
            self, generation_config: GenerationConfig, input_ids_length: int, has_default_max_length: bool
        ) -> None: ...

else:
    Generation = GenerationMixin


class PictureGenerationMixin(Generation):
    """GenerationMixin for a model that takes pictures. transformers looks for its mixin by this end of the name."""

    config: MplugOwlConfig

    def prepare_inputs_for_generation(
        self, input_ids: LongTensor, *args: object, is_first_iteration: bool | None = False, **kwargs: object
    ) -> dict[str, Any]:
        """Pictures go in with the prompt, once: transformers 5.17 would give those seen before at every step."""
        if not is_first_iteration and kwargs.get("use_cache", True):
            kwargs.pop("mm_encoder_outputs", None)
        return super().prepare_inputs_for_generation(input_ids, *args, is_first_iteration=is_first_iteration, **kwargs)

    def _get_logits_processor(self, *args: object, **kwargs: object) -> LogitsProcessorList:
        """Repetition penalties and the like look tokens up by id; a picture's id is in no table."""
        processors = super()._get_logits_processor(*args, **kwargs)
        return _PictureBlind(processors, self.config.image_token_id) if processors else processors

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """Beams repeat a sample with all its pictures: [A, B] gives [A, B, A, B], never [A, A, B, B].

        transformers before mm_encoder_outputs (5.17) hands the pixels through here; later ones the pictures already seen.
        """
        pixels = kwargs.pop("pixel_values", None)
        expanded, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        if pixels is not None and input_ids is not None and expand_size > 1:
            counts = (input_ids.eq(self.config.image_token_id).sum(1) // self.num_image_tokens).tolist()
            pixels = torch.cat([group.repeat(expand_size, 1, 1, 1) for group in pixels.split(counts)])
        if pixels is not None:
            kwargs["pixel_values"] = pixels
        return expanded, kwargs

    def _validate_generated_length(
        self, generation_config: GenerationConfig, input_ids_length: int, has_default_max_length: bool
    ) -> None:
        """An answer ends at the language model's last position. Raises UserError where the prompt alone is too long."""
        refuse_too_long(input_ids_length, self.config.text_config)
        super()._validate_generated_length(generation_config, input_ids_length, has_default_max_length)
        limit = max_positions(self.config.text_config)
        if limit is not None and generation_config.max_length > limit:
            generation_config.max_length = limit


def refuse_too_long(length: int, text_config: PreTrainedConfig) -> None:
    """Raises RefusedConversationError where a prompt of so many ids leaves its language model no position for an answer."""
    limit = max_positions(text_config)
    if limit is not None and length >= limit:
        raise RefusedConversationError(
            f"the conversation takes {length} positions and the language model has {limit}, one of them for an "
            "answer; start a new conversation, or say and show less"
        )


class _PictureBlind(LogitsProcessorList):
    """Logits processors that see, at the positions of pictures, the first word of the row, which it holds anyway."""

    def __init__(self, processors: LogitsProcessorList, image_token_id: int) -> None:
        super().__init__(processors)
        self.image_token_id = image_token_id

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        is_picture = input_ids.eq(self.image_token_id)
        first_B1 = input_ids.gather(1, is_picture.int().argmin(1, keepdim=True))
        first_B1 = first_B1.masked_fill(first_B1.eq(self.image_token_id), 0)  # a row of pictures alone
        words = torch.where(is_picture, first_B1, input_ids)
        return super().__call__(cast(LongTensor, words), cast(FloatTensor, scores), **kwargs)
