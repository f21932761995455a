"""Whether a run's memory grows: training on ever-new lengths, the process's resident memory after every step.

`tiny` is tiny.instruct. `language` has a language model of SmolLM2's shape in owl-tiny's place: 135 M fresh weights, 30
layers of width 576, LoRA on them. The last third grows by its last tenth's median over its first tenth's.

`--unbounded` leaves the kernels' caches as they come, which is how it was.

    python -m benchmarks.memory [tiny | language] [--steps N] [--batch N] [--unbounded]
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from benchmarks.command import count, machine
from mplug_owl.data.survey import Survey
from mplug_owl.model.build import join
from mplug_owl.model.clip import load_vision
from mplug_owl.model.config import MplugOwlConfig
from mplug_owl.model.kernel_caches import CACHES
from mplug_owl.model.load import Owl
from mplug_owl.model.locate import bundled
from mplug_owl.model.processor import MplugOwlProcessor
from mplug_owl.recipes import tiny
from mplug_owl.train.loop import fit
from mplug_owl.train.reporter import Progress, Silent
from mplug_owl.train.run import initial_model, open_data

BAR = 0.02
STEPS = {"tiny": 3000, "language": 300}
# SmolLM2-135M's config.json on the hub.
TEXT = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


class Watch(Silent):
    """Notes resident memory after every step, in MB, and prints it now and then."""

    def __init__(self) -> None:
        self.resident: list[float] = []
        self.began = time.process_time()

    def progress(self, progress: Progress) -> None:
        """After a step."""
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        if progress.step % max(1, progress.steps // 30) == 0:
            cpu = time.process_time() - self.began
            print(f"step {progress.step}: {self.resident[-1]:,.0f} MB, {cpu:.0f} CPU s", flush=True)


def growth(resident: list[float]) -> float:
    """By which share of itself memory grew in the last third."""
    last = resident[-(len(resident) // 3) :]
    tenth = max(1, len(last) // 10)
    return statistics.median(last[-tenth:]) / statistics.median(last[:tenth]) - 1


def language_owl() -> Owl:
    """Fresh weights in SmolLM2's shape. The tokenizer is tiny-language's, filled up to the vocabulary."""
    torch.manual_seed(0)
    config = MplugOwlConfig.from_dict({**tiny.owl_tiny().to_dict(), "text_config": TEXT})
    tokenizer = AutoTokenizer.from_pretrained(bundled("tiny-language"))
    tokenizer.add_tokens([f"unused-{number}-" for number in range(TEXT["vocab_size"] - len(tokenizer))])
    model = join(config, load_vision(bundled("tiny-vision"), config), AutoModelForCausalLM.from_config(config.text_config))
    images = AutoImageProcessor.from_pretrained(bundled("tiny-vision"))
    return Owl(model, MplugOwlProcessor.for_model(model, tokenizer, images))


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=STEPS, default="tiny")
    parser.add_argument("--steps", type=count)
    parser.add_argument("--batch", type=count, help="samples a step; tiny.instruct has 32, the language model 2")
    parser.add_argument("--unbounded", action="store_true")
    given = parser.parse_args()
    if given.unbounded:
        os.environ.update(dict.fromkeys(CACHES, "1024"))
    torch.set_num_threads(1)
    batch = given.batch or (32 if given.what == "tiny" else 2)
    steps = given.steps or STEPS[given.what]
    recipe = replace(tiny.instruct(), steps=steps, batch=batch, micro_batch=min(8, batch), log_every=1, save_every=None)
    survey, watch = Survey(*open_data(recipe.data)), Watch()
    owl = initial_model(recipe, survey) if given.what == "tiny" else language_owl()
    print(f"{machine()}; {given.what}, {batch} samples a step; kernels' caches {'1,024' if given.unbounded else 'bounded'}")
    with tempfile.TemporaryDirectory() as folder:
        fit(recipe, owl, survey, Path(folder) / "run", reporter=watch)
    print(
        f"last third of {steps} steps: {growth(watch.resident):+.1%} (bar under {BAR:.0%}); most {max(watch.resident):,.0f} MB"
    )


if __name__ == "__main__":
    main()
