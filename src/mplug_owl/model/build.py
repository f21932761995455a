"""An owl out of parts: a vision encoder, a language model, a fresh connector between them.

Each part is trained weights (a folder or a hub id) or made from scratch by the sizes in the config.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.17 hides it where torchvision is absent

from mplug_owl.conversation import SYSTEM_PROMPT
from mplug_owl.model.adapter import merge
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
# What comes with the package: an owl of a drawn world, and the two modules it was made of.
SHIPPED = ("owl-tiny", "tiny-language", "tiny-vision")


@dataclass(frozen=True)
class Owl:
    """A model and the processor that goes with it."""

    model: MplugOwlForConditionalGeneration
    processor: MplugOwlProcessor


@dataclass(frozen=True)
class Modules:
    """What an owl is made of. `config` gives every size before anything is downloaded; the rest says where weights are.

    `vision` and `language` are folders, hub ids or names of what comes with the package; None for fresh ones. The tokenizer is
    the language model's, or learned from the data with `vocabulary` entries where the language model starts from scratch;
    each of `phrases` may become one of them. With `alike` fresh attention begins by looking for what is like itself.
    """

    config: Callable[[], MplugOwlConfig]
    vision: str | None = None
    language: str | None = None
    vocabulary: int | None = None
    phrases: tuple[str, ...] = ()
    alike: bool = False


def build(modules: Modules, texts: Iterable[str], seed: int) -> Owl:
    """Make an owl; `texts` are what a fresh tokenizer learns from. The same seed makes the same weights."""
    torch.manual_seed(seed)
    config, images = modules.config(), None
    if modules.language is not None:
        tokenizer = AutoTokenizer.from_pretrained(shipped(modules.language))
    elif modules.vocabulary is not None:
        tokenizer = learn_tokenizer(texts, modules.vocabulary, modules.phrases)
        config = _speaking(config, tokenizer)
    else:
        raise ValueError("Modules needs language= (a trained language model) or vocabulary= (entries to learn)")
    language = (
        AutoModelForCausalLM.from_pretrained(shipped(modules.language))
        if modules.language is not None
        else AutoModelForCausalLM.from_config(config.text_config)
    )
    if modules.alike:
        look_for_alike(language)
    if modules.vision is not None:
        vision = load_vision(shipped(modules.vision), config)
        images = AutoImageProcessor.from_pretrained(shipped(modules.vision))
    else:
        vision = AutoModel.from_config(config.vision_config)
    model = join(config, vision, language)
    return Owl(model, MplugOwlProcessor.for_model(model, tokenizer, images))


def load(path: str | Path, dtype: str | torch.dtype = "auto") -> Owl:
    """An owl from a model folder, a run's folder, a LoRA adapter's folder or a hub id, ours or the original's; or `owl-tiny`.

    Raises ValueError that says what was looked for.
    """
    where = _where(path)
    if Path(where, "adapter_config.json").is_file():
        owl = load(_base(where), dtype)
        return Owl(merge(owl.model, Path(where)), owl.processor)
    model = MplugOwlForConditionalGeneration.from_pretrained(where, dtype=dtype)
    return Owl(model.eval(), MplugOwlProcessor.from_pretrained(where))


def load_processor(path: str | Path) -> MplugOwlProcessor:
    """The processor alone of what `load` would open."""
    where = _where(path)
    if Path(where, "adapter_config.json").is_file():
        return load_processor(_base(where))
    return MplugOwlProcessor.from_pretrained(where)


def join(config: MplugOwlConfig, vision: PreTrainedModel, language: PreTrainedModel) -> MplugOwlForConditionalGeneration:
    """Two trained or fresh modules and a fresh connector between them."""
    for name, part, expected in (("vision", vision, config.vision_config), ("text", language, config.text_config)):
        if (found := part.config.hidden_size) != expected.hidden_size:
            raise ValueError(f"{name}_config: hidden_size is {expected.hidden_size} but the weights have {found}")
        part.config.name_or_path = ""  # a folder of this machine would be saved with the owl
    config.text_config, config.vision_config = language.config, vision.config
    config.image_token_id = language.config.vocab_size
    config.tie_word_embeddings = bool(language.config.tie_word_embeddings)
    with torch.device("meta"):
        owl = MplugOwlForConditionalGeneration(config)
    owl.model.vision_tower = vision
    owl.model.set_language_model(language.base_model)
    owl.lm_head = language.get_output_embeddings()
    owl.model.abstractor = owl.build_connector(config).apply(owl._init_weights)
    owl.tie_weights()
    owl.generation_config = language.generation_config
    return owl.to(language.dtype)


def load_vision(path: str, config: MplugOwlConfig) -> PreTrainedModel:
    """Trained weights for f_V. CLIP's go into the original's own tower where the config asks for that one."""
    found = AutoConfig.from_pretrained(path)
    own = config.vision_config
    if own.model_type != "mplug_owl_vision_model" or found.model_type == own.model_type:
        return AutoModel.from_pretrained(path, config=getattr(found, "vision_config", found))
    if found.model_type not in ("clip", "clip_vision_model"):
        raise ValueError(
            f"{path}: a {found.model_type}; the original's vision encoder starts from CLIP. "
            f"For another encoder put its own config into vision_config"
        )
    clip = AutoModel.from_pretrained(path, config=getattr(found, "vision_config", found))
    tower = AutoModel.from_config(own)
    tower.load_state_dict(clip_to_owl(clip.state_dict(), own.num_attention_heads))
    return tower


def clip_to_owl(clip: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """CLIP's vision weights under the names of the original's tower, queries, keys and values fused head by head."""
    owl: dict[str, Tensor] = {}
    for name, tensor in clip.items():
        name = name.removeprefix("vision_model.")
        if "position_ids" in name:
            continue
        if ".self_attn." in name and ".out_proj." not in name:
            if ".q_proj." in name:
                parts = [clip[_sibling(clip, name, letter)] for letter in "qkv"]
                split = [part.unflatten(0, (heads, -1)) for part in parts]
                owl[_rename(name).replace("q_proj", "query_key_value")] = torch.cat(split, dim=1).flatten(0, 1)
            continue
        owl[_rename(name)] = tensor.reshape(1, 1, -1) if name.endswith("class_embedding") else tensor
        if name.endswith("position_embedding.weight"):
            owl[_rename(name)] = tensor.unsqueeze(0)
    return owl


def look_for_alike(language: PreTrainedModel) -> None:
    """Let keys begin as copies of the queries: a word's attention goes to the same word before anything is learned.

    Trained attention often looks so (arXiv 2305.09828). Raises ValueError where keys have other sizes than queries.
    """
    found = {name: module for name, module in language.named_modules() if name.endswith((".q_proj", ".k_proj"))}
    if not found:
        raise ValueError(f"alike: {language.config.model_type} has no q_proj and k_proj")
    for name, queries in found.items():
        keys = found[name.removesuffix("q_proj") + "k_proj"] if name.endswith("q_proj") else queries
        if keys.weight.shape != queries.weight.shape:
            shapes = f"{[*queries.weight.shape]} and its keys {[*keys.weight.shape]}"
            raise ValueError(f"alike: {name} is {shapes}; heads must pair up")
        keys.load_state_dict(queries.state_dict())


def learn_tokenizer(texts: Iterable[str], entries: int, phrases: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of at most `entries` entries: nothing that can be typed is unknown to it.

    A stretch of text gets a space in front, as LLaMA's tokenizer gives it, so a word is the same token in a sentence and as an
    answer. Words in capitals are spelled letter by letter, so that one that is read in a picture need not have been met before.
    What every conversation repeats, its opening and its roles, may become one token, and so may each of `phrases`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(" "), normalizers.Replace(Regex(r"\A (?=\s)"), "")])
    whole = [r"\nHuman:", r"\nAI: ?", *(rf" ?{re.escape(phrase)}\b" for phrase in phrases), rf" ?{re.escape(SYSTEM_PROMPT)}"]
    stretches = "|".join([*whole, " ?[A-Z](?=[A-Z])", r" ?\w+", r"\s+", r"[^\s\w]+"])
    split = pre_tokenizers.Split(Regex(stretches), "isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def shipped(name: str) -> str:
    """The folder of what comes with the package under this name; any other name as it is."""
    return str(files("mplug_owl") / "assets" / name) if name in SHIPPED else name


def count(module: nn.Module, trainable: bool = False) -> int:
    """Parameters of a module, or those of them that learn; a tied one counts once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)


