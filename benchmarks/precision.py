"""bf16 against fp32 on the CPU: do the loss curves lie on each other?

The laptop's owl learns captions and answers of drawn scenes, all three modules in full, from the same first weights and the
same samples, once in each precision. Losses are averaged over windows of ten steps, and of each window the difference is taken
relative to fp32's: the mean of all windows, the worst, and the sign, which would show a drift. A second fp32 run, whose samples
come in another order, says how far apart two runs are that nobody calls different.

    python -m benchmarks.precision [--steps 200] [--batch 8] [--fresh]

With --fresh the language model has learned nothing, else it is tiny-language.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from mplug_owl.data.encode import Encoding
from mplug_owl.data.survey import Survey
from mplug_owl.recipes import tiny
from mplug_owl.train import metrics
from mplug_owl.train.loop import fit
from mplug_owl.train.recipe import Recipe, Trainable
from mplug_owl.train.run import initial_model, open_data

WINDOW = 10


def recipe(steps: int, batch: int, fresh: bool) -> Recipe:
    """Everything learns, from pictures and words."""
    return replace(
        tiny.pretrain(),
        name="precision",
        modules=replace(tiny.FRESH, vision="tiny-vision") if fresh else tiny.OWL_TINY,
        trainable=Trainable("full", "full", "full"),
        encoding=Encoding(max_tokens=256),
        data=("scenes:chats", "scenes:captions"),
        steps=steps,
        batch=batch,
        micro_batch=batch,
        log_every=1,
        save_every=None,
    )


def losses(made: Recipe, order: int, out: Path) -> torch.Tensor:
    """The loss of every step [steps], learned from the first weights of `made` in the order that the seed `order` gives."""
    survey = Survey(*open_data(made.data))
    fit(replace(made, seed=order), initial_model(made, survey), survey, out)
    return torch.tensor([row["loss"] for row in metrics.read(out / "metrics.jsonl")])


def differences(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[float, float, float]:
    """Mean, largest and signed mean relative difference of the windows of two curves [steps]."""
    windows, reference = (curve.unfold(0, WINDOW, WINDOW).mean(1) for curve in (ours, theirs))
    relative = windows / reference - 1
    return float(relative.abs().mean()), float(relative.abs().max()), float(relative.mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    if arguments.steps < WINDOW:
        parser.error(f"--steps {arguments.steps}, expected at least {WINDOW}: losses are averaged over so many")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = recipe(arguments.steps, arguments.batch, arguments.fresh)
        fp32 = losses(replace(made, precision="fp32"), 0, folder / "fp32")
        print(f"fp32: loss {fp32[:WINDOW].mean():.3f} at first, {fp32[-WINDOW:].mean():.3f} at the end", flush=True)
        for title, precision, order in (("bf16", "bf16", 0), ("fp32 in another order", "fp32", 1)):
            curve = losses(replace(made, precision=precision), order, folder / title)
            mean, worst, drift = differences(curve, fp32)
            print(f"{title}: windows of {WINDOW} steps differ by {mean:.2%}, at worst {worst:.2%}, on average {drift:+.2%}")
