"""How far our numbers are from the original's, the worst of every quantity: `python -m benchmarks.parity [GOLDENS]`.

GOLDENS is a folder of small checkpoints of the original's and what its own code computed with them, by default
../shared/parity; its README says what each quantity is. tests/parity holds every quantity to a tolerance.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils.logging import disable_progress_bar

import mplug_owl  # noqa: F401  (registers the Auto classes)
from mplug_owl.model.checkpoints import our_name

GOLDENS = Path(__file__).parents[2] / "shared" / "parity"
BATCH = "b_text_image_multi"  # the training batch whose gradients are stored


@dataclass(frozen=True)
class Golden:
    """One checkpoint of the original's and what the original computed with it."""

    checkpoint: Path
    stem: str

    @property
    def folder(self) -> Path:
        return self.checkpoint.parent

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads((self.folder / f"golden_{self.stem}.json").read_text("utf-8"))

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"golden_{self.stem}.safetensors")

    @cached_property
    def owl(self) -> Any:
        return AutoModelForImageTextToText.from_pretrained(self.checkpoint).eval()

    @cached_property
    def processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.checkpoint)

    def pictures(self, names: list[str]) -> list[Path]:
        return [self.folder / "images" / f"{name}.png" for name in names]

    def pixels(self, names: list[str]) -> Tensor:
        return self.processor(images=self.pictures(names))["pixel_values"]

    def inputs(self, prompt: dict[str, Any]) -> Any:
        return self.processor(text=prompt["text"], images=self.pictures(prompt["images"]))

    @property
    def prompts(self) -> list[dict[str, Any]]:
        """All prompts but the one that the original gets wrong."""
        return [prompt for prompt in self.facts["prompts"] if prompt["key"] != "adjacent_images_bug"]

    def prompt(self, key: str) -> dict[str, Any]:
        return next(prompt for prompt in self.facts["prompts"] if prompt["key"] == key)

    def our_ids(self, original: Tensor) -> Tensor:
        """The original's ids in ours: it marks pictures by -1."""
        return original.long().masked_fill(original < 0, self.processor.image_token_id)

    def training_batch(self, name: str) -> dict[str, Any]:
        """One of the original's training batches; the labels are those its forward pass ends up with."""
        rows = self.facts["train"]["batches"][name]
        lines = (self.folder / self.facts["train"]["jsonl"]).read_text("utf-8").splitlines()
        names = [Path(image).stem for row in rows for image in json.loads(lines[row]).get("image", [])]
        return {
            "input_ids": self.our_ids(torch.stack([self.tensors[f"train.{row}.input_ids"] for row in rows])),
            "labels": torch.stack([self.tensors[f"train.{row}.labels_after_forward"] for row in rows]).long(),
            "pixel_values": self.pixels(names) if names else None,
        }


def goldens(folder: Path) -> list[Golden]:
    """Every image checkpoint of a folder; video is another model. A sharded copy has the numbers of its whole one."""
    found = []
    for config in sorted(folder.glob("*/config.json")):
        stem = config.parent.name.removesuffix("-sharded")
        if (folder / f"golden_{stem}.json").is_file() and "video" not in stem:
            found.append(Golden(config.parent, stem))
    return found