def _where(path: str | Path) -> str:
    """The folder that `path` means, or the hub id that it is."""
    if str(path) in SHIPPED and not Path(path).exists():
        return shipped(str(path))
    folder = Path(path)
    if (folder / "model" / "config.json").is_file():
        return str(folder / "model")
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ValueError(f"{path}: no config.json in it or in {path}/model; expected an owl's folder or a finished run")
        return str(folder)
    # A folder's name that is mistyped looks like a hub id; where the folder above it is here, it is none.
    named = str(path).count("/") == 1 and not str(path).startswith((".", "/", "~")) and not folder.parent.is_dir()
    if folder.exists() or not named:
        raise ValueError(f"{path}: no such folder; expected an owl's folder, a finished run, or a hub id OWNER/NAME")
    return str(path)


def _base(adapter: str) -> str:
    file = Path(adapter, "adapter_config.json")
    if not (base := json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")):
        raise ValueError(f"{file}: names no base_model_name_or_path, the model to put the adapter on")
    return base


def _speaking(config: MplugOwlConfig, tokenizer: PreTrainedTokenizerBase) -> MplugOwlConfig:
    text = config.text_config
    text.vocab_size = len(tokenizer)
    text.bos_token_id, text.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    text.pad_token_id = tokenizer.pad_token_id
    return config


def _sibling(clip: dict[str, Tensor], name: str, letter: str) -> str:
    found = name.replace("q_proj", f"{letter}_proj")
    return found if found in clip else f"vision_model.{found}"


def _rename(name: str) -> str:
    for theirs, ours in (
        ("embeddings.class_embedding", "embeddings.cls_token"),
        ("embeddings.position_embedding.weight", "embeddings.position_embedding"),
        ("embeddings.patch_embedding.", "embeddings.patch_embed."),
        ("pre_layrnorm.", "embeddings.pre_layernorm."),
        ("encoder.layers.", "layers."),
        ("self_attn.out_proj.", "self_attn.dense."),
        ("layer_norm1.", "input_layernorm."),
        ("layer_norm2.", "post_attention_layernorm."),
    ):
        name = name.replace(theirs, ours)
    return name
