"""How an answer came about, where several had a part in it: every call, in its order, beside the answer's words."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One call on the way to an answer.

    Args:
        to: Who was called: an expert's name, `planner` or `language model`.
        request: What it was given.
        reply: What came back, in full.
        seconds: By the clock; of several calls made at once, each one's share.
        fault: What was wrong with the reply, empty where nothing was.
        known: Whether the reply was kept from an earlier answer, so that nobody was called.
    """

    to: str
    request: str
    reply: str
    seconds: float = 0.0
    fault: str = ""
    known: bool = False


class TracedAnswer(str):
    """An answer's words, as any other answer, with the calls that led to them.

    Example:
        >>> answer = TracedAnswer("a cat", [Call("captioner", "picture-1", "a cat on a mat", 0.2)])
        >>> answer == "a cat", trace_of(answer)[0].reply, trace_of("a cat")
        (True, 'a cat on a mat', ())
    """

    trace: tuple[Call, ...]

    def __new__(cls, words: str, trace: Iterable[Call]) -> "TracedAnswer":
        made = super().__new__(cls, words)
        made.trace = tuple(trace)
        return made


def trace_of(answer: str) -> tuple[Call, ...]:
    """The calls that led to an answer; none where whoever answered keeps none."""
    return answer.trace if isinstance(answer, TracedAnswer) else ()
