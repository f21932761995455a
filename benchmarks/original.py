"""The original's side of `benchmarks.against`: run by the interpreter that has its old libraries, on its code where it lies.

It imports nothing of ours. A line on stdin is a section as JSON; the answer is a line with seconds and the loss. Code: the
folder that holds `mplug_owl/modeling_mplug_owl.py` of https://github.com/X-PLUG/mPLUG-Owl (mPLUG-Owl/). Libraries: torch, and
transformers 4.28.1 as its requirements say, peft 0.3.0 for LoRA.
"""

import json
import sys
import time
from typing import Any

PICTURE = 65


def owl(config: dict[str, Any]) -> Any:
    """The original with random weights, as its own training script makes it."""
    import torch
    from mplug_owl.configuration_mplug_owl import MplugOwlConfig
    from mplug_owl.modeling_mplug_owl import MplugOwlForConditionalGeneration

    torch.manual_seed(0)
    return MplugOwlForConditionalGeneration(MplugOwlConfig(**config))


def step(model: Any, samples: int, tokens: int, lora: bool) -> Any:
    """Forward and backward of one step. Its data set gives one token more than it learns from; here the last one pads."""
    import torch

    for name, parameter in model.named_parameters():
        parameter.requires_grad = not lora and not name.startswith("language_model.")
    if lora:
        from peft import LoraConfig, get_peft_model

        targets = r".*language_model.*\.(q_proj|v_proj)"  # its train.py
        model = get_peft_model(model, LoraConfig(target_modules=targets, r=8, lora_alpha=32, lora_dropout=0.05))
    model.train()
    ids = torch.randint(3, 32000, (samples, tokens))
    ids[:, 1 : 1 + PICTURE] = -1
    pixels = torch.randn(samples, 3, 224, 224)
    ones = torch.ones(samples, tokens - 1, dtype=torch.long)
    words = (ids[:, 1:] >= 0).long()

    def run() -> float:
        model.zero_grad(set_to_none=True)
        labels = ids.clone().clamp(min=0)
        outputs = model(
            pixel_values=pixels,
            input_ids=ids,
            num_images=torch.ones(samples, dtype=torch.long),
            non_padding_mask=ones,
            non_media_mask=words,
            prompt_mask=ones,
            labels=labels,
        )
        outputs.loss.backward()
        return float(outputs.loss)

    return run


def words(model: Any, batch: int, count: int, tokens: int = 128) -> Any:
    """So many greedy words for each row of a batch, looking at a picture each included."""
    import torch

    model.eval()
    ids = torch.randint(3, 32000, (batch, tokens))
    ids[:, 1 : 1 + PICTURE] = -1
    pixels = torch.randn(batch, 3, 224, 224)
    # With embeddings given, transformers 4.28.1 counts a begin token and what it says.
    asked = {"min_length": count + 1, "max_length": count + 1, "do_sample": False, "use_cache": True}

    def run() -> float:
        said = model.generate(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), **asked)
        assert said.shape[1] == count + 1, said.shape
        return 0.0

    return run


def look(model: Any, pictures: int) -> Any:
    """Its vision model and its abstractor."""
    import torch

    model.eval()
    pixels = torch.randn(pictures, 3, 224, 224)

    @torch.no_grad()
    def run() -> float:
        seen = model.vision_model(pixels, return_dict=True).last_hidden_state
        mask = torch.ones(seen.shape[:-1], dtype=torch.long)
        queries = model.query_tokens.expand(pictures, -1, -1)
        model.abstractor(query_embeds=queries, encoder_hidden_states=seen, encoder_attention_mask=mask)
        return 0.0

    return run


def main() -> None:
    """Make what the first line says, then do it once for each further line."""
    import torch

    torch.set_num_threads(1)
    task = json.loads(sys.stdin.readline())
    sys.path.insert(0, task["original"])
    talk, sys.stdout = sys.stdout, sys.stderr  # what its imports print is no answer
    model = owl(task["config"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run = {"step": step, "words": words, "look": look}[task["work"]](model, **task["given"])
    print(json.dumps({"parameters": parameters}), file=talk, flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        loss = run()
        taken = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "loss": loss}
        print(json.dumps(taken), file=talk, flush=True)


if __name__ == "__main__":
    main()
