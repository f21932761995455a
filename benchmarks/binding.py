"""Whether small language models learn which word belongs to which, and how soon: the choice of owl-tiny's layers.

OMP_NUM_THREADS=1 python -m benchmarks.binding [--layers lfm2] [--steps 800] [--alike]

Two to four things are told, `small red circle top-left,`, every word one token, and questions name one of a thing's words and
ask for another. Who knows only which words are there guesses; the smallest problem that "Where is the circle?" hangs on.
"""

import argparse
import time
from random import Random

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mplug_owl.model.fresh import look_for_alike

WORDS = {
    "size": ("small", "large"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "white", "black"),
    "shape": ("circle", "triangle", "square", "star", "cross", "heart"),
    "place": tuple(f"{row}-{column}" for row in ("top", "middle", "bottom") for column in ("left", "middle", "right")),
}
VOCABULARY = {word: number for number, word in enumerate(["<pad>", ",", "?", "=", *WORDS, *sum(WORDS.values(), ())])}
QUESTIONS, BATCH, WIDTH, LAYERS = 12, 32, 128, 4


def talk(random: Random) -> list[str]:
    """Two to four things and questions about them; the word behind `=` is the answer."""
    things = [
        {"size": random.choice(WORDS["size"]), "colour": random.choice(WORDS["colour"]), "shape": random.choice(WORDS["shape"])}
        for _ in range(random.randint(2, 4))
    ]
    for thing, place in zip(things, sorted(random.sample(WORDS["place"], len(things))), strict=True):
        thing["place"] = place
    said = [word for thing in things for word in (*thing.values(), ",")]
    while said.count("=") < QUESTIONS:
        thing, (known, wanted) = random.choice(things), random.sample(list(WORDS), 2)
        if known != "size" and sum(other[known] == thing[known] for other in things) == 1:
            said += ["?", wanted, thing[known], "=", thing[wanted]]
    return said


def batch(random: Random) -> tuple[Tensor, Tensor]:
    """Ids [B, T], and where the answers are [B, T]."""
    talks = [talk(random) for _ in range(BATCH)]
    rows = [torch.tensor([VOCABULARY[word] for word in said]) for said in talks]
    answers = [torch.tensor([0, *(word == "=" for word in said[:-1])]).bool() for said in talks]
    return nn.utils.rnn.pad_sequence(rows, True), nn.utils.rnn.pad_sequence(answers, True)


def fresh(layers: str) -> PreTrainedModel:
    """A language model of this kind at width 128, from scratch."""
    sizes = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "initializer_range": WIDTH**-0.5,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    }
    if layers == "lfm2":
        kinds = LAYERS // 2 * ["conv", "full_attention"]
        sizes |= {"layer_types": kinds, "conv_L_cache": 4, "block_auto_adjust_ff_dim": False}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(layers, **sizes), attn_implementation="eager")


def learn(layers: str, steps: int, alike: bool, rate: float = 2e-3) -> list[float]:
    """The share of right answers in every hundred steps; each talk is met once, so they are of talks never seen."""
    torch.manual_seed(0)
    model, random, shares, right, asked = fresh(layers), Random(0), [], 0, 0
    if alike:
        look_for_alike(model)
    matrices = [module.weight for module in model.modules() if isinstance(module, nn.Linear) and module is not model.lm_head]
    others = [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in matrices)]
    optimizers = (
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
    )
    for step in range(steps):
        ids, answers = batch(random)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1][answers[:, 1:]].float()
        nn.functional.cross_entropy(logits, ids[answers]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (step + 1) / 50)
            optimizer.step()
            optimizer.zero_grad()
        right += int((logits.argmax(-1) == ids[answers]).sum())
        asked += len(logits)
        if (step + 1) % 100 == 0:
            shares.append(right / asked)
            right = asked = 0
    return shares


def main() -> None:
    """Learn and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", choices=("llama", "qwen3", "lfm2"), nargs="+", default=["llama", "lfm2"])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--alike", action="store_true", help="keys begin as copies of the queries")
    asked = parser.parse_args()
    for layers in asked.layers:
        began = time.perf_counter()
        shares = learn(layers, asked.steps, asked.alike)
        told = " ".join(f"{100 * share:.0f}" for share in shares)
        print(f"{layers}: percent correct, every hundred steps: {told} ({time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
