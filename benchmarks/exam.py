"""How long an owl takes for an exam: rows that are done leave, beside one call of transformers' generate for each batch.

64 questions of the drawn world's exam, with the picture, as `owl eval` asks them: later turns after the model's own answers.
Both ways in one process, in turn, on one thread; the first exam of each is not counted. An answer is compared to the letter.

`--against PATH` is a checkout of another commit: its exam is timed in a process of its own, in turn with this one's. Only
so is all of the gain seen: in one process both ways find the memory that `OwlChatModel` has malloc keep.

    python -m benchmarks.exam [--model owl-tiny] [--questions 64] [--repeats 15] [--dtype auto] [--against PATH]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.beside import ROOT, of_checkout
from benchmarks.command import checkout, count, machine, run
from mplug_owl import chat
from mplug_owl.chat import ChatModel, Decoding, OwlChatModel
from mplug_owl.conversation import Conversation
from mplug_owl.eval.answer import Answer, ask
from mplug_owl.eval.task import Question
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.model.load import Owl, load

# Of the whole exam, and of the model's answers alone.
BARS = {"cpu": 1.5, "wall": 1.5, "answers": 1.6}


class WholeBatches:
    """How exams were answered before: each batch by one call of generate, which lasts as long as its longest answer."""

    def __init__(self, owl: Owl, batch_size: int = 100) -> None:
        self.inner, self.batch_size = OwlChatModel(owl), batch_size

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The next answer in each conversation, in their order."""
        processor, answers = self.inner.processor, []
        for first in range(0, len(conversations), self.batch_size):
            samples = [processor.encode(talk, reply=True) for talk in conversations[first : first + self.batch_size]]
            inputs = processor.batch(samples).to(self.inner.model.device)
            ids_BT = self.inner.model.generate(**inputs, generation_config=self.inner._generation_config(decoding))
            rows = ids_BT[:, inputs["input_ids"].shape[1] :].tolist()
            answers += [str(processor.decode(row, skip_special_tokens=True)).strip() for row in rows]
        return answers

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The answer at once."""
        yield self.answers([conversation], decoding)[0]


class Metered:
    """A model, and the CPU seconds that it spends on answers. A checkout from before `arriving` calls `answers` alone."""

    def __init__(self, inner: ChatModel) -> None:
        self.inner, self.seconds = inner, 0.0

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The model's answers, timed. Nothing leaves before the last is there."""
        began = time.process_time()
        answers = self.inner.answers(conversations, decoding)
        self.seconds += time.process_time() - began
        return answers

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """As the model streams it."""
        return self.inner.stream(conversation, decoding)


@dataclass(frozen=True)
class Cost:
    """Seconds that one exam took: by the clock, of CPU, and of CPU inside the model's answers, its pictures drawn before."""

    wall: float
    cpu: float
    answers: float


def timed(model: ChatModel, questions: Sequence[Question]) -> tuple[Cost, list[Answer]]:
    """One exam, drawing its pictures included."""
    metered = Metered(model)
    wall, cpu = time.perf_counter(), time.process_time()
    answers = ask(metered, questions, DrawnWorld().conditions[0])
    return Cost(time.perf_counter() - wall, time.process_time() - cpu, metered.seconds), answers


def compare(owl: Owl, questions: Sequence[Question], repeats: int) -> tuple[dict[str, list[Cost]], int]:
    """Costs by way, in turn, and how many of the answers differ."""
    ways: dict[str, Callable[[], ChatModel]] = {"before": lambda: WholeBatches(owl), "now": lambda: OwlChatModel(owl)}
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    said: dict[str, list[Answer]] = {}
    for repeat in range(repeats + 1):
        for name, make in ways.items():
            cost, said[name] = timed(make(), questions)
            costs[name] += [cost] if repeat else []
    return costs, sum(one.turns != other.turns for one, other in zip(said["before"], said["now"], strict=True))


def against(other: Path, given: argparse.Namespace) -> tuple[dict[str, list[Cost]], int]:
    """The same between two checkouts, a process each. They take their exams in turn, one line of input for each."""
    command = [sys.executable, __file__, "--model", given.model, "--questions", str(given.questions), "--dtype", given.dtype]
    with ExitStack() as stack:
        ways = {
            name: stack.enter_context(of_checkout([*command, "--lines"], where))
            for name, where in (("before", other), ("now", ROOT))
        }
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        said: dict[str, list[list[str]]] = {}
        for repeat in range(given.repeats + 1):
            for name, way in ways.items():
                *seconds, said[name] = way.ask("exam")
                costs[name] += [Cost(*seconds)] if repeat else []
    return costs, sum(one != other for one, other in zip(said["before"], said["now"], strict=True))


def who(name: str, dtype: str) -> ChatModel:
    """The model as `owl eval` opens it; as it did in a checkout from before `find`."""
    find = getattr(chat, "find", None)
    found: ChatModel = find(name, "cpu", dtype) if find is not None else OwlChatModel(load(name, "cpu", dtype))
    return found


def answer_lines(model: ChatModel, questions: Sequence[Question]) -> None:
    """One exam for each line of input, its cost and answers on a line of output."""
    for _ in sys.stdin:
        cost, answers = timed(model, questions)
        print(json.dumps([cost.wall, cost.cpu, cost.answers, [list(answer.turns) for answer in answers]]), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="owl-tiny")
    parser.add_argument("--questions", type=count, default=64)
    parser.add_argument("--repeats", type=count, default=15)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--against", type=checkout)
    parser.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    questions = DrawnWorld().questions("seen", -(-given.questions // 6), 0)[: given.questions]
    if given.lines:
        answer_lines(who(given.model, given.dtype), questions)
        return
    owl = load(given.model, device="cpu", dtype=given.dtype)
    costs, different = against(given.against, given) if given.against else compare(owl, questions, given.repeats)
    print(f"{machine()}; {owl.model.dtype}; {len(questions)} questions, {different} answered otherwise")
    for name, bar in BARS.items():
        before, now = ([getattr(cost, name) for cost in costs[way]] for way in ("before", "now"))
        for label, pick in (("minimum", min), ("median", statistics.median)):
            print(f"{name} {label}: before {pick(before):.3f} s, now {pick(now):.3f} s, {pick(before) / pick(now):.2f} times")
        pairs = statistics.median(one / other for one, other in zip(before, now, strict=True))
        print(f"{name} median of pairs: {pairs:.2f} times (bar {bar})")


if __name__ == "__main__":
    run(main)
