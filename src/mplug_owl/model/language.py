"""A language model, its tokenizer and its sizes from where they lie: a folder, the hub, the package, or one GGUF file.

A GGUF file is what llama.cpp reads: weights in blocks, sizes, tokenizer and chat template in one. transformers unpacks the
weights. How words are cut before they are looked up is only named in the file, so a name that is not known here is refused.
"""

import contextlib
import io
import json
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import pre_tokenizers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers import PreTrainedTokenizerBase as Tokenizer

from mplug_owl.errors import UserError
from mplug_owl.model.checkpoints import refuse_damaged_settings, refuse_gaps, refuse_pointers, usable
from mplug_owl.model.locate import bundled

SUFFIX = ".gguf"
# What files call the cuts that transformers leaves to GPT-2's rule, as llama.cpp groups them (llama-vocab.cpp). The second
# group takes numbers apart first: without it "\n\n1." is cut otherwise than in training.
AS_GPT2 = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"})
DIGIT_BY_DIGIT = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
# What marks a loaded model as one of blocks, which transformers would not save.
_MARKS = ("hf_quantizer", "quantization_method", "is_quantized")


def load_language(source: str) -> PreTrainedModel:
    """The language model with its head.

    Args:
        source: A folder, a hub id, what comes with the package, or a GGUF file: its path, or OWNER/NAME/FILE.gguf of the hub.

    Raises:
        UserError: A GGUF file is not there, is damaged or of an architecture that transformers does not read, or the package
            gguf is missing; weights are missing; or git left pointers in place of files.
    """
    folder, file = _split(source)
    if file is None:
        with usable("language", source, "language model"):
            whole = AutoConfig.from_pretrained(folder)
            config = whole.get_text_config(decoder=True)
        if hasattr(whole, "quantization_config") or hasattr(config, "quantization_config"):
            raise UserError(f"language={source}: its weights are quantised; give the model as it was before")
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UserError(f"language={source}: {config.model_type} is no language model that continues text")
        with usable("language", source, "language model"):
            return _decoder(_whole(folder, source), source)
    with _readable(source):
        model = _whole(folder, source, **_options(file))
    for name in _MARKS:
        vars(model).pop(name, None)
    model.config = _plain(model.config)
    return _decoder(model, source)


def load_tokenizer(source: str) -> Tokenizer:
    """The tokenizer that goes with it, the chat template too; of a GGUF file the one in it, or the tokenizer.json beside it.

    Raises:
        UserError: As `load_language`; or the file names a rule for cutting words that is not known here.
    """
    folder, file = _split(source)
    if file is None or Path(folder, "tokenizer.json").is_file():
        with usable("language", source, "language model"):
            return AutoTokenizer.from_pretrained(folder)
    with _readable(source):
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        entries, rule, marks = _vocabulary(folder, file)
        if len(tokenizer) > entries:
            tokenizer = _without_strays(tokenizer, entries)
        for name, token in marks.items():  # transformers 5.17 takes a LLaMA's begin token for its end
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token))
    if rule in DIGIT_BY_DIGIT:
        by_digit, bytewise = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([by_digit, bytewise])
    elif rule is not None and rule not in AS_GPT2 and rule not in _rules_of_transformers():
        raise UserError(f"{source}: cuts words as {rule!r}, which is not known here; put the model's tokenizer.json beside it")
    return tokenizer


def language_config(source: str) -> PreTrainedConfig:
    """The sizes, for `MplugOwlConfig(text_config=...)`; of the hub's models config.json alone is fetched.

    Raises UserError as `load_language` does.
    """
    folder, file = _split(source)
    if file is None:
        with usable("language", source, "language model"):
            return AutoConfig.from_pretrained(folder).get_text_config(decoder=True)
    with _readable(source):
        return _plain(AutoConfig.from_pretrained(folder, gguf_file=file))


def _whole(folder: str, source: str, **options: object) -> PreTrainedModel:
    """The model as transformers reads it, with no weight that it had to make up."""
    # What is misshapen is let through to be named with what is missing.
    refuse_damaged_settings(Path(folder))
    read: Any = AutoModelForCausalLM.from_pretrained  # which gives two things where it is asked to
    asked: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True, **options}
    model, info = read(folder, **asked)
    refuse_gaps("language", source, info)
    return model


