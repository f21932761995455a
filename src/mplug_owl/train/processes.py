"""Many processes train as one: how they join and leave, who decides, how gradients are summed, how long one waits.

Every process holds the whole model, or under FSDP its share of every weight: see `sharded`.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from torch import Tensor, distributed, nn

from mplug_owl.errors import Interrupted, UserError, WriteError
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.sharded import is_sharded, shard

# Gradients travel this many numbers at a time: 128 MiB.
BUCKET = 2**25

Answer = TypeVar("Answer")


@contextmanager
def joined_processes(recipe: Recipe, out: Path) -> Iterator[Accelerator]:
    """An Accelerator; all processes leave together where the block ends, except after a crash."""
    # Left to itself, Accelerate takes each process on a machine without accelerators for the only one.
    many_cpus = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()
    silence = timedelta(seconds=recipe.process_timeout)
    _meet(silence)
    patience = InitProcessGroupKwargs(backend=None, timeout=silence)
    accelerator = Accelerator(
        mixed_precision="no",  # the recipe says it; a launcher's fp16 would go round it, with no scaling of losses
        cpu=many_cpus or None,
        kwargs_handlers=[patience],
        log_with=list(recipe.trackers) or None,
        project_dir=out,
    )
    if recipe.optimizer.muon and is_sharded(accelerator):
        raise UserError("optimizer.muon: needs whole matrices, and FSDP leaves each process a share; launch without FSDP")
    asked = None
    try:
        yield accelerator
    except Interrupted as stopped:  # which all of them did
        asked = stopped
    _leave(accelerator)
    if asked is not None:
        raise asked


def _meet(silence: timedelta) -> None:
    """Find the other processes that torchrun started. Elsewhere Accelerate does.

    torchrun's store outlives the processes that it starts again. These must not read in it where the dead were to be found
    (github.com/pytorch/pytorch, issue 135712), so every life gets its own part of it.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and not distributed.is_initialized():
        store, rank, world = next(distributed.rendezvous("env://", timeout=silence))
        life = distributed.PrefixStore(f"life {_life(store, rank, world, silence)}", store)
        distributed.init_process_group(store=life, rank=rank, world_size=world, timeout=silence)


def _life(store: distributed.Store, rank: int, world: int, silence: timedelta) -> str:
    """A name for this life of the processes, which the first one chooses and tells each that asks.

    torchrun's count of restarts is none: of two nodes the one whose process died counts one more. Each asks by a name of its
    own, so that nobody takes an answer that was a dead one's.
    """
    mine = uuid4().hex
    if rank > 0:
        store.set(f"asking {rank}", mine)
        store.wait([f"answer {mine}"], silence)
        life = store.get(f"answer {mine}").decode()
        store.add(f"met {life}", 1)
        return life
    until, answered = time.monotonic() + silence.total_seconds(), set[str]()
    while store.add(f"met {mine}", 0) < world - 1:
        if time.monotonic() > until:
            raise TimeoutError(f"of {world} processes some did not come within {silence}")
        for other in range(1, world):
            if store.check([f"asking {other}"]) and (asks := store.get(f"asking {other}").decode()) not in answered:
                store.set(f"answer {asks}", mine)
                answered.add(asks)
        time.sleep(0.05)
    return mine


def _leave(accelerator: Accelerator) -> None:
    """Leave together: a process that leaves while another still writes or receives could take that one down."""
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        accelerator.end_training()


def from_main(accelerator: Accelerator, decide: Callable[[], Answer]) -> Answer:
    """What the main process decides, for all of them; a UserError or WriteError that it raises, they all raise.

    Any other error crashes the main process, and the launcher ends the others.
    """
    decision: list[Answer | UserError | WriteError | None] = [None]
    if accelerator.is_main_process:
        try:
            decision = [decide()]
        except (UserError, WriteError) as error:
            decision = [error]
    (answer,) = broadcast_object_list(decision)
    if isinstance(answer, UserError | WriteError):
        _leave(accelerator)
        raise answer
    return answer


def distribute_model(accelerator: Accelerator, learner: nn.Module) -> nn.Module:
    """Put a learner on this process's device, whole or in shares, the same in all. Its optimiser is made after that."""
    if is_sharded(accelerator):
        return shard(accelerator, learner)
    # Not made ready for training, which would wrap it in DDP: gradients are summed below, once a step.
    model = accelerator.prepare_model(learner, evaluation_mode=True)
    if accelerator.num_processes > 1:
        for parameter in learner.parameters():
            if parameter.requires_grad:
                distributed.broadcast(parameter.data, 0)
    return model


def sum_gradients(accelerator: Accelerator, model: nn.Module) -> None:
    """Make every gradient the sum over all processes. One that no process has stays absent.

    This is done once a step and always in the same order, so a resumed run sums as the whole one did. DDP orders its buckets
    anew in a run's first steps. It also wants every weight in every pass, which text without pictures does not give.
    """
    if accelerator.num_processes == 1 or is_sharded(accelerator):  # FSDP has summed them in the backward pass
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    having = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    having = accelerator.reduce(having.to(accelerator.device)).tolist()
    gradients = []
    for parameter, processes in zip(parameters, having, strict=True):
        if processes:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        distributed.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The same tensors in the same order, as many together as make a bucket; one dtype in each."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(held.numel() for held in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
