"""Both stages at full size on one GPU: tokens a second, share of the card's rate (MFU), peak memory.

The 7.12 B parameters are random and nothing is downloaded. Stage 1 reads captions of about 100 tokens, 65 of them a picture's;
stage 2 conversations of about 400, every second with a picture. Rows are packed, frozen weights in bf16, as a run has them.
MFU is what the steps need (train/flops.py) over what the card could do: 989 TFLOP/s by an H200's or H100's datasheet.
`host_syncs` are the places where a step waits for its device (benchmarks/host_syncs.py). `data_wait` is the share of its time
that a step waits for pictures drawn, encoded and pinned on the way. Then come words a second (benchmarks/gpu_decode.py).

    python -m benchmarks.gpu [--row 4096] [--rows 4] [--steps 10] [--tflops 989]
    python -m benchmarks.gpu --compile --fused --fsdp --checkpointing    # each alone or together
    python -m benchmarks.gpu --size tiny      # the same steps at a laptop's size, on any machine
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace

import torch
from torch import distributed, nn

from benchmarks import gpu_decode
from benchmarks.device import Door, here
from benchmarks.gpu_decode import measure_decoding
from benchmarks.host_syncs import HostSyncs
from mplug_owl.conversation import Conversation, Message, Picture, caption
from mplug_owl.data.encode import Encoding
from mplug_owl.data.examples import Examples
from mplug_owl.data.loader import Batch, StepDataset, step_loader
from mplug_owl.data.mixture import Mixture
from mplug_owl.model.attention import PACKED, use_packed_attention
from mplug_owl.model.fresh import learn_tokenizer
from mplug_owl.model.images import MplugOwlImageProcessor
from mplug_owl.model.owl import MplugOwlForConditionalGeneration
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.model.towers import image_size
from mplug_owl.recipes import paper, tiny
from mplug_owl.scenes import scenes
from mplug_owl.train.compiled import compile_language_model
from mplug_owl.train.flops import Utilisation, count_flops
from mplug_owl.train.loop import batch_loss
from mplug_owl.train.optim import clip_gradients, make_optimizer
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.sharded import shard
from mplug_owl.train.trainable import checkpoint_activations, prepare, set_mode, table

WORDS = ("a", "red", "blue", "small", "large", "dog", "cat", "house", "tree", "with", "on", "near", "the", "old", "road", "sky")
WARM_UP = 3
BAR = 0.45  # of the rate that the datasheet names


@dataclass
class Talks:
    """Made-up captions of a drawn picture, or conversations, every second of them about it; so many words an answer."""

    words: int
    captions: bool
    name: str = "talks"

    def __post_init__(self) -> None:
        self.picture = next(scenes(1, 0)).draw()

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> Conversation:
        random = Random(index)
        count = max(1, round(random.gauss(self.words, self.words / 4)))
        answer = " ".join(random.choice(WORDS) for _ in range(count))
        if self.captions:
            return caption(self.picture, answer, f"caption {index}")
        asked = (Picture(self.picture), "What is this?") if index % 2 else ("What is this?",)
        return Conversation((Message("user", asked), Message("assistant", (answer,))), name=f"talk {index}")


def stage(name: str, size: str, row: int) -> tuple[Recipe, Talks]:
    """The paper's recipe of a stage, or the tiny one, with packed rows; and what it reads."""
    recipe = getattr(paper, name)() if size == "full" else replace(getattr(tiny, name)(), modules=tiny.PACKABLE)
    talks = Talks(words=32, captions=True) if name == "pretrain" else Talks(words=250, captions=False)
    encoding = replace(recipe.encoding, max_tokens=min(row, 1024), pack=row)
    return replace(recipe, encoding=encoding, frozen_bf16=True, precision="bf16"), talks


