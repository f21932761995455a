"""The processor as transformers knows it: prompt strings, chat messages and pictures in, token ids and pixel values out."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import ImageInput
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17 hides it where torchvision is absent
from transformers.processing_utils import MultiModalData
from transformers.utils import cached_file

from mplug_owl.conversation import IMAGE_MARK, Conversation, ImageSource, Piece
from mplug_owl.errors import UserError
from mplug_owl.model import checkpoints
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.connectors import num_image_tokens
from mplug_owl.model.encoder import CHAT_TEMPLATE, ConversationProcessor, Example
from mplug_owl.model.images import MplugOwlImageProcessor, flat_images
from mplug_owl.model.padding import Padding
from mplug_owl.model.template_additions import is_prepared
from mplug_owl.model.tokenizer import MplugOwlTokenizer, check_tokenizer, refuse_missing
from mplug_owl.model.towers import image_size

if TYPE_CHECKING:
    from mplug_owl.model.owl import MplugOwlForConditionalGeneration

ChatMessages = Sequence[Mapping[str, object]]


class MplugOwlProcessor(ConversationProcessor):
    """Tokenizer and image processor of one owl, and how many positions a picture takes in it.

    Also what generate's output turns back into: `decode` and `batch_decode` leave picture positions out.

    Args:
        image_processor: Pictures to pixel values.
        tokenizer: Any of transformers' with an end token.
        num_image_tokens: N, how many language positions a picture takes.
        image_token_id: What marks those positions: an id that no text can have.
        chat_template: How conversations are rendered; by default the original's prompt.
        kwargs: What an older processor_config.json may hold beside these; left out.

    Raises:
        UserError: The tokenizer has no end token.
    """

    @classmethod
    def for_model(
        cls,
        model: "MplugOwlForConditionalGeneration",
        tokenizer: PreTrainedTokenizerBase,
        image_processor: BaseImageProcessor | None = None,
        chat_template: str | None = None,
    ) -> Self:
        """The processor of a freshly built owl; pictures are normalised as `image_processor` does it, or as CLIP's if None.

        `chat_template` is the language model's own, as `template.with_pictures` gives it; None for the original's prompt.

        The model's `image_token_id` becomes one that the tokenizer has no entry for.

        Raises:
            UserError: The tokenizer is not the language model's, or the pictures' channels are turned round.
        """
        statistics = {} if image_processor is None else _statistics(image_processor)
        images = MplugOwlImageProcessor(size=image_size(model.config.vision_config), **statistics)
        template = chat_template or CHAT_TEMPLATE
        processor = cls(images, tokenizer, model.num_image_tokens, model.config.image_token_id, template)
        model.config.image_token_id = processor.image_token_id
        check_tokenizer(tokenizer, model.config, type(tokenizer).__name__)
        processor.follow(model.config)
        return processor

    # Over 40 lines: half of them say what goes in and what goes wrong.
    def __call__(
        self,
        images: ImageInput | Sequence[ImageSource] | Sequence[Sequence[ImageSource]] | None = None,
        text: str | Sequence[str] | None = None,
        padding_side: str = "left",
        return_mm_token_type_ids: bool = False,
        add_special_tokens: bool = True,
        return_text_replacement_offsets: bool = False,
        **options: object,
    ) -> BatchFeature:
        """Prompt strings in the original's form, with `<image>` where a picture stands, to a padded batch of tensors.

        Special tokens in a prompt string are read as such: it is a program's string. What people type belongs in chat messages.

        Args:
            images: One picture, a list in reading order, or a list of lists, one for each prompt.
            text: One prompt or several.
            padding_side: Where shorter rows are filled up.
            return_mm_token_type_ids: Also say which positions are a picture's.
            add_special_tokens: Put the begin token in front. A language model's own chat format writes it itself, or has none.
            return_text_replacement_offsets: Also say what each `<image>` stands for, as vLLM asks: `text_replacement_offsets`.
            options: `padding`, `max_length`, `truncation` and `return_tensors` as `Padding` reads them.

        Returns:
            `input_ids` and `attention_mask` [B, T], and `pixel_values` [I, 3, S, S] where there are pictures.

        Raises:
            UserError: Prompts and pictures do not match in number, or an option asks for what cannot be.

        Example:
            >>> from PIL import Image
            >>> from mplug_owl.model.load import load_processor
            >>> processor = load_processor("owl-tiny")
            >>> sorted(processor(text="Human: <image>\\nHuman: What is it?\\nAI: ", images=[Image.new("RGB", (9, 9))]))
            ['attention_mask', 'input_ids', 'pixel_values']
        """
        padding = Padding.read(options)
        if text is None and images is None:
            raise ValueError("give text, images or both")
        if text is None:
            return self.image_processor(images)
        prompts = [text] if isinstance(text, str) else list(text)
        if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"text is {text!r:.60}; expected a prompt string or a list of them")
        samples = [
            self.encode_pieces(
                _prompt_pieces(prompt), shown, plain=False, opens=add_special_tokens and not is_prepared(self.chat_template)
            )
            for prompt, shown in zip(prompts, self._shown(images, prompts), strict=True)
        ]
        batch = self.batch(samples, side=padding_side, length=padding.length(samples))
        if return_mm_token_type_ids:
            batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token_id).long()
        if return_text_replacement_offsets:
            batch["text_replacement_offsets"] = [_replacements(prompt, self.num_image_tokens) for prompt in prompts]
        return batch

    # Over 40 lines: half of them say what goes in and what goes wrong.
    def apply_chat_template(  # type: ignore[override]  # transformers says str, which is one of three
        self,
        conversation: ChatMessages | Sequence[ChatMessages],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        processor_kwargs: Mapping[str, object] | None = None,
        **options: object,
    ) -> str | list[str] | Tensor | BatchFeature:
        """Chat messages to a prompt string, or with `tokenize=True` to ids and pixels.

        Tokenised by the processor's own template, what a user typed stays plain text: a `<image>` is seven characters and no
        picture. By another template, given here, it is as transformers does it.

        Args:
            conversation: One chat or a list of chats.
            chat_template: Another template than the processor's.
            add_generation_prompt: End where the assistant begins.
            continue_final_message: End within the last answer, which is to be continued.
            tokenize: Ids in place of the prompt string.
            return_dict: The whole batch in place of `input_ids` alone.
            processor_kwargs: What `__call__` takes as options.
            options: The same, or what another template reads.

        Raises:
            UserError: A message is none, or an option asks for what cannot be.
        """
        if not tokenize or (chat_template or self.chat_template) != self.chat_template or not self._renders_itself:
            render: Callable[..., str | BatchFeature] = super().apply_chat_template
            return render(
                conversation,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=tokenize,
                return_dict=return_dict,
                processor_kwargs=dict(processor_kwargs or {}),
                **options,
            )
        padding = Padding.read({**(processor_kwargs or {}), **options})
        if add_generation_prompt and continue_final_message:
            raise UserError("add_generation_prompt begins a new answer, continue_final_message continues the last: give one")
        chats: list[Any] = [getattr(chat, "messages", chat) for chat in conversation]
        chats = chats if chats and not isinstance(chats[0], Mapping) else [conversation]
        talks = [Conversation.from_chat(chat, name=f"chat {index}") for index, chat in enumerate(chats)]
        samples = [
            self._unfinished(talk) if continue_final_message else self.encode(talk, reply=add_generation_prompt)
            for talk in talks
        ]
        batch = self.batch(samples, length=padding.length(samples))
        return batch if return_dict else batch["input_ids"]

    @property
    def _renders_itself(self) -> bool:
        return self.chat_template == CHAT_TEMPLATE or is_prepared(self.chat_template)

    def _unfinished(self, talk: Conversation) -> Example:
        """A conversation that ends within its last answer."""
        if not talk.messages or talk.messages[-1].role != "assistant":
            raise UserError(f"{talk.name}: continue_final_message needs an answer at the end to continue")
        return self.encode(talk, unfinished=True)

    @staticmethod
    def _shown(images: object, prompts: Sequence[str]) -> list[list[Any]]:
        """The pictures of each prompt, as many as it has marks."""
        slots, groups = [prompt.count(IMAGE_MARK) for prompt in prompts], MplugOwlProcessor._groups(images, len(prompts))
        if groups is None:
            flat = flat_images(images)
            if sum(slots) != len(flat):
                raise UserError(f"{sum(slots)} {IMAGE_MARK} in the text but {len(flat)} images")
            return [[flat.pop(0) for _ in range(count)] for count in slots]
        for index, (count, group) in enumerate(zip(slots, groups, strict=True)):
            if count != len(group):
                raise UserError(f"prompt {index}: {count} {IMAGE_MARK} in the text but {len(group)} images")
        return groups

    @staticmethod
    def _groups(images: object, prompts: int) -> list[list[Any]] | None:
        if not isinstance(images, (list, tuple)) or not any(isinstance(group, (list, tuple)) for group in images):
            return None
        if len(images) != prompts:
            raise UserError(f"{prompts} prompts but {len(images)} lists of images")
        return [flat_images(group) for group in images]

    # Saving and loading

    def to_dict(self) -> dict[str, object]:
        """What processor_config.json holds."""
        return {**super().to_dict(), "image_token_id": self.image_token_id}

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[object] | None = None, **kwargs: object) -> MultiModalData:
        """How many positions pictures of these sizes take: the serving engines ask."""
        count = len(image_sizes or [])
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: object, **kwargs: object) -> Self:
        """The processor of a model's folder or hub id, of our layout or the original's.

        Args:
            pretrained_model_name_or_path: Where the model lies; `mplug_owl.load` knows more names.
            args: As transformers' own.
            kwargs: As transformers' own.

        Raises:
            UserError: A file is missing or a git-lfs pointer, or the tokenizer is not that of the model in config.json.
        """
        where, config = Path(pretrained_model_name_or_path), None
        checkpoints.refuse_pointers(where)
        if not where.is_dir() or (where / "config.json").is_file():
            config = checkpoints.read_config(pretrained_model_name_or_path, **checkpoints.hub_options(kwargs))
            refuse_missing(where, config)
        open_parts: Callable[..., Self] = super().from_pretrained
        processor = open_parts(pretrained_model_name_or_path, *args, **kwargs)
        if config is not None:
            check_tokenizer(processor.tokenizer, config, str(where))
            if processor.image_token_id != config.image_token_id:
                raise UserError(
                    f"{where}: image_token_id is {processor.image_token_id} in processor_config.json and "
                    f"{config.image_token_id} in config.json; write the model's into both"
                )
            processor.follow(config)
        return processor

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: object
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the folder's processor_config.json says; in an original folder, which has none, what config.json implies."""
        try:
            values, rest = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        except (OSError, ValueError, AttributeError) as error:  # not there, not JSON, not UTF-8, no object
            where = pretrained_model_name_or_path
            raise UserError(f"{where}: its processor_config.json cannot be read; {str(error).splitlines()[0]}") from error
        if "num_image_tokens" not in values:
            config = checkpoints.read_config(pretrained_model_name_or_path, **checkpoints.hub_options(kwargs))
            values = {"num_image_tokens": num_image_tokens(config), "image_token_id": config.image_token_id}
        return values, rest

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], processor_dict: object = None, **kwargs: object
    ) -> list[Any]:
        path, hub = pretrained_model_name_or_path, checkpoints.hub_options(kwargs)

        def has(file: str) -> bool:
            return cached_file(path, file, **hub, _raise_exceptions_for_missing_entries=False) is not None

        try:
            original = has("tokenizer.model") and not has("processor_config.json")
            tokenizer_class = MplugOwlTokenizer if original else AutoTokenizer
            return [MplugOwlImageProcessor.from_pretrained(path, **hub), tokenizer_class.from_pretrained(path, **hub)]
        except Exception as error:  # a damaged file makes the libraries' readers raise anything, Exception itself included
            raise UserError(
                f"{path}: its tokenizer or preprocessor_config.json cannot be read; {error}".splitlines()[0]
            ) from error


