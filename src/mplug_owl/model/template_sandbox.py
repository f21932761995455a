"""Somebody else's chat template, rendered in a sandbox, with limits of time and of size.

A template comes with a model's files and is a program. It reaches nothing but what it is given, as in transformers, whose
environment this one copies: the same filters, functions and tags. Beside that it ends after some seconds, and it cannot
fill the memory by multiplying text.
"""

import ctypes
import json
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mplug_owl.errors import UserError

# Of computing, not of waiting for a busy machine. A conversation of a hundred turns takes milliseconds.
SECONDS = 5.0
# No text or list that a template makes may be longer; the longest templates are 20 kB.
LARGEST = 10_000_000
# They make a text of any length out of nothing.
_PADDING_FILTERS = ("center", "format", "wordwrap")
_PADDING_METHODS = ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill")


class TemplateRefusalError(TemplateError):
    """What a template says by `raise_exception`."""


class _Generation(Extension):
    """The tags `generation` and `endgeneration`, by which some templates mark answers: what is between them is rendered."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox as transformers sets it up, in which nothing grows beyond `LARGEST`."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters["tojson"] = _as_json
        for name in _PADDING_FILTERS:
            del self.filters[name]
        self.globals["raise_exception"] = _refuse

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator's value. Raises SecurityError where it would be too large."""
        if operator == "%" and isinstance(left, (str, bytes)):
            raise SecurityError("% formats text to any width")
        if operator == "**" and not (abs(left) <= 10**9 and abs(right) <= 4):
            raise SecurityError(f"{left} ** {right} is too large")
        if operator == "*":
            for text, times in ((left, right), (right, left)):
                if hasattr(text, "__len__") and len(text) * max(int(times), 0) > LARGEST:
                    raise SecurityError(f"a text or list of {len(text)} times {times} is too large")
        value = super().call_binop(context, operator, left, right)
        if hasattr(value, "__len__") and len(value) > LARGEST:
            raise SecurityError(f"a text or list of {len(value)} is too large")
        return value

    def wrap_str_format(self, value: Any) -> Any:
        """None for anything but a text's `format`, which pads to any width and is refused."""
        if super().wrap_str_format(value) is not None:
            raise SecurityError("format pads text to any width")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read it: as in jinja2, but for the methods that pad a text to any length."""
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, str) and attr in _PADDING_METHODS)


class _TooLongError(BaseException):
    """Raised inside the thread that renders for too long; no template's own code catches it."""


def render(source: str, values: Mapping[str, Any], seconds: float | None = None) -> str:
    """A template's text.

    Args:
        source: The template.
        values: What it reads: messages, add_generation_prompt, bos_token and the like, plain values alone.
        seconds: How long it may compute; `SECONDS` by default.

    Raises:
        TemplateError: The template refuses these values, or is not correct.
        UserError: It takes too long or too much memory.
    """
    limit = SECONDS if seconds is None else seconds
    found: list[str] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(_compiled(source).render(**values))
        except BaseException as error:  # carried to the thread that waits
            failed.append(error)

    worker = threading.Thread(target=work, daemon=True, name="chat template")
    begin = time.monotonic()
    worker.start()
    while worker.is_alive() and _computed(worker, begin) < limit:
        worker.join(0.05)
    if worker.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident or 0), ctypes.py_object(_TooLongError))
        worker.join(1.0)
        raise UserError(f"the chat template takes longer than {limit:g} seconds; expected one that ends, or prompt=owl")
    if found:
        return found[0]
    error = failed[0]
    if isinstance(error, (MemoryError, OverflowError, RecursionError)):
        raise UserError(f"the chat template is too large to render ({type(error).__name__} {error})") from error
    if isinstance(error, TemplateError):
        raise error
    # What a template's own expressions raise: a missing key, a text where a number belongs.
    raise TemplateError(f"{type(error).__name__}: {error}") from error


@lru_cache(maxsize=8)
def _compiled(source: str) -> Template:
    return Sandbox().from_string(source)


def _computed(worker: threading.Thread, begin: float) -> float:
    """The seconds that a thread has computed, or where the system does not tell (macOS, Windows) has been there."""
    if not hasattr(time, "pthread_getcpuclockid") or worker.ident is None:
        return time.monotonic() - begin
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(worker.ident))
    except OSError:  # it has just ended
        return 0.0


def _as_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if isinstance(indent, int) and indent > 16:
        raise SecurityError(f"tojson with an indent of {indent}; expected 16 at most")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise TemplateRefusalError(message)
