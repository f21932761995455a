"""LoRA adapters, ours and the original's, made part of the weights they change or put beside them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from mplug_owl.errors import UserError
from mplug_owl.model.checkpoints import WRAPPED, our_name, read_tensors, refuse_pointers
from mplug_owl.model.owl import MplugOwlForConditionalGeneration

# What an adapter's weights are saved as: by peft, and by the original's Trainer together with all other weights.
FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin")
# The original's train.py has this lora_alpha; its checkpoints say nothing but the rank, by their shapes.
ORIGINAL_ALPHA = 32


def merge(model: MplugOwlForConditionalGeneration, adapter: Path) -> MplugOwlForConditionalGeneration:
    """The model with a LoRA adapter in its own weights. Raises UserError as `attach` does.

    A head that is the embedding table too, and that the adapter changes alone, becomes a table of its own.
    """
    wrapped = _wrapped(model, adapter)
    head: Any = model.get_output_embeddings()
    table: Any = model.get_input_embeddings()
    if isinstance(head, BaseTunerLayer) or isinstance(table, BaseTunerLayer):
        base = getattr(head, "base_layer", head)
        base.weight = nn.Parameter(base.weight.detach().clone())
    with known_warnings():
        merged = wrapped.merge_and_unload()
    if merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight:
        merged.config.tie_word_embeddings = merged.config.text_config.tie_word_embeddings = False
    return merged


def attach(model: MplugOwlForConditionalGeneration, adapter: Path) -> MplugOwlForConditionalGeneration:
    """The model with a LoRA adapter beside the weights it changes, as it was learned beside quantised ones.

    Names may be ours or the original's. A checkpoint of the original's Trainer, which has no adapter_config.json, is merged
    with the original's lora_alpha.

    Raises:
        UserError: Adapter and model do not fit to the last weight, or a file is damaged.
    """
    return cast(MplugOwlForConditionalGeneration, _wrapped(model, adapter).get_base_model())


def _wrapped(model: MplugOwlForConditionalGeneration, adapter: Path) -> Any:
    refuse_pointers(adapter)
    tensors = read_tensors(_adapter_file(adapter))
    given = {_adapted_name(name): tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}

    settings = _settings(adapter, given)
    # Where all weights were saved together, those under the adapter are the trained ones. A module that peft has a copy of is
    # none of these: a head that is the embedding table too would take the table along.
    copies = tuple(f".{name}." for name in getattr(settings, "modules_to_save", None) or ())
    whole = {f"{WRAPPED}{name}" for name in model.state_dict()} & given.keys()
    whole = {name for name in whole if not any(copy in name for copy in copies)}
    settings.base_model_name_or_path = None  # the base is loaded, and peft would look for it from the folder one works in
    try:
        model.load_state_dict({name.removeprefix(WRAPPED): given[name] for name in whole}, strict=False)
        with known_warnings():
            wrapped = PeftModel(model, settings)
    except (RuntimeError, ValueError) as error:  # a weight of another shape; layers that this model has not
        raise UserError(f"{adapter}: not an adapter of this owl; {' '.join(str(error).split())}") from error
    # Left to itself, peft would ask the hub for the base's vocabulary, whatever the base is.
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    misshapen = {name for name in given.keys() & expected.keys() if given[name].shape != expected[name].shape}
    for names, what in (
        (expected.keys() - given.keys(), "missing"),
        (given.keys() - expected.keys() - whole, "unexpected"),
        (misshapen, "misshapen"),
    ):
        if names:
            raise UserError(
                f"{adapter}: not an adapter of this owl; {len(names)} weights {what}: {', '.join(sorted(names)[:3])}"
            )
    set_peft_model_state_dict(wrapped, {name: given[name] for name in expected})
    return wrapped


def _settings(adapter: Path, given: dict[str, torch.Tensor]) -> PeftConfig:
    """How the adapter was trained: as its adapter_config.json says, else as the original's stage 2."""
    if (adapter / "adapter_config.json").is_file():
        try:
            settings = PeftConfig.from_pretrained(str(adapter))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{adapter / 'adapter_config.json'}: damaged; expected the JSON object that peft saves") from error
        if settings.peft_type != "LORA":
            raise UserError(f"{adapter}: a {settings.peft_type} adapter; expected LORA, the one that can become plain weights")
        return settings
    ranks = {name: len(tensor) for name, tensor in given.items() if name.endswith(".lora_A.weight")}
    if len(set(ranks.values())) != 1:
        raise UserError(
            f"{adapter}: no adapter_config.json; expected a folder as peft saves it (the original's stage 2 has r 8, "
            "lora_alpha 32 on q_proj and v_proj)"
        )
    layers = [name.removeprefix(WRAPPED).removesuffix(".lora_A.weight") for name in ranks]
    return LoraConfig(r=max(ranks.values()), lora_alpha=ORIGINAL_ALPHA, target_modules=layers)


@contextmanager
def known_warnings() -> Iterator[None]:
    """Around peft's wrapping and merging, without what it says needlessly.

    peft 0.21 asks transformers 5 by an old name, says that it sees GPT-2's transposed linears for what they are, and warns of
    merging into a head that is the embedding table, which `merge` parts from it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        warnings.filterwarnings("ignore", "Model (has|with) .tie_word_embeddings=True|.*no longer tied", UserWarning)
        yield


def _adapted_name(name: str) -> str:
    """An adapter's name for a weight, of any peft since 0.3 and either layout, as today's peft saves ours."""
    inner = name.removeprefix(WRAPPED).replace(".base_layer.", ".").replace(".default.", ".")
    return WRAPPED + our_name(inner)


def _adapter_file(adapter: Path) -> Path:
    for name in FILES:
        if (adapter / name).is_file():
            return adapter / name
    if not (adapter / "adapter_config.json").is_file():
        raise UserError(f"{adapter}: no adapter_config.json and no weights in it; expected a folder as peft saves it")
    raise UserError(f"{adapter}: no adapter weights; expected one of {', '.join(FILES)}")
