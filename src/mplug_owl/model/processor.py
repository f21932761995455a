"""The processor: conversations, prompt strings and pictures in, token ids and pixel values out.

There is one way from words to ids, `encode`, for training and for chatting. It knows where pictures stand because it puts
them there; it never looks for a placeholder in what somebody typed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.image_processing_base import BatchFeature
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17 hides it where torchvision is absent
from transformers.processing_utils import MultiModalData

from mplug_owl.conversation import IMAGE_MARK, SYSTEM_PROMPT, Conversation, Piece
from mplug_owl.model import checkpoints
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.connectors import num_image_tokens
from mplug_owl.model.images import MplugOwlImageProcessor, flat_images
from mplug_owl.model.tokenizer import MplugOwlTokenizer
from mplug_owl.model.towers import image_size

# `Conversation.prompt` as a template, for programs that render chats themselves.
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text("utf-8").replace("SYSTEM_PROMPT", SYSTEM_PROMPT)


@dataclass(frozen=True)
class Example:
    """Token ids, which of them are supervised, and the pictures that fill the picture positions, in order.

    `name` says where it came from, for error messages; `cut` counts the tokens that did not fit.
    """

    ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    pictures: tuple[Any, ...] = ()
    name: str = ""
    cut: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class MplugOwlProcessor(ProcessorMixin):
    """Tokenizer and image processor of one owl, and how many positions a picture takes in it (`num_image_tokens`).

    Also what generate's output turns back into: `decode` and `batch_decode` leave picture positions out.
    """

    image_token = IMAGE_MARK
    model_input_names = ["input_ids", "attention_mask", "pixel_values"]

    def __init__(
        self,
        image_processor: MplugOwlImageProcessor,
        tokenizer: Any,
        num_image_tokens: int,
        image_token_id: int,
        chat_template: str | None = CHAT_TEMPLATE,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has no end token (eos_token): an answer could never end")
        tokenizer.padding_side = "left"  # transformers' pipeline pads by it, and an answer goes on at the right end
        self.num_image_tokens = num_image_tokens
        self.image_token_id = image_token_id

    @classmethod
    def for_model(cls, model: Any, tokenizer: Any, image_processor: Any = None) -> "MplugOwlProcessor":
        """The processor of a freshly built owl; pictures are normalised as `image_processor` does, else as CLIP's."""
        statistics = {
            name: getattr(image_processor, name)
            for name in ("image_mean", "image_std", "resample", "rescale_factor")
            if getattr(image_processor, name, None) is not None
        }
        images = MplugOwlImageProcessor(size=image_size(model.config.vision_config), **statistics)
        return cls(images, tokenizer, model.num_image_tokens, model.config.image_token_id)

    # Words and pictures to ids

    def encode(self, conversation: Conversation, reply: bool = False) -> Example:
        """A conversation to ids: the begin token, prompt words, picture positions, answers each closed by the end token.

        What a user typed is plain text, special tokens and `<image>` included. `reply` ends where the assistant begins.
        """
        pictures = [picture.source for picture in conversation.pictures]
        return replace(self.encode_pieces(conversation.pieces(reply), pictures), name=conversation.name)

    def encode_pieces(self, pieces: Iterable[Piece], pictures: Sequence[Any] = (), plain: bool = True) -> Example:
        """Rendered pieces to ids, each stretch of text on its own; `plain=False` reads special tokens in them."""
        begin = self.tokenizer.bos_token_id
        ids, loss_mask = ([begin], [False]) if begin is not None else ([], [])
        for piece in pieces:
            if piece.text is None:
                tokens = [self.image_token_id] * self.num_image_tokens
            else:
                tokens = self.tokenizer(piece.text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]
                if piece.answer:
                    tokens = [*tokens, self.tokenizer.eos_token_id]
            ids.extend(tokens)
            loss_mask.extend([piece.supervised] * len(tokens))
        return Example(tuple(ids), tuple(loss_mask), tuple(pictures))

    def batch(
        self, samples: Sequence[Example], side: str = "left", labels: bool = False, pixel_values: torch.Tensor | None = None
    ) -> BatchFeature:
        """Samples to one padded batch: `input_ids` and `attention_mask` [B, T], `pixel_values` [I, 3, S, S] if any.

        `labels` adds the supervised ids, -100 elsewhere. `pixel_values` are given where pictures were opened before.
        """
        length = max(len(sample) for sample in samples)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id

        def padded(rows: Iterable[Sequence[int]], filler: int) -> torch.Tensor:
            filled = [(list(row), [filler] * (length - len(row))) for row in rows]
            return torch.tensor([gap + row if side == "left" else row + gap for row, gap in filled])

        batch = {
            "input_ids": padded([sample.ids for sample in samples], pad),
            "attention_mask": padded([[1] * len(sample) for sample in samples], 0),
        }
        if labels:
            targets = [
                [token if supervised else -100 for token, supervised in zip(sample.ids, sample.loss_mask, strict=True)]
                for sample in samples
            ]
            batch["labels"] = padded(targets, -100)
        if pixel_values is None and (pictures := [picture for sample in samples for picture in sample.pictures]):
            pixel_values = self.image_processor(pictures)["pixel_values"]
        if pixel_values is not None:
            batch["pixel_values"] = pixel_values
        return BatchFeature(batch)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        padding_side: str = "left",
        return_mm_token_type_ids: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prompt strings in the original's form, with `<image>` where a picture stands, to a left-padded batch of tensors.

        `images` are one picture, a list in reading order, or a list of lists, one for each prompt. Special tokens in
        a prompt string are read as such: it is a program's string. What people type belongs in chat messages.
        Raises ValueError when prompts and pictures do not match in number, with both numbers.
        """
        if text is None and images is None:
            raise ValueError("give text, images or both")
        if text is None:
            return self.image_processor(images)
        if kwargs.get("truncation") and kwargs.get("max_length") is not None:
            raise ValueError("truncation could cut a picture in two; shorten the prompt instead")
        prompts = [text] if isinstance(text, str) else list(text)
        if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"text is {text!r:.60}; expected a prompt string or a list of them")
        slots, groups = [prompt.count(IMAGE_MARK) for prompt in prompts], self._groups(images, len(prompts))
        if groups is None:
            flat = flat_images(images)
            if sum(slots) != len(flat):
                raise ValueError(f"{sum(slots)} {IMAGE_MARK} in the text but {len(flat)} images")
            groups = [[flat.pop(0) for _ in range(count)] for count in slots]
        samples = []
        for index, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
            if slots[index] != len(group):
                raise ValueError(f"prompt {index}: {slots[index]} {IMAGE_MARK} in the text but {len(group)} images")
            samples.append(self.encode_pieces(_prompt_pieces(prompt), group, plain=False))
        batch = self.batch(samples, padding_side)
        if return_mm_token_type_ids:
            batch["mm_token_type_ids"] = (batch["input_ids"] == self.image_token_id).long()
        return batch

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Chat messages (one chat or a list of chats) to a prompt string, or with `tokenize=True` to ids and pixels.

        Tokenised, what a user typed stays plain text: a `<image>` is seven characters and no picture. `return_dict`
        gives the whole left-padded batch, otherwise `input_ids` alone.
        """
        if not tokenize or chat_template is not None:
            return super().apply_chat_template(
                conversation,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=tokenize,
                return_dict=return_dict,
                **kwargs,
            )
        if add_generation_prompt and continue_final_message:
            raise ValueError("add_generation_prompt starts a new answer, continue_final_message goes on with the last")
        chats = [getattr(chat, "messages", chat) for chat in conversation]
        chats = chats if chats and not isinstance(chats[0], Mapping) else [conversation]
        samples = []
        for index, chat in enumerate(chats):
            talk = Conversation.from_chat(chat, name=f"chat {index}")
            if continue_final_message:
                if not talk.messages or talk.messages[-1].role != "assistant":
                    raise ValueError(f"chat {index}: continue_final_message needs an answer at the end to go on with")
                unfinished = self.encode(talk)
                samples.append(replace(unfinished, ids=unfinished.ids[:-1], loss_mask=unfinished.loss_mask[:-1]))
            else:
                samples.append(self.encode(talk, reply=add_generation_prompt))
        batch = self.batch(samples)
        return batch if return_dict else batch["input_ids"]

    @staticmethod
    def _groups(images: Any, prompts: int) -> list[list[Any]] | None:
        nested = isinstance(images, (list, tuple)) and any(isinstance(group, (list, tuple)) for group in images)
        if not nested:
            return None
        if len(images) != prompts:
            raise ValueError(f"{prompts} prompts but {len(images)} lists of images")
        return [flat_images(group) for group in images]

    # Ids to words

    def decode(self, token_ids: Any, **kwargs: Any) -> Any:
        """Ids, or rows of ids, to text, without picture positions."""
        rows = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(rows, (list, tuple)) and rows and isinstance(rows[0], (list, tuple, torch.Tensor)):
            return self.batch_decode(rows, **kwargs)
        rows = [rows] if isinstance(rows, int) else rows
        return self.tokenizer.decode([int(token) for token in rows if int(token) != self.image_token_id], **kwargs)

    def batch_decode(self, sequences: Any, **kwargs: Any) -> list[str]:
        """Rows of ids to texts, without picture positions."""
        return [self.decode(row, **kwargs) for row in sequences]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """What transformers' pipeline calls on generate's output."""
        return self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    # Saving and loading

    def _get_num_multimodal_tokens(self, image_sizes: Sequence[Any] | None = None, **kwargs: Any) -> MultiModalData:
        """How many positions pictures of these sizes take: the serving engines ask."""
        count = len(image_sizes or [])
        return MultiModalData(num_image_tokens=[self.num_image_tokens] * count, num_image_patches=[1] * count)

    @classmethod
    def get_processor_dict(cls, path: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the folder's processor_config.json says; in an original folder, which has none, what config.json implies."""
        values, rest = super().get_processor_dict(path, **kwargs)
        if "num_image_tokens" not in values:
            config = checkpoints.read_config(path)
            values = {"num_image_tokens": num_image_tokens(config), "image_token_id": config.image_token_id}
        return values, rest

    @classmethod
    def _get_arguments_from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> list[Any]:
        original = Path(path, "tokenizer.model").is_file() and not Path(path, "processor_config.json").is_file()
        tokenizer_class = MplugOwlTokenizer if original else AutoTokenizer
        return [MplugOwlImageProcessor.from_pretrained(path), tokenizer_class.from_pretrained(path)]


def _prompt_pieces(prompt: str) -> Iterable[Piece]:
    for index, stretch in enumerate(prompt.split(IMAGE_MARK)):
        if index:
            yield Piece(None)
        if stretch:
            yield Piece(stretch)


AutoImageProcessor.register(MplugOwlConfig, slow_image_processor_class=MplugOwlImageProcessor)
AutoProcessor.register(MplugOwlConfig, MplugOwlProcessor)
