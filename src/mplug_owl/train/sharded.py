"""FSDP2: every process holds a share of every weight, gradient and average; layers are gathered as they are needed.

Asked for by `accelerate launch --use_fsdp --fsdp_version 2`. Done by torch itself, so that it is the same on CPUs, where
Accelerate has none. All processes gather at once, so all must go through the same modules.
"""

import os
from collections.abc import Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from mplug_owl.data.loader import Batch
from mplug_owl.errors import UserError
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.towers import image_size


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the launcher asked for FSDP, and there is more than one process."""
    return accelerator.num_processes > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shard(accelerator: Accelerator, learner: nn.Module) -> nn.Module:
    """Share a learner's weights among all processes: layer by layer, then the rest. Its optimiser is made after."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    options = {}
    if (plugin := getattr(accelerator.state, "fsdp_plugin", None)) is not None:
        if plugin.fsdp_version != 2:  # whose settings mean something else
            raise UserError(f"fsdp_version is {plugin.fsdp_version}; weights are shared by FSDP2: launch with --fsdp_version 2")
        options = {"offload_policy": plugin.cpu_offload, "reshard_after_forward": plugin.reshard_after_forward}
    for layer in reversed([part for part in learner.modules() if isinstance(part, GradientCheckpointingLayer)]):
        fully_shard(layer, mesh=mesh, **options)
    options.pop("reshard_after_forward", None)  # what is left is needed again at once
    fully_shard(learner, mesh=mesh, **options)
    for part in learner.modules():
        if isinstance(part, FSDPModule):
            # A loss is a share of the step's: gradients are summed, not averaged.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    return learner


def full_tensor(value: Tensor) -> Tensor:
    """A sharded tensor gathered from all processes; another is whole as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def to_shard(value: Tensor, like: Tensor) -> Tensor:
    """This process's share of a whole tensor that all of them hold, laid out as `like` is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def make_whole(model: nn.Module, keep: bool) -> None:
    """Gather every weight on the CPU: where `keep`, the model is then whole and can be written."""
    made: dict[int, nn.Parameter] = {}
    for part in model.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                continue
            if id(parameter) not in made:  # tied weights stay tied
                full = full_tensor(parameter.detach())
                made[id(parameter)] = nn.Parameter(full.cpu(), parameter.requires_grad) if keep else parameter
            setattr(part, name, made[id(parameter)])


def equalise_passes(
    batches: Sequence[Batch], passes: int, pictures: bool, model: MplugOwlForConditionalGeneration
) -> list[Batch]:
    """As many forward passes as every process makes, with a picture in each where any process has one.

    What is added is a blank picture, or two words, from which nothing is learned.
    """
    filled = [_with_blank(batch, model) if pictures and batch.pixel_values is None else batch for batch in batches]
    return filled + [_blank(model, pictures)] * (passes - len(batches))


def _blank(model: MplugOwlForConditionalGeneration, picture: bool) -> Batch:
    """A row with nothing to learn: a blank picture's positions, or two words."""
    length = model.num_image_tokens if picture else 2
    ids = torch.full((1, length), model.config.image_token_id if picture else 0)
    side = image_size(model.config.vision_config)
    pixels = torch.zeros(1, 3, side, side) if picture else None
    return Batch(ids, torch.full_like(ids, -100), torch.ones_like(ids), None, pixels, (), 0)


def _with_blank(batch: Batch, model: MplugOwlForConditionalGeneration) -> Batch:
    """A batch of words alone and after it a blank picture: a row of its own, or a packed conversation of its own."""
    blank = _blank(model, True)
    if batch.position_ids is not None:
        ids, labels = torch.cat([batch.input_ids, blank.input_ids], 1), torch.cat([batch.labels, blank.labels], 1)
        positions = torch.cat([batch.position_ids, torch.arange(blank.input_ids.shape[1])[None]], 1)
        weights = None if batch.loss_weights is None else nn.functional.pad(batch.loss_weights, (0, blank.input_ids.shape[1]))
        return replace(
            batch,
            input_ids=ids,
            labels=labels,
            position_ids=positions,
            pixel_values=blank.pixel_values,
            loss_weights=weights,
        )
    mask = batch.attention_mask if batch.attention_mask is not None else torch.ones_like(batch.input_ids)
    return replace(
        batch,
        input_ids=_below(batch.input_ids, blank.input_ids, 0),
        labels=_below(batch.labels, blank.labels, -100),
        attention_mask=_below(mask, torch.ones_like(blank.input_ids), 0),
        pixel_values=blank.pixel_values,
        loss_weights=None if batch.loss_weights is None else _below(batch.loss_weights, torch.zeros(blank.labels.shape), 0),
    )


def _below(rows_BT: Tensor, row_1T: Tensor, fill: int) -> Tensor:
    """One row more, all of them filled up to the longest."""
    width = max(rows_BT.shape[1], row_1T.shape[1])
    return torch.cat([nn.functional.pad(rows, (0, width - rows.shape[1]), value=fill) for rows in (rows_BT, row_1T)])