def steps_of(recipe: Recipe, talks: Talks, owl: MplugOwlForConditionalGeneration, rows: int) -> StepDataset:
    """The data of a run whose steps are about so many packed rows."""
    texts = (talks[index].messages[-1].text for index in range(50))
    # Not `for_model`, which refuses a tokenizer so small beside a model so large: nothing is answered here.
    images = MplugOwlImageProcessor(size=image_size(owl.config.vision_config))
    processor = MplugOwlProcessor(images, learn_tokenizer(texts, 400), owl.num_image_tokens, owl.config.image_token_id)
    encoding: Encoding = recipe.encoding
    assert encoding.pack is not None
    batch = max(1, rows * encoding.pack // (100 if talks.captions else 400))
    examples = Examples([talks], processor, encoding, recipe.seed)
    return StepDataset(examples, Mixture([len(talks)], [None], batch, recipe.seed), micro_batch=1)


def rows(recipe: Recipe, talks: Talks, owl: MplugOwlForConditionalGeneration, count: int) -> list[Batch]:
    """So many packed rows, made as the loop makes them and kept: reading data is measured by itself."""
    steps, made, number = steps_of(recipe, talks, owl, 1 + count), [], 0
    assert recipe.encoding.pack is not None
    while len(made) < count:
        # The last rows of a step are what was left over.
        made += [batch for batch in steps[number].batches if batch.tokens > 0.8 * recipe.encoding.pack]
        number += 1
        if number > 50:
            sys.exit(f"gpu.py: --row {recipe.encoding.pack}: no samples fill four fifths of it, give a longer one")
    return made[:count]


@contextmanager
def prepared(
    recipe: Recipe, arguments: argparse.Namespace, door: Door
) -> Iterator[tuple[MplugOwlForConditionalGeneration, nn.Module, object]]:
    """The model, its learner and the table of who learns, as the run's options say; one process's FSDP2 ends with the block."""
    torch.manual_seed(recipe.seed)
    with door.device:  # drawn where it will be; on the card fp32 for a moment, then what is frozen becomes bf16
        owl = MplugOwlForConditionalGeneration(recipe.modules.config())
    learner: nn.Module = prepare(owl, recipe)
    parts = table(owl, recipe.trainable)
    set_mode(owl, recipe.trainable)
    if arguments.checkpointing:
        checkpoint_activations(owl.model)
    if door.device.type == "cuda":
        use_packed_attention(owl.model.language_model)
    if arguments.compile:
        compile_language_model(owl.model.language_model, door.device.type)
    if not arguments.fsdp:
        yield owl, learner, parts
        return
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if door.device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, init_method=f"file://{Path(folder, 'store')}", rank=0, world_size=1)
        try:
            one = SimpleNamespace(device=door.device, num_processes=1, state=SimpleNamespace())
            yield owl, shard(one, learner), parts  # type: ignore[arg-type]  # what it asks of an Accelerator
        finally:
            distributed.destroy_process_group()


# Over 40 lines with what it reports, a line each.
def measure(recipe: Recipe, talks: Talks, arguments: argparse.Namespace, door: Door) -> dict[str, object]:
    """Build, warm up, take the time of each step: forward and backward through all rows, clipping, AdamW."""
    with prepared(recipe, arguments, door) as (owl, learner, parts):
        optimizer = make_optimizer(owl, recipe.optimizer)
        for group in optimizer.param_groups:
            group["fused"] = arguments.fused
        batches = [pinned(batch, door) for batch in rows(recipe, talks, owl, arguments.rows)]
        tokens = sum(batch.tokens for batch in batches)
        pictures = sum(0 if batch.pixel_values is None else len(batch.pixel_values) for batch in batches)
        door.forget()
        losses: list[float] = []
        work = partial(step, learner, batches, optimizer, recipe, door.device, losses)
        times = [door.seconds(work) for _ in range(WARM_UP + arguments.steps)]
        with HostSyncs() as syncs:
            work()
        waited = data_wait(recipe, talks, owl, learner, optimizer, arguments, door)
        seconds = statistics.median(times[WARM_UP:])
        utilisation = Utilisation(count_flops(recipe.modules.config(), parts), arguments.tflops or door.datasheet[0] or 989.0)
        return {
            "stage": recipe.name,
            "parameters": sum(part.parameters for part in parts),
            "learned": sum(part.trainable for part in parts),
            "tokens_a_sample": round(tokens / sum(len(batch.names) for batch in batches), 1),
            "tokens_a_second": round(tokens / seconds),
            "samples_a_second": round(sum(len(batch.names) for batch in batches) / seconds, 1),
            "mfu": round(utilisation.mfu(tokens, pictures, seconds), 4),
            "seconds_a_step": round(seconds, 4),
            "spread": [round(min(times[WARM_UP:]), 4), round(max(times[WARM_UP:]), 4)],
            "peak_gib": door.peak_gib,
            "kernel": "varlen" if owl.model.language_model.config._attn_implementation == PACKED else "sdpa",
            "data_wait": waited,
            "host_syncs": dict(syncs.places),
            "losses": [round(losses[0], 3), round(losses[WARM_UP + arguments.steps - 1], 3)],
        }