def _statistics(images: BaseImageProcessor) -> dict[str, Any]:
    """How another image processor resizes, rescales and normalises; what it leaves undone is undone here too."""
    if getattr(images, "do_flip_channel_order", None):
        raise UserError(f"{type(images).__name__} gives blue before red (do_flip_channel_order), and an owl's pictures are RGB")
    named = ("image_mean", "image_std", "resample", "rescale_factor")
    found = {name: value for name in named if (value := getattr(images, name, None)) is not None}
    if getattr(images, "do_normalize", None) is False or "image_mean" not in found:
        found |= {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    if getattr(images, "do_rescale", None) is False:
        found["rescale_factor"] = 1.0
    return found


def _replacements(prompt: str, positions: int) -> list[dict[str, object]]:
    """What each `<image>` of a prompt stands for, and where in the prompt and in the longer one, as transformers says it."""
    replacement, longer, found = IMAGE_MARK * positions, 0, list[dict[str, object]]()
    for match in re.finditer(IMAGE_MARK, prompt):
        start = match.start() + longer
        longer += len(replacement) - len(IMAGE_MARK)
        new_span = (start, start + len(replacement))
        found.append({"type": "image", "span": match.span(), "new_span": new_span})
        found[-1] |= {"text": IMAGE_MARK, "replacement": replacement}
    return found


def _prompt_pieces(prompt: str) -> Iterable[Piece]:
    for index, stretch in enumerate(prompt.split(IMAGE_MARK)):
        if index:
            yield Piece(None)
        if stretch:
            yield Piece(stretch)


AutoImageProcessor.register(MplugOwlConfig, slow_image_processor_class=MplugOwlImageProcessor)
AutoProcessor.register(MplugOwlConfig, MplugOwlProcessor)
