"""What a server counts, as Prometheus reads it, and a line about each answer for people."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mplug_owl.serve.engine import Engine

_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


@dataclass(frozen=True)
class AnswerStats:
    """What a request's answers took; seconds by the clock, tokens of prompt and answers."""

    model: str
    seconds: float
    first: float | None
    prompt_tokens: int
    known_tokens: int
    answer_tokens: int
    picture_seconds: float

    def line(self) -> str:
        """For people."""
        rate = f" · {self.answer_tokens / self.seconds:.0f} tokens a second" if self.seconds > 0 else ""
        first = "" if self.first is None else f"first word after {self.first:.2f} s · "
        return (
            f"{self.model}: {first}{self.answer_tokens} tokens in {self.seconds:.2f} s{rate} · pictures "
            f"{self.picture_seconds / max(self.seconds, 1e-9):.0%} of the time · prompt {self.prompt_tokens} tokens, "
            f"{self.known_tokens} known from before"
        )


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.first = Histogram(
            "owl_first_token_seconds", "From request to first token.", ["model"], buckets=_SECONDS, registry=self.registry
        )
        self.seconds = Histogram(
            "owl_answer_seconds", "From request to last token.", ["model"], buckets=_SECONDS, registry=self.registry
        )
        self.tokens = Counter(
            "owl_tokens", "Tokens of prompts, those known from before, and answers.", ["model", "kind"], registry=self.registry
        )
        self.pictures = Counter(
            "owl_picture_seconds", "Seconds for which requests opened pictures.", ["model"], registry=self.registry
        )
        self.work = Counter("owl_engine_seconds", "The engine's seconds by work.", ["work"], registry=self.registry)
        Gauge("owl_waiting", "Answers that wait for the engine.", registry=self.registry).set_function(lambda: engine.waiting)

    def took(self, stats: AnswerStats) -> None:
        """Count an answer."""
        self.seconds.labels(stats.model).observe(stats.seconds)
        if stats.first is not None:
            self.first.labels(stats.model).observe(stats.first)
        for kind, count in (
            ("prompt", stats.prompt_tokens),
            ("known", stats.known_tokens),
            ("answer", stats.answer_tokens),
        ):
            self.tokens.labels(stats.model, kind).inc(count)
        self.pictures.labels(stats.model).inc(stats.picture_seconds)

    def worked(self, work: str, seconds: float) -> None:
        """Count what the engine's thread did."""
        self.work.labels(work).inc(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
