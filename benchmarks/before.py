"""A step or words of another commit, for `benchmarks.against --before` and `benchmarks.words --against`.

It is run with that checkout in front on PYTHONPATH. A line on stdin says as JSON what is to be made, a step or rows of words;
each further line is answered by the seconds that it took.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch


def step(samples: int, tokens: int, lora: bool, precision: str) -> Callable[[], object]:
    """The checkout's own step: by its `benchmarks.baseline`, or by `benchmarks.speed` where it has none yet."""
    try:
        from benchmarks import baseline
    except ImportError:
        return _by_speed(samples, tokens, lora, precision)
    learned = baseline.STAGE_2 if lora else baseline.STAGE_1
    return baseline.our_step(baseline.Step((tokens,) * samples, learned), precision)


def _by_speed(samples: int, tokens: int, lora: bool, precision: str) -> Callable[[], object]:
    """Until 82a4fad."""
    from dataclasses import replace

    from benchmarks import speed  # type: ignore[attr-defined]  # another checkout's
    from mplug_owl.recipes import tiny
    from mplug_owl.train.recipe import LoRA, Trainable

    recipe = replace(tiny.pretrain(), precision=precision)
    if lora:
        recipe = replace(recipe, trainable=Trainable("frozen", "frozen", "lora"), lora=LoRA(8, 32, 0.05))
    return speed.step(recipe, samples, tokens)


def words(rows: int, words: int, prompt: int) -> Callable[[], object]:
    """So many rows of greedy words in fp32: by the checkout's `benchmarks.words`, or as `_by_generate` where it has none."""
    try:
        from benchmarks.words import plain, sentence
    except ImportError:
        return _by_generate(rows, words, prompt)
    owl = plain()
    return lambda: sentence(owl, rows)


def _by_generate(rows: int, words: int, prompt: int) -> Callable[[], object]:
    """As a checkout's `Chat` and exams did until 82a4fad: transformers' generate, the pictures' features given."""
    from benchmarks.speed import owl_263m  # type: ignore[import-not-found]  # another checkout's
    from transformers import GenerationConfig
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    from mplug_owl.model.owl import MplugOwlForConditionalGeneration

    owl: Any = MplugOwlForConditionalGeneration(owl_263m()).eval()
    count, width = owl.num_image_tokens, owl.config.text_config.hidden_size
    ids_BT = torch.tensor([[1, *[owl.config.image_token_id] * count, *range(3, 3 + prompt)]] * rows)
    config = GenerationConfig(max_new_tokens=words, do_sample=False, eos_token_id=None, pad_token_id=0)

    def run() -> None:
        seen = BaseModelOutputWithPooling(pooler_output=torch.zeros(rows, count, width))
        said_BT = owl.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            mm_encoder_outputs={"image": seen},
            generation_config=config,
        )
        if said_BT.shape[1] != ids_BT.shape[1] + words:
            raise ValueError("an answer of another length than was asked for")

    return run


def main() -> None:
    """Make it, then run it once for each line."""
    torch.set_num_threads(1)
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    run = words(**given) if "words" in given else step(**given)
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        print(json.dumps({"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}), flush=True)


if __name__ == "__main__":
    main()