# Differences, every one of them a stream of (what, size): the table shows the largest.
Differences = Iterator[tuple[str, float]]


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference."""
    return (ours.float() - theirs.float()).abs().max().item()


def pixel_values(golden: Golden) -> Differences:
    """1 for every picture whose float32 bytes differ."""
    for name, fact in golden.facts["pixel_values"].items():
        ours = hashlib.sha256(golden.pixels([name]).numpy().tobytes()).hexdigest()
        yield name, float(ours != fact["sha256_f32"])


def token_ids(golden: Golden) -> Differences:
    """1 for every prompt whose ids or mask differ, and every awkward string whose ids or decoded text do."""
    for prompt in golden.facts["prompts"]:
        ours, key = golden.inputs(prompt), f"prompt.{prompt['key']}"
        same = torch.equal(ours["input_ids"], golden.our_ids(golden.tensors[f"{key}.input_ids"]))
        same &= torch.equal(ours["attention_mask"].float(), golden.tensors[f"{key}.attention_mask"])
        yield prompt["key"], float(not same)
    tokenizer = golden.processor.tokenizer
    for case in golden.facts.get("tokenizer", {}).get("cases", []):
        ids = case["ids"]
        same = tokenizer(case["text"], add_special_tokens=False)["input_ids"] == ids
        same &= tokenizer.decode(ids) == case["decoded"]
        same &= tokenizer.decode(ids, skip_special_tokens=True) == case["decoded_skip_special"]
        yield repr(case["text"]), float(not same)


@torch.no_grad()
def vision(golden: Golden) -> Differences:
    """Vision tokens after the last norm, the class token normed twice, and the states between the layers."""
    seen = golden.owl.model.vision_tower(golden.pixels(["rgb0", "rgb1", "rgb2"]), output_hidden_states=True)
    kept = golden.tensors["vision.last_hidden_state"]
    yield "last_hidden_state", apart(seen.last_hidden_state[: len(kept)], kept)
    yield "pooler_output", apart(seen.pooler_output, golden.tensors["vision.pooler_output"])
    for index, states in enumerate(seen.hidden_states):
        if (kept := golden.tensors.get(f"vision.hidden_states.{index}")) is not None:
            yield f"hidden_states.{index}", apart(states[:1, : kept.shape[1]], kept)


@torch.no_grad()
def abstractor(golden: Golden) -> Differences:
    """What the language model gets of a picture, the end vector included, and the queries after every layer."""
    connector, layers = golden.owl.model.abstractor, []
    hooks = [layer.register_forward_hook(lambda _, __, states: layers.append(states)) for layer in connector.layers]
    features = golden.owl.get_image_features(golden.pixels(["rgb0", "rgb1", "rgb2"])).pooler_output
    for hook in hooks:
        hook.remove()
    yield "last_hidden_state", apart(features, golden.tensors["abstractor.last_hidden_state"])
    yield "pooler_output", apart(layers[-1][:, 0], golden.tensors["abstractor.pooler_output"])
    for index, states in enumerate(layers):
        yield f"layer_out.{index}", apart(states[:1], golden.tensors[f"abstractor.layer_out.{index}"])


@torch.no_grad()
def logits(golden: Golden) -> Differences:
    """Logits where they are stored, logsumexp everywhere, of prompts and of a training batch."""
    for prompt in golden.prompts:
        key, ours = f"prompt.{prompt['key']}", golden.owl(**golden.inputs(prompt)).logits[0]
        yield key, apart(ours[golden.tensors[f"{key}.logit_positions"]], golden.tensors[f"{key}.logits"])
        yield f"{key}.logsumexp", apart(ours.logsumexp(-1), golden.tensors[f"{key}.logsumexp"])
    ours = golden.owl(**golden.training_batch(BATCH)).logits
    yield "training", apart(ours[:, golden.facts["train"]["logit_positions"]], golden.tensors[f"train.{BATCH}.logits"])
    yield "training.logsumexp", apart(ours.logsumexp(-1), golden.tensors[f"train.{BATCH}.logsumexp"])


@torch.no_grad()
def argmax(golden: Golden) -> Differences:
    """How many positions of a prompt have another likeliest token."""
    for prompt in golden.prompts:
        likeliest = golden.owl(**golden.inputs(prompt)).logits[0].argmax(-1)
        yield prompt["key"], float(likeliest.ne(golden.tensors[f"prompt.{prompt['key']}.argmax"]).sum())


@torch.no_grad()
def step_scores(golden: Golden) -> Differences:
    """Logits of the first steps of generation, with the cache."""
    theirs = golden.tensors["prompt.one_image.step_scores"]
    steps = {"output_logits": True, "return_dict_in_generate": True, "max_new_tokens": len(theirs), "eos_token_id": None}
    ours = golden.owl.generate(**golden.inputs(golden.prompt("one_image")), do_sample=False, **steps)
    for index, (mine, scores) in enumerate(zip(ours.logits, theirs, strict=True)):
        yield f"step {index}", apart(mine[0], scores)


def greedy(golden: Golden, inputs: Any, end: int | None = None, tokens: int = 16) -> list[list[int]]:
    """The ids that are generated after the prompts, row by row."""
    ids = golden.owl.generate(**inputs, do_sample=False, max_new_tokens=tokens, eos_token_id=end, pad_token_id=0)
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


def greedy_ids(golden: Golden) -> Differences:
    """1 for every prompt that goes on in other words. The original's ids start with a place holder."""
    for prompt in golden.prompts:
        yield prompt["key"], float(greedy(golden, golden.inputs(prompt)) != [prompt["generated_raw"][1:]])
    prompt = golden.prompt("one_image")
    forced = prompt["forced_eos"]
    ours = greedy(golden, golden.inputs(prompt), end=forced["eos_token_id"])
    yield "ends at the end token", float(ours != [forced["generated_raw"][1:]])
    for key in ("generate_without_kwargs", "generate_max_length_12"):
        theirs = prompt[key][1:]
        yield key, float(greedy(golden, golden.inputs(prompt), end=2, tokens=len(theirs)) != [theirs])