def _decoder(model: PreTrainedModel, source: str) -> PreTrainedModel:
    """The language model with its head alone: of one that sees already (Gemma 3) the half that reads.

    Raises UserError where pictures could not come in between the words, or what was read could not be kept.
    """
    text = model.config.get_text_config(decoder=True)
    if text is not model.config:
        reading, head, settings = model.get_decoder(), model.get_output_embeddings(), model.generation_config
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text)
        setattr(model, model.base_model_prefix, reading)
        model.set_output_embeddings(head)
        model.generation_config = settings
        model.tie_weights()
    missing = {"inputs_embeds", "past_key_values"} - signature(type(model.base_model).forward).parameters.keys()
    if missing:
        raise UserError(f"language={source}: {text.model_type} takes no {' and no '.join(sorted(missing))}, which an owl needs")
    return model


def _split(source: str) -> tuple[str, str | None]:
    """Where a language model lies, and the GGUF file in it if it is one."""
    path = Path(bundled(source))
    if path.suffix != SUFFIX:
        refuse_pointers(path)
        return str(path) if path.exists() else source, None
    refuse_pointers(path.parent)
    # Nothing here has this name, and it has the form of a file on the hub: OWNER/NAME/FILE.gguf.
    if not path.is_file() and (path.is_absolute() or len(path.parts) != 3 or path.parent.exists() or path.parts[0] in ".."):
        raise UserError(f"{source}: no such file; expected a GGUF file, or OWNER/NAME/FILE.gguf on the hub")
    return str(path.parent), path.name


def _options(file: str) -> dict[str, Any]:
    """How weights are asked for: unpacked, also where a kernel for blocks is installed: blocks neither learn nor are saved."""
    from transformers import GgufConfig

    return {"gguf_file": file, "quantization_config": GgufConfig(dequantize=True)}


def _plain(config: PreTrainedConfig) -> PreTrainedConfig:
    """The sizes without what says that weights are in blocks."""
    vars(config).pop("quantization_config", None)
    return config


def _vocabulary(folder: str, file: str) -> tuple[int, str | None, dict[str, int]]:
    """How many tokens the file lists, what it calls its rule for cutting words, None for sentencepiece, and the ids at ends."""
    from transformers.integrations.gguf import read_gguf_metadata
    from transformers.utils.hub import cached_file

    values, _ = read_gguf_metadata(str(cached_file(folder, file)))
    rule = str(values.get("tokenizer.ggml.pre", "default")) if values.get("tokenizer.ggml.model") == "gpt2" else None
    marks = {name: values.get(f"tokenizer.ggml.{name}_id") for name in ("bos_token", "eos_token")}
    return values["tokenizer.ggml.tokens"], rule, {name: token for name, token in marks.items() if token is not None}


def _without_strays(tokenizer: Tokenizer, entries: int) -> Tokenizer:
    """The tokenizer without what transformers added above the file's list: GPT-2's end of text, to any that has it not."""
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["id"] < entries]
    known = {name: token for name, token in tokenizer.special_tokens_map.items() if tokenizer.get_vocab()[token] < entries}
    plain = tokenizers.Tokenizer.from_str(json.dumps(values))
    return PreTrainedTokenizerFast(tokenizer_object=plain, chat_template=tokenizer.chat_template, **known)


def _rules_of_transformers() -> frozenset[str]:
    """The rules that this transformers applies; those before 5.23 apply none."""
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:
        return frozenset()
    return frozenset(GGUF_PRE_TOKENIZER_SPLITS)


@contextlib.contextmanager
def _readable(source: str) -> Iterator[None]:
    """Whatever a GGUF file makes its readers raise is a UserError. Their progress bars, which have no switch, stay away."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(f"{source}: GGUF files need the package gguf: pip install 'mplug-owl[gguf]'") from error
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except UserError:
        raise
    except Exception as error:  # a damaged file makes the readers raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: cannot be read as a GGUF file; {reason}") from error
