"""What an answer took, for whoever wants to know where its time went: `owl chat --stats`."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from time import perf_counter


@dataclass(frozen=True)
class Work:
    """What one of our own models did for an answer.

    Args:
        prompt_tokens: The prompt's length in tokens, positions of pictures included.
        known_tokens: So many of them were computed for the answer before this one.
        answer_tokens: The answer's length in tokens, its end token included.
        picture_seconds: What opening, resizing and encoding pictures took, by the clock.
    """

    prompt_tokens: int
    known_tokens: int
    answer_tokens: int
    picture_seconds: float


@dataclass
class Stopwatch:
    """Times an answer as it comes. Seconds by the clock since it was made; `first` is None until something was said."""

    begin: float = field(default_factory=perf_counter)
    first: float | None = None
    whole: float = 0.0
    words: int = 0

    def watch(self, parts: Iterable[str]) -> Generator[str, None, None]:
        """The parts of an answer, timed."""
        said = ""
        for part in parts:
            if self.first is None and part.strip():
                self.first = perf_counter() - self.begin
            said += part
            yield part
        self.whole, self.words = perf_counter() - self.begin, len(said.split())

    def line(self, work: Work | None) -> str:
        """One line for people. What only our own models know is left out where `work` is None.

        Words a second are those after the first, in the time after it: one word has no such rate.
        """
        tokens = "" if work is None else f" ({work.answer_tokens} tokens)"
        told = [f"{self.words} {'word' if self.words == 1 else 'words'}{tokens} in {self.whole:.2f} s"]
        if self.first is not None:
            told = [f"first word after {self.first:.2f} s", *told]
            if self.words > 1 and self.whole > self.first:
                told.append(f"{(self.words - 1) / (self.whole - self.first):.1f} words a second after the first")
        if work is not None:
            told.append(f"pictures {work.picture_seconds / max(self.whole, 1e-9):.0%} of the time")
            told.append(f"prompt {work.prompt_tokens} tokens, {work.known_tokens} known from before")
        return " · ".join(told)