def pinned(batch: Batch, door: Door) -> Batch:
    """The batch in memory that a card can fetch by itself."""
    return replace(batch, **{name: door.pin(tensor) for name, tensor in batch.inputs.items()})


def step(
    learner: nn.Module,
    batches: list[Batch],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    device: torch.device,
    losses: list[float],
) -> None:
    """One step as the loop takes it; reading the loss waits for the card."""
    learned = torch.tensor(sum(batch.supervised for batch in batches), device=device)
    total = torch.zeros((), device=device)
    for batch in batches:
        loss = batch_loss(learner, batch, learned, "bf16")
        loss.backward()
        total += loss.detach()
    clip_gradients(learner, recipe.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    losses.append(total.item())


def data_wait(
    recipe: Recipe,
    talks: Talks,
    owl: MplugOwlForConditionalGeneration,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    arguments: argparse.Namespace,
    door: Door,
) -> float:
    """The share of time that steps wait for their data, made by workers while the steps before are taken."""
    waited, began = 0.0, time.perf_counter()
    since = began
    for number, data in step_loader(steps_of(recipe, talks, owl, arguments.rows), 0, arguments.steps + 1, arguments.workers):
        arrived = time.perf_counter()
        if number == 0:  # workers start
            began = arrived
        else:
            waited += arrived - since
        step(learner, [pinned(batch, door) for batch in data.batches], optimizer, recipe, door.device, [])
        since = time.perf_counter()
    return round(waited / (time.perf_counter() - began), 4)


def main(arguments: argparse.Namespace, door: Door | None = None) -> None:
    """Print a line of JSON a stage, and one for decoding. Leaves with one line where there is no card for the full size."""
    if arguments.size == "full" and not torch.cuda.is_available():
        sys.exit("gpu.py: --size full needs a CUDA device with about 80 GiB; --size tiny runs on any machine")
    door = door or here()
    if arguments.row is None:
        arguments.row = 4096 if arguments.size == "full" else 512
    bars = {"mfu": BAR, "bandwidth": gpu_decode.BAR}
    print(json.dumps({"machine": door.name, "torch": torch.__version__, "bars": bars, **vars(arguments)}))
    for name in arguments.stage or ("pretrain", "instruct"):
        print(json.dumps(measure(*stage(name, arguments.size, arguments.row), arguments, door)), flush=True)
        door.forget()
    if arguments.words:
        recipe, _ = stage("pretrain", arguments.size, arguments.row)
        print(json.dumps({"decoding": [asdict(speed) for speed in measure_decoding(recipe, door, arguments.words)]}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--stage", choices=("pretrain", "instruct"), action="append", help="one of them alone")
    parser.add_argument("--row", type=int, help="positions of a packed row, 4096 unless tiny")
    parser.add_argument("--rows", type=int, default=4, help="rows a step, one forward pass each")
    parser.add_argument("--steps", type=int, default=10, help="steps timed, behind three to warm up")
    parser.add_argument("--tflops", type=float, help="the card's dense bf16 rate; by its datasheet unless given")
    parser.add_argument("--words", type=int, default=64, help="of each answer where decoding is measured; 0 leaves it out")
    parser.add_argument("--workers", type=int, default=2, help="processes that make data on the way")
    parser.add_argument("--compile", action="store_true", help="the language model through torch.compile")
    parser.add_argument("--fused", action="store_true", help="AdamW in one kernel")
    parser.add_argument("--fsdp", action="store_true", help="FSDP2 on the one device")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again on the way back")
    main(parser.parse_args())
