"""Who learns: the recipe's table put on a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from mplug_owl.errors import UserError
from mplug_owl.model.adapter import known_warnings
from mplug_owl.model.build import count
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.train.recipe import LoRA, Recipe, Trainable, Tuning

# The ways of learning in words, and at a glance.
TUNINGS: dict[Tuning, str] = {"frozen": "frozen", "lora": "LoRA", "last": "last layer", "full": "full"}
SIGNS: dict[Tuning, str] = {"frozen": "❄ ", "lora": "🔥", "last": "🔥", "full": "🔥"}
# Queries and values, under the names that model families give them; fused projections hold the keys as well.
LORA_TARGETS = (("q_proj", "v_proj"), ("query", "value"), ("query_key_value",), ("qkv_proj",), ("c_attn",), ("Wqkv",))


@dataclass(frozen=True)
class Part:
    """One of the three modules, the way it learns, and its parameters."""

    name: str
    symbol: str
    tuning: Tuning
    parameters: int
    trainable: int


def parts_of(model: MplugOwlForConditionalGeneration) -> dict[str, list[nn.Module]]:
    """The modules that the three names of the table stand for. Head and embeddings belong to the language model."""
    return {
        "vision": [model.model.vision_tower],
        "abstractor": [model.model.abstractor],
        "language": [model.model.language_model, model.model.embedding_norm, model.lm_head],
    }


def prepare(model: MplugOwlForConditionalGeneration, recipe: Recipe) -> MplugOwlForConditionalGeneration | PeftModel:
    """Freeze, adapt or free each module as the recipe says; a PeftModel around the model where LoRA is asked for.

    Raises UserError when nothing learns, or where a module to adapt has no attention that LoRA knows.
    """
    trainable = recipe.trainable
    if all(tuning == "frozen" for tuning in vars(trainable).values()):
        raise UserError("every module is frozen: nothing would learn; set trainable.NAME=lora or full for one of them")
    learner: MplugOwlForConditionalGeneration | PeftModel = model
    if names := lora_modules(model, trainable, recipe.lora.on):
        learner = _adapted(model, recipe.lora, names)
    for name, modules in parts_of(model).items():
        tuning = getattr(trainable, name)
        last = {id(parameter) for parameter in last_layer(name, modules[0]).parameters()} if tuning == "last" else set()
        for parameter_name, parameter in _named(modules):
            adapter = ".lora_" in parameter_name
            parameter.requires_grad_(tuning == "full" or (tuning == "lora" and adapter) or id(parameter) in last)
            # Trained weights often come in bf16, which is too coarse to learn in.
            frozen = recipe.frozen_bf16 and not parameter.requires_grad
            parameter.data = parameter.data.to(torch.bfloat16 if frozen else torch.float32)
    return learner


def last_layer(name: str, module: nn.Module) -> nn.Module:
    """What learns of a module whose last layer alone does: a connector's projection, or the last of a stack of layers."""
    for projection in ("visual_fc", "project"):
        if isinstance(found := getattr(module, projection, None), nn.Module):
            return found
    if stacks := [part for part in module.modules() if isinstance(part, nn.ModuleList) and len(part)]:
        return max(stacks, key=len)[-1]
    raise UserError(f"trainable.{name}=last: no projection and no stack of layers in it; use full")


@torch.no_grad()
def check_packing(model: MplugOwlForConditionalGeneration) -> None:
    """Try whether this language model keeps packed conversations apart. Raises UserError where it does not (BLOOM, OPT, LFM2).

    The second of two packed rows must come out as it does alone; a model that ignores restarting positions sees the first.
    """
    first, second = torch.arange(3, 9, device=model.device)[None], torch.arange(9, 14, device=model.device)[None]
    training = model.training
    model.eval()
    alone = model.model(input_ids=second, use_cache=False).last_hidden_state
    restarting = torch.tensor([[*range(first.shape[1]), *range(second.shape[1])]], device=model.device)
    packed = model.model(input_ids=torch.cat([first, second], 1), position_ids=restarting, use_cache=False).last_hidden_state
    model.train(training)
    apart = (packed[:, first.shape[1] :] - alone).abs().max()
    if apart > 0.02 * alone.abs().max():
        kind = model.config.text_config.model_type
        raise UserError(f"encoding.pack: {kind} lets packed conversations see one another; --set encoding.pack=none")


def set_mode(model: MplugOwlForConditionalGeneration, trainable: Trainable) -> None:
    """Dropout where something learns; a frozen module works as it will when it is used."""
    for name, modules in parts_of(model).items():
        for module in modules:
            module.train(getattr(trainable, name) != "frozen")


def checkpoint_activations(part: nn.Module) -> None:
    """Store each layer's input alone and recompute the rest in the backward pass.

    transformers' own switch leaves out layers in eval mode, and so the frozen language model that stage 1's gradients pass.
    """
    for layer in part.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def lora_modules(model: MplugOwlForConditionalGeneration, trainable: Trainable, on: str = "attention") -> list[str]:
    """The full names of the linear layers that get an adapter: the attention's, or with `on="linear"` all but the head."""
    chosen: list[str] = []
    for name, modules in parts_of(model).items():
        if getattr(trainable, name) != "lora":
            continue
        inside = {id(module) for part in modules for module in part.modules()}
        named = [path for path, module in model.named_modules() if id(module) in inside and _adaptable(module)]
        if on == "linear":
            chosen.extend(path for path in named if path != "lm_head")
            continue
        for targets in LORA_TARGETS:
            found = [path for path in named if path.rsplit(".", 1)[-1] in targets]
            if found:
                chosen.extend(found)
                break
        else:
            known = ", ".join("+".join(targets) for targets in LORA_TARGETS)
            raise UserError(f"trainable.{name}=lora: no attention projection named {known} in it; use full")
    return chosen


def table(model: MplugOwlForConditionalGeneration, trainable: Trainable) -> list[Part]:
    """The three rows that `owl plan` and a run print. Adapters count as learned, not as the module's own parameters."""
    symbols = {"vision": "f_V", "abstractor": "f_K", "language": "f_L"}
    rows = []
    for name, modules in parts_of(model).items():
        unique = nn.ModuleList(modules)
        adapters = sum(p.numel() for n, p in unique.named_parameters() if ".lora_" in n)
        rows.append(
            Part(name, symbols[name], getattr(trainable, name), count(unique) - adapters, count(unique, trainable=True))
        )
    return rows


def _adaptable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's transposed linear


def _named(modules: list[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    for module in modules:
        yield from module.named_parameters()


def _adapted(model: MplugOwlForConditionalGeneration, lora: LoRA, names: list[str]) -> PeftModel:
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
    with known_warnings():
        return get_peft_model(model, settings)