def left_padded(golden: Golden) -> Differences:
    """1 for every row of a batch that goes on otherwise than alone. The original pads right and spoils all but the longest."""
    prompts = golden.prompts
    images = [golden.pictures(prompt["images"]) for prompt in prompts]
    rows = greedy(golden, golden.processor(text=[prompt["text"] for prompt in prompts], images=images))
    for prompt, row in zip(prompts, rows, strict=True):
        yield prompt["key"], float(row != prompt["generated_raw"][1:])


@torch.no_grad()
def losses(golden: Golden) -> Differences:
    """Training losses. Where nothing is learned the original has NaN and ours is 0."""
    for name, loss in golden.facts["train"]["losses"].items():
        ours = golden.owl(**golden.training_batch(name)).loss.item()
        yield name, abs(ours - (0.0 if loss == "nan" else loss))


def gradients(golden: Golden) -> Differences:
    """Gradients of one training batch: the norm of every weight relative to the original's, some of them in full."""
    golden.owl.zero_grad()
    golden.owl(**golden.training_batch(BATCH)).loss.backward()
    # A tied head is one weight under two names.
    ours = {name: weight.grad for name, weight in golden.owl.named_parameters(remove_duplicate=False)}
    golden.owl.zero_grad()
    for name, norm in golden.facts["train"][f"grad_norms_{BATCH}"].items():
        yield f"norm of {name}", abs(ours[our_name(name)].norm().item() - norm) / max(norm, 1.0)
    for key, theirs in golden.tensors.items():
        if key.startswith("grad."):
            yield key, apart(ours[our_name(key.removeprefix("grad."))], theirs)


@torch.no_grad()
def bfloat16(golden: Golden) -> Differences:
    """The same model in bfloat16: three decimal digits at best, so a loose look."""
    if "bf16.logits_last" not in golden.tensors:
        return
    owl = AutoModelForImageTextToText.from_pretrained(golden.checkpoint, dtype=torch.bfloat16).eval()
    inputs = golden.inputs(golden.prompt("one_image"))
    outputs = owl(**inputs)
    seen = owl.model.vision_tower(inputs["pixel_values"]).last_hidden_state
    yield "vision", apart(seen, golden.tensors["bf16.vision.last_hidden_state"])
    yield "abstractor", apart(outputs.image_hidden_states, golden.tensors["bf16.abstractor.last_hidden_state"])
    yield "logits", apart(outputs.logits[0, -1], golden.tensors["bf16.logits_last"])


# quantity, what may be reached at most (the parity notes, section 11; 0 where all must be equal)
QUANTITIES: tuple[tuple[Callable[[Golden], Differences], float], ...] = (
    (pixel_values, 0),
    (token_ids, 0),
    (vision, 2e-5),
    (abstractor, 1e-4),
    (logits, 3e-4),
    (argmax, 0),
    (step_scores, 3e-4),
    (greedy_ids, 0),
    (left_padded, 0),
    (losses, 1e-4),
    (gradients, 3e-4),
    (bfloat16, 0.5),
)


def main(folder: Path) -> int:
    """Print the table; 1 when a quantity is above its bar."""
    disable_progress_bar()
    found, failed = goldens(folder), False
    if not found:
        Console(stderr=True).print(f"{folder}: no goldens; expected NAME/config.json beside golden_NAME.json")
        return 1
    table = Table("quantity", "bar", title=f"largest difference from the original, {folder}")
    for golden in found:
        table.add_column(golden.checkpoint.name, justify="right")
    for quantity, bar in QUANTITIES:
        cells = []
        for golden in found:
            what, size = max(quantity(golden), key=lambda difference: difference[1], default=("", None))
            missed = size is not None and not size <= bar
            failed |= missed
            cells.append("-" if size is None else f"[red]{size:.2g} {what}" if missed else f"{size:.2g}")
        table.add_row(quantity.__name__, f"{bar:g}", *cells)
    Console(width=max(Console().width, 100)).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDENS))
