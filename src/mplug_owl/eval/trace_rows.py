"""An answer's trace as a field of answers.jsonl, and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from mplug_owl.chat.trace import Call, TracedAnswer, trace_of
from mplug_owl.errors import UserError


def as_rows(answer: str) -> dict[str, list[dict[str, object]]]:
    """The trace of an answer as a field of answers.jsonl; no field where it has none."""
    trace = trace_of(answer)
    return {"trace": [asdict(call) for call in trace]} if trace else {}


def with_trace(answer: str, row: Mapping[str, Any], where: str) -> str:
    """An answer with the trace that its line in answers.jsonl holds. Raises UserError where that is damaged."""
    calls = row.get("trace")
    if calls is None:
        return answer
    known = {one.name for one in fields(Call)}
    try:
        return TracedAnswer(answer, [Call(**{name: value for name, value in call.items() if name in known}) for call in calls])
    except (TypeError, AttributeError) as error:
        raise UserError(f"{where}: trace is damaged ({error}); expected what owl eval writes") from error
