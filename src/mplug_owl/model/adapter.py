"""LoRA adapters, ours and the original's, made part of the weights they change."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from mplug_owl.model.checkpoints import our_name, read_tensors
from mplug_owl.model.owl import MplugOwlForConditionalGeneration

# What an adapter's weights are saved as: by peft, and by the original's Trainer together with all other weights.
FILES = ("adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin")
_WRAPPED = "base_model.model."


def merge(model: MplugOwlForConditionalGeneration, adapter: Path) -> MplugOwlForConditionalGeneration:
    """The model with a LoRA adapter in its own weights.

    Names may be ours or the original's. Raises ValueError when adapter and model do not fit to the last weight.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise ValueError(
            f"{adapter}: no adapter_config.json; expected a folder as peft saves it (the original's stage 2 has r 8, "
            "lora_alpha 32 on q_proj and v_proj)"
        )
    settings = PeftConfig.from_pretrained(str(adapter))
    if settings.peft_type != "LORA":
        raise ValueError(f"{adapter}: a {settings.peft_type} adapter; expected LORA, the one that can become plain weights")
    tensors = read_tensors(_adapter_file(adapter))
    given = {_adapted_name(name): tensor for name, tensor in tensors.items() if not name.endswith("rotary_emb.inv_freq")}

    # Where all weights were saved together, those under the adapter are the trained ones.
    own = {f"{_WRAPPED}{name}" for name in model.state_dict()} & given.keys()
    model.load_state_dict({name.removeprefix(_WRAPPED): given[name] for name in own}, strict=False)
    with known_warnings():
        wrapped = PeftModel(model, settings)
    expected = get_peft_model_state_dict(wrapped)
    misshapen = {name for name in given.keys() & expected.keys() if given[name].shape != expected[name].shape}
    for names, what in (
        (expected.keys() - given.keys(), "missing"),
        (given.keys() - expected.keys() - own, "unexpected"),
        (misshapen, "misshapen"),
    ):
        if names:
            raise ValueError(
                f"{adapter}: not an adapter of this owl; {len(names)} weights {what}: {', '.join(sorted(names)[:3])}"
            )
    set_peft_model_state_dict(wrapped, {name: given[name] for name in expected})
    return wrapped.merge_and_unload()


@contextmanager
def known_warnings() -> Iterator[None]:
    """Around peft's wrapping, without what it says needlessly.

    peft 0.21 asks transformers 5 by an old name, and says that it sees GPT-2's transposed linears for what they are.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to", UserWarning)
        yield


def _adapted_name(name: str) -> str:
    """An adapter's name for a weight, of any peft since 0.3 and either layout, as today's peft saves ours."""
    inner = name.removeprefix(_WRAPPED).replace(".base_layer.", ".").replace(".default.", ".")
    return _WRAPPED + our_name(inner)


def _adapter_file(adapter: Path) -> Path:
    for name in FILES:
        if (adapter / name).is_file():
            return adapter / name
    raise ValueError(f"{adapter}: no adapter weights; expected one of {', '.join(FILES)}")
