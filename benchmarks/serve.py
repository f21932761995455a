"""What `owl serve` does with a crowd: tokens a second of many clients beside one, first words, and a conversation's later turn.

`tiny` is owl-tiny as the package has it, streamed to 1, 16 and 64 clients, and the same one after the other through
`owl chat`'s engine: exam questions, each about a new picture, whose answers have two tokens; lists of all things in it, whose
answers have some ten; and exam questions with answers of 64,
as other engines are measured at a fixed length: a penalty below 1 has the model repeat its prompt. What takes time is then
answering, and before, reading prompts. `large` is the owl of 263 M parameters
(benchmarks/baseline.py) with random weights, whose answers have 64 tokens each. `turns` asks a second question about a
picture. Clients are threads of nothing else than reading (benchmarks/serve_client.py); everything shares the cores there are.

    python -m benchmarks.serve [tiny] [large] [turns] [--repeats 5] [--dtype bfloat16]
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.command import count, machine
from benchmarks.serve_client import Reply, ask, data_url, question, served
from mplug_owl.chat import Decoding, OwlChatModel, find
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.model.load import Owl
from mplug_owl.scenes import exam, scene

LIST = "List the things in reading order, separated by commas."
LONG = {"repetition_penalty": 0.1, "max_tokens": 64}
LARGE_TOKENS, LARGE_CLIENTS = 64, 8
# Eight of 48 questions, from all of the exam: its abilities come one after the other, and their answers differ in length.
EIGHT = slice(None, None, 6)
TINY = (sys.executable, "-m", "mplug_owl_cli", "serve", "owl-tiny", "--port", "0", "--no-auth", "--device", "cpu")
SECTIONS = ("tiny", "large", "turns")


@dataclass(frozen=True)
class Asked:
    """A question about a new picture: as clients send it, and as `owl chat` is asked."""

    body: dict[str, Any]
    talk: Conversation


@dataclass(frozen=True)
class Crowd:
    """What so many clients got in so many seconds."""

    clients: int
    replies: list[Reply]
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens of answers a second."""
        return sum(reply.tokens for reply in self.replies) / self.seconds

    @property
    def firsts(self) -> list[float]:
        """Seconds to the first word of each answer, the longest first."""
        return sorted((reply.first for reply in self.replies if reply.first is not None), reverse=True)


def bar(what: str, figure: float, needed: float, at_most: bool = False, unit: str = "") -> None:
    """A line with a figure beside its bar."""
    reached = figure <= needed if at_most else figure >= needed
    side = "at most" if at_most else "at least"
    print(f"{what}: {figure:.3g}{unit} ({side} {needed:g}{unit}: {'reached' if reached else 'MISSED'})", flush=True)


