"""An owl out of parts: a vision encoder, a language model, a fresh connector between them.

Each part is trained weights (a folder or a hub id) or made from scratch by the sizes in the config.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17 hides it where torchvision is absent

from mplug_owl.errors import UserError
from mplug_owl.model.checkpoints import leave_out_drawing, refuse_pointers, usable
from mplug_owl.model.clip import load_vision
from mplug_owl.model.config import MplugOwlConfig, vision_width
from mplug_owl.model.fresh import add_rows, learn_tokenizer, look_for_alike
from mplug_owl.model.language import load_language, load_tokenizer
from mplug_owl.model.load import Owl, quiet
from mplug_owl.model.locate import bundled
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.model.template import chosen_template


@dataclass(frozen=True)
class Modules:
    """What an owl is made of.

    Args:
        config: Makes the config, which gives every size before anything is downloaded.
        vision: Trained weights for f_V: a folder, a hub id or what comes with the package. None for fresh ones.
        language: The same for f_L, or a GGUF file. Its tokenizer comes with it.
        vocabulary: Entries of a tokenizer that is learned from the data, for a fresh f_L.
        phrases: Words that may become one entry of it together.
        alike: Fresh attention begins by looking for what is like itself.
        prompt: How conversations are rendered. `auto` is the language model's own chat template, and the original's prompt
            where it has none; `owl` is the original's; else the file of a chat template.

    Example:
        >>> from mplug_owl.model.build import Modules
        >>> from mplug_owl.recipes.tiny import owl_tiny
        >>> Modules(owl_tiny, vision="tiny-vision", language="tiny-language").vocabulary is None
        True
    """

    config: Callable[[], MplugOwlConfig]
    vision: str | None = None
    language: str | None = None
    vocabulary: int | None = None
    phrases: tuple[str, ...] = ()
    alike: bool = False
    prompt: str = "auto"


def build(modules: Modules, texts: Iterable[str], seed: int) -> Owl:
    """Make an owl.

    Args:
        modules: Its parts.
        texts: What a fresh tokenizer learns from.
        seed: The same seed makes the same weights.

    Raises:
        UserError: The parts do not fit the config or one another, or a file is not what it should be.
    """
    torch.manual_seed(seed)
    config = modules.config()
    with quiet():
        tokenizer = _tokenizer(modules, texts, config)
        if modules.language is not None:
            language = load_language(modules.language)
            add_rows(language, tokenizer)
        else:
            language = AutoModelForCausalLM.from_config(config.text_config)
        if modules.alike:
            look_for_alike(language)
        told = None if modules.language is None else _some_scores(language)
        if modules.vision is None:
            vision, images = AutoModel.from_config(config.vision_config), None
        else:
            source = _whole(modules.vision)
            vision = load_vision(source, config)
            with usable("vision", source, "image processor"):
                images = AutoImageProcessor.from_pretrained(source)
        template = chosen_template(modules.prompt, tokenizer)
    model = join(config, vision, language)
    if told is not None and not _alike(_some_scores(model), told, language.dtype):
        kind = config.text_config.model_type
        raise UserError(f"language={modules.language}: {kind} does more to its scores than an owl's head knows of")
    processor = MplugOwlProcessor.for_model(model, tokenizer, images, template)
    if template is not None:
        end_with_turns(model, processor)
    return Owl(model, processor)


def join(config: MplugOwlConfig, vision: PreTrainedModel, language: PreTrainedModel) -> MplugOwlForConditionalGeneration:
    """Two trained or fresh modules and a fresh connector between them."""
    for name, part, given in (("vision", vision, config.vision_config), ("text", language, config.text_config)):
        expected, found = (vision_width(one) if name == "vision" else one.hidden_size for one in (given, part.config))
        if found != expected:
            raise UserError(f"{name}_config: hidden_size is {expected} but the weights have {found}")
        part.config.name_or_path = ""  # a folder of this machine would be saved with the owl
    config.text_config, config.vision_config = language.config, vision.config
    config.image_token_id = language.config.vocab_size
    config.tie_word_embeddings = bool(language.config.tie_word_embeddings)
    with torch.device("meta"):
        model = MplugOwlForConditionalGeneration(config)
    model.model.vision_tower = vision
    model.model.set_language_model(language.base_model)
    model.lm_head = language.get_output_embeddings()
    model.model.abstractor = model.build_connector(config).apply(model._init_weights)
    model.tie_weights()
    model.generation_config = language.generation_config
    leave_out_drawing(model.generation_config)
    # The language model has this dtype, and its rotary frequencies stay in fp32: rounded to bf16, late positions are others.
    seeing: list[nn.Module] = [model.model.vision_tower, model.model.abstractor]  # whose `to` type checkers can read
    for module in seeing:
        module.to(language.dtype)
    return model


def end_with_turns(model: MplugOwlForConditionalGeneration, processor: MplugOwlProcessor) -> None:
    """Let generation end with the token that closes an answer too, beside those that the language model came with."""
    known = model.generation_config.eos_token_id
    ends = [known] if isinstance(known, int) else list(known or [])
    model.generation_config.eos_token_id = [*dict.fromkeys([*processor.end_token_ids, *ends])]


def count(module: nn.Module, trainable: bool = False) -> int:
    """Parameters of a module, or those of them that learn; a tied one counts once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)


def _tokenizer(modules: Modules, texts: Iterable[str], config: MplugOwlConfig) -> PreTrainedTokenizerBase:
    """The language model's own tokenizer, or one learned from the texts, whose size the config then takes."""
    if modules.language is not None:
        return load_tokenizer(modules.language)
    if modules.vocabulary is None:
        raise ValueError("Modules needs language= (a trained language model) or vocabulary= (entries to learn)")
    tokenizer, text = learn_tokenizer(texts, modules.vocabulary, modules.phrases), config.text_config
    text.vocab_size = len(tokenizer)
    text.bos_token_id, text.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    text.pad_token_id = tokenizer.pad_token_id
    return tokenizer


@torch.no_grad()
def _some_scores(model: PreTrainedModel) -> torch.Tensor:
    """The scores [1, 3, V] that a language model gives three tokens: joined to the rest it has to give the same."""
    return model(input_ids=torch.tensor([[3, 5, 4]]), use_cache=False).logits.float()


def _alike(scores: torch.Tensor, told: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether they differ by rounding alone: tiny-language's bf16 weights give scores up to 17.5, and 0.05 of rounding."""
    rounding = 1e-2 if dtype == torch.float32 else 1e-2 * max(1.0, float(told.abs().max()))
    return torch.allclose(scores, told, atol=rounding, rtol=1e-2)


def _whole(part: str) -> str:
    """Where a part lies. Raises UserError where git left pointers in place of its files."""
    refuse_pointers(Path(bundled(part)))
    return bundled(part)
