"""Many mixed requests at once: none lost or mixed up, no memory that stays, greedy answers as `owl chat` gives them.

owl-tiny and two LoRA adapters of it are served by one process. Clients ask questions with and without pictures, streamed and
whole; a third leaves midway, a tenth sends what is no request. Every text, a part of it where the client left, is compared to
the answer that the model gives alone. In bf16 two words may be equally likely, and how many rows are multiplied at once then
decides: `--dtype auto` counts how often.

    python -m benchmarks.serve_load [--requests 5000] [--clients 32] [--dtype float32]
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import count, machine, run
from benchmarks.serve import bar
from benchmarks.serve_client import Reply, ask, data_url, memory, question, served
from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.model.load import Owl, load
from mplug_owl.scenes import scene
from mplug_owl.serve.models import open_models

QUESTIONS = ("How many things are there?", "Describe the picture.", "What colour is the largest thing?", "Is there a star?")
TOKENS = 24
# The process has met every kind of request by then, and filled what it keeps.
WARM = 0.2
BROKEN: tuple[Any, ...] = (
    b"{",
    b"",
    b"[" * 5000,
    {"model": "nobody", "messages": [{"role": "user", "content": "Who?"}]},
    {"model": "owl-tiny", "messages": []},
    {"model": "owl-tiny", "messages": [{"role": "user", "content": "Who?"}], "top_k": 3},
    question("Who?", "data:image/png;base64,AAAA"),
    question("Who?", "http://127.0.0.1/a.png"),
)


@dataclass(frozen=True)
class Sent:
    """A request and what must come of it: `expected` words, a part of them where the client leaves, None for a refusal."""

    body: Any
    expected: str | None
    leave_after: int | None = None

    def verdict(self, reply: Reply) -> str:
        """One word for what came of it."""
        if self.expected is None:
            return "refused" if 400 <= reply.status < 500 else "wrong status"
        if reply.status != 200:
            return "lost"
        if self.leave_after is not None and not reply.whole:
            return "left" if self.expected.startswith(reply.text) else "mixed up"
        if not reply.whole:
            return "lost"
        return "answered" if reply.text == self.expected else "mixed up"


def adapters(folder: Path, base: str = "owl-tiny", count: int = 2) -> list[Path]:
    """LoRA adapters of a base, which learned nothing but are different."""
    from peft import LoraConfig, get_peft_model

    from mplug_owl.model.adapter import known_warnings

    found = []
    for number in range(count):
        torch.manual_seed(number)
        with known_warnings():
            learner = get_peft_model(load(base, "cpu").model, LoraConfig(r=4, target_modules=r".*language_model.*q_proj"))
        for name, weight in learner.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3)
        learner.peft_config["default"].base_model_name_or_path = base
        learner.save_pretrained(str(folder / f"adapter-{number}"), save_embedding_layers=False)
        found.append(folder / f"adapter-{number}")
    return found


def mixed(owls: Mapping[str, Owl], count: int, seed: int, pictures: int = 12) -> list[Sent]:
    """So many requests, drawn; what is expected of each is computed here, each model's at once."""
    dice, shown = random.Random(seed), [scene(900 + number).draw() for number in range(pictures)]
    expected: dict[tuple[str, str, int | None], str] = {}
    for model, owl in owls.items():
        asked = [(words, picture) for words in QUESTIONS for picture in (None, *range(pictures))]
        talks = [
            Conversation(()).said("user", *([] if picture is None else [Picture(shown[picture])]), words)
            for words, picture in asked
        ]
        answers = OwlChatModel(owl, batch_size=1).answers(talks, Decoding(max_new_tokens=TOKENS))
        expected |= {(model, *one): answer for one, answer in zip(asked, answers, strict=True)}
    urls = [data_url(picture) for picture in shown]
    return [_drawn(dice, expected, urls) for _ in range(count)]


def _drawn(dice: random.Random, expected: Mapping[tuple[str, str, int | None], str], urls: Sequence[str]) -> Sent:
    if dice.random() < 0.1:
        return Sent(dice.choice(BROKEN), None)
    model, words, picture = dice.choice(list(expected))
    body = question(words, *([] if picture is None else [urls[picture]]), model=model, max_tokens=TOKENS)
    answer = expected[model, words, picture]
    if dice.random() < 1 / 3:
        return Sent(body, answer, dice.randrange(1, 5))
    if dice.random() < 0.5:
        body |= {"stream": False, "stream_options": None}
    if dice.random() < 0.2:
        body |= {"logprobs": True, "top_logprobs": 2}
    return Sent(body, answer)


async def asked(
    port: int, requests: Sequence[Sent], clients: int, key: str | None = None, seen: Callable[[int], None] = lambda done: None
) -> list[Reply]:
    """Send them all from so many clients; `seen` is told how many are done."""
    left, replies, done = iter(enumerate(requests)), [Reply(0)] * len(requests), 0

    async def client() -> None:
        nonlocal done
        for number, one in left:
            replies[number] = await ask(port, one.body, key, one.leave_after)
            done += 1
            seen(done)

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=count, default=5000)
    parser.add_argument("--clients", type=count, default=32)
    parser.add_argument("--dtype", default="float32", choices=("float32", "auto"), help="auto is bfloat16, see above")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {"owl-tiny": "owl-tiny"} | {path.name: str(path) for path in adapters(Path(folder))}
        requests = mixed(open_models(models, "cpu", given.dtype), given.requests, 1)
        names = [f"{name}={path}" for name, path in models.items()]
        command = [sys.executable, "-m", "mplug_owl_cli", "serve", *names, "--port", "0", "--no-auth", "--cache", "24"]
        with served([*command, "--device", "cpu", "--dtype", given.dtype]) as (port, process):
            held: dict[int, int] = {0: memory(process.pid)}
            warm, begin = int(WARM * given.requests), time.perf_counter()

            def seen(done: int) -> None:
                if done % max(1, warm) == 0:
                    held[done] = memory(process.pid)
                    print(f"{done} done, {held[done] / 2**20:.0f} MiB", file=sys.stderr, flush=True)

            replies = asyncio.run(asked(port, requests, given.clients, seen=seen))
            seconds = time.perf_counter() - begin
            after = asyncio.run(ask(port, question("How many things are there?")))
    verdicts = Counter(one.verdict(reply) for one, reply in zip(requests, replies, strict=True))
    print(f"{machine()}: {given.requests} requests from {given.clients} clients in {seconds:.0f} s: {json.dumps(verdicts)}")
    print("memory, MiB: " + ", ".join(f"{size / 2**20:.0f} after {done}" for done, size in held.items()))
    bar("lost", verdicts["lost"] + verdicts["wrong status"], 0, at_most=True)
    bar("mixed up, or other than alone", verdicts["mixed up"], 0, at_most=True)
    bar("memory after the first fifth", 100 * (max(list(held.values())[2:]) / held[warm] - 1), 5, at_most=True, unit=" %")
    bar("answered after that", float(after.whole), 1)


if __name__ == "__main__":
    run(main)