def scenes_asked(count: int, seed: int, words: str | None = None, model: str = "owl-tiny", **fields: Any) -> Iterator[Asked]:
    """Questions of the drawn world's exam, or the same one, each about a picture of its own."""
    items = exam(-(-count // 6), "seen", seed)
    for number in range(count):
        item = items[number]
        image, said = item.scene.draw(), words or item.turns[0][0]
        yield Asked(question(said, data_url(image), model=model, **fields), Conversation(()).said("user", Picture(image), said))


async def crowd(port: int, bodies: Sequence[Mapping[str, Any]], clients: int) -> Crowd:
    """So many clients, each of which sends the next request as soon as it has its answer."""
    left, replies = iter(enumerate(bodies)), [Reply(0)] * len(bodies)

    async def client() -> None:
        for number, body in left:
            replies[number] = await ask(port, body)

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Crowd(clients, replies, time.perf_counter() - begin)


def alone(model: OwlChatModel, asked: Sequence[Asked], decoding: Decoding) -> tuple[float, list[str]]:
    """Tokens a second of `owl chat`'s engine, one request after the other, and what it says."""
    tokens, said, begin = 0, [], time.perf_counter()
    for one in asked:
        said.append("".join(model.stream(one.talk, decoding)))
        tokens += model.work.answer_tokens if model.work else 0
    return tokens / (time.perf_counter() - begin), said


def tiny(repeats: int) -> None:
    """owl-tiny's bars."""
    model = find("owl-tiny", device="cpu")
    assert isinstance(model, OwlChatModel)
    with served(TINY) as (port, _):
        asyncio.run(crowd(port, [one.body for one in scenes_asked(32, 99)], 8))
        alone(model, list(scenes_asked(4, 98)), Decoding())
        compared("exam questions", port, model, repeats, Decoding(), {})
        compared("lists of all things", port, model, repeats, Decoding(), {}, LIST)
        compared("long answers", port, model, repeats, Decoding(64, repetition_penalty=0.1), LONG)
        flood = asyncio.run(crowd(port, [one.body for one in scenes_asked(192, 77)], 64))
    bar("64 clients, requests not answered", sum(not reply.whole for reply in flood.replies), 0, at_most=True)
    print(f"64 clients, first word: median {statistics.median(flood.firsts):.2f} s, worst {flood.firsts[0]:.2f} s")


def compared(
    name: str,
    port: int,
    model: OwlChatModel,
    repeats: int,
    decoding: Decoding,
    fields: Mapping[str, float | int],
    words: str | None = None,
) -> None:
    """16 clients beside one and beside `owl chat`'s engine, in turn."""
    pairs: list[tuple[Crowd, Crowd, float]] = []
    different = 0
    for repeat in range(repeats):
        others, asked = (list(scenes_asked(48, seed, words, **fields)) for seed in (50 + repeat, repeat))
        few = asyncio.run(crowd(port, [one.body for one in others[EIGHT]], 1))
        many = asyncio.run(crowd(port, [one.body for one in asked], 16))
        rate, said = alone(model, asked[EIGHT], decoding)
        different += sum(reply.text != words for reply, words in zip(many.replies[EIGHT], said, strict=True))
        pairs.append((few, many, rate))
    lengths = [reply.tokens for _, many, _ in pairs for reply in many.replies]
    one, sixteen, chat = (
        statistics.median(rates) for rates in zip(*((few.rate, many.rate, rate) for few, many, rate in pairs), strict=True)
    )
    print(f"owl-tiny, {name}: {statistics.mean(lengths):.1f} tokens in the mean")
    print(f"tokens a second: one client {one:.0f}, 16 clients {sixteen:.0f}, owl chat's engine {chat:.0f}")
    print(f"answers other than owl chat's: {different} of {8 * repeats}")
    bar("16 clients beside one", statistics.median(many.rate / few.rate for few, many, _ in pairs), 4, unit=" times")
    bar("16 clients beside owl chat's engine", statistics.median(many.rate / rate for _, many, rate in pairs), 4, unit=" times")
    bar("first word at 16 clients, the worst", max(many.firsts[0] for _, many, _ in pairs), 1, at_most=True, unit=" s")


def large(repeats: int, dtype: str) -> None:
    """The bar of the owl of 263 M."""
    pairs = []
    with served((sys.executable, "-m", "benchmarks.serve", "--serve-large", dtype)) as (port, _):
        asyncio.run(crowd(port, large_bodies(2, 99), 2))
        for repeat in range(repeats):
            few = asyncio.run(crowd(port, large_bodies(2, 100 + repeat), 1))
            many = asyncio.run(crowd(port, large_bodies(LARGE_CLIENTS, 200 + repeat), LARGE_CLIENTS))
            pairs.append((few, many))
    one, eight = (statistics.median(rates) for rates in zip(*((few.rate, many.rate) for few, many in pairs), strict=True))
    print(f"263 M, {dtype}, {LARGE_TOKENS} tokens about a new picture each: {one:.1f} tokens a second, 8 clients {eight:.1f}")
    bar("8 clients beside one", statistics.median(many.rate / few.rate for few, many in pairs), 3, unit=" times")
    print(
        f"first word, worst of 8: {max(many.firsts[0] for _, many in pairs):.2f} s, alone {one and pairs[0][0].firsts[0]:.2f} s"
    )


def large_bodies(count: int, seed: int) -> list[dict[str, Any]]:
    """Requests about pictures of their own."""
    drawn = (scene(seed * 1000 + number).draw(224) for number in range(count))
    return [question("What is in the picture?", data_url(image), model="large", max_tokens=LARGE_TOKENS) for image in drawn]


def turns(repeats: int, dtype: str) -> None:
    """The later turn's bar, for both owls."""
    with served(TINY) as (port, _):
        later_turn(port, "owl-tiny", repeats * 4)
    with served((sys.executable, "-m", "benchmarks.serve", "--serve-large", dtype)) as (port, _):
        later_turn(port, "large", repeats)


def later_turn(port: int, model: str, repeats: int) -> None:
    """How soon the second question about a picture is answered, beside the first."""
    pairs, known = [], []
    for number in range(repeats + 1):
        drawn = scene(70_000 + number)
        url = data_url(drawn.draw(224) if model == "large" else drawn.draw())
        first = question("How many things are there?", url, model=model, max_tokens=8)
        one = asyncio.run(ask(port, first))
        more = [{"role": "assistant", "content": one.text}, {"role": "user", "content": "What colour is the largest?"}]
        two = asyncio.run(ask(port, first | {"messages": [*first["messages"], *more]}))
        if number and one.first and two.first:
            pairs.append((one.first, two.first))
            known.append(two.known)
    one_s, two_s = (statistics.median(waits) for waits in zip(*pairs, strict=True))
    print(
        f"{model}: first turn's first word after {one_s * 1000:.0f} ms, second's after {two_s * 1000:.0f} ms, known {known[0]}"
    )
    bar(f"{model}: second turn sooner", statistics.median(first / second for first, second in pairs), 3, unit=" times")


def serve_large(dtype: str) -> None:
    """The process of the random owl."""
    from benchmarks.baseline import owl_263m
    from benchmarks.chat import letter_owl
    from mplug_owl.model.small_weights import pack
    from mplug_owl.serve.run import ServeSettings, serve

    owl = letter_owl(owl_263m())
    if dtype == "bfloat16":
        owl = Owl(owl.model.bfloat16(), owl.processor)
        pack(owl.model)
    serve(ServeSettings((), port=0, auth=False), {"large": owl})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; all by default")
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--serve-large", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve_large:
        serve_large(given.serve_large)
        return
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(unknown)}; expected {', '.join(SECTIONS)}")
    print(f"{machine()}, torch threads {torch.get_num_threads()}")
    for name in given.sections or SECTIONS:
        {"tiny": tiny, "large": lambda n: large(n, given.dtype), "turns": lambda n: turns(n, given.dtype)}[name](given.repeats)


if __name__ == "__main__":
    main()
