"""Somebody else's chat template, rendered in a sandbox, with limits of time and of size.

A template comes with a model's files and is a program. It reaches nothing but what it is given, as in transformers, whose
environment this one copies: the same filters, functions and tags, but for a few that pad or repeat and that no chat template
uses. Beside that it ends after some seconds, and it cannot fill the memory by multiplying text: whatever makes a long text out
of short ones is counted while it is made.
"""

import ctypes
import json
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache, wraps
from typing import Any, NoReturn

from jinja2 import Environment, Template, TemplateError, nodes, pass_environment
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent, make_attrgetter
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mplug_owl.errors import UserError

# Of computing, not of waiting for a busy machine. A conversation of a hundred turns takes milliseconds.
SECONDS = 5.0
# No text or list that a template makes may be longer; the longest templates are 20 kB.
LARGEST = 10_000_000
# Nor may all of them together be longer than so many of the longest.
_TOGETHER = 20
# Digits of a number in base 2.
_LARGEST_NUMBER = 4096
# They make a text or list of any length out of nothing.
_PADDING_FILTERS = ("batch", "center", "format", "pprint", "slice", "urlize", "wordwrap", "xmlattr")
_PADDING_METHODS = (
    *("center", "encode", "escape", "expandtabs", "format", "format_map", "ljust", "rjust", "to_bytes", "translate", "zfill"),
)
# These write nothing out, so that what they are given need not be measured; chat templates ask them in every turn.
_LOOKING_FILTERS = (
    *("count", "d", "default", "first", "items", "join", "last", "length", "list", "map"),
    *("reject", "rejectattr", "select", "selectattr"),
)


class TemplateRefusalError(TemplateError):
    """What a template says by `raise_exception`."""


class _Generation(Extension):
    """The tags `generation` and `endgeneration`, by which some templates mark answers: what is between them is rendered."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Made(threading.local):
    """How much this thread's template has made so far: each is rendered in a thread of its own."""

    size = 0


_made = _Made()


class _Code(CodeGenerator):
    """Code of a template in which `~` and slices, which jinja2 hands to no environment, are counted too."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802  (jinja2's name)
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            self.write("environment.counted")
        self.write("(")
        super().visit_Getitem(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's sandbox as transformers sets it up, in which nothing grows beyond `LARGEST`."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))
    code_generator_class = _Code

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_measured)
        self.filters |= {"indent": _indented, "join": _filter_join, "replace": _replaced, "tojson": _as_json}
        for name in _PADDING_FILTERS:
            del self.filters[name]
        self.filters = {name: _counting(filter_, name in _LOOKING_FILTERS) for name, filter_ in self.filters.items()}
        self.globals["raise_exception"] = _refuse
        del self.globals["lipsum"]

    def concat(self, parts: Iterable[Any]) -> str:
        """Parts as one text: what a template, a block or a macro writes, and what stands around `~`."""
        return _joined(parts)

    def counted(self, value: Any) -> Any:
        """A value that a template has made. Raises SecurityError where it is too large."""
        return _counted(value)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """What a function or method returns. Raises SecurityError where it would be too large."""
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", None)
        if isinstance(owner, str) and name == "join":
            (parts,) = args
            return _joined(parts, owner)
        if isinstance(owner, str) and name == "replace":
            return _replaced(owner, *args, **kwargs)
        return _counted(super().call(context, obj, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As jinja2's, where what is asked for can be named when it is not there."""
        return super().getitem(obj, _measured(argument))

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
        return _counted(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Any:
        """None for anything but a text's `format`, which pads to any width and is refused."""
        if super().wrap_str_format(value) is not None:
            raise SecurityError("format pads text to any width")

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read it: as in jinja2, but for the methods that pad a text to any length."""
        return super().is_safe_attribute(obj, attr, value) and not (isinstance(obj, (str, int)) and attr in _PADDING_METHODS)


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
    done, asked = threading.Event(), threading.Event()

    def work() -> None:
        try:
            found.append(_compiled(source).render(**values))
        except BaseException as error:  # carried to the thread that waits
            failed.append(error)
        done.set()
        asked.wait()  # to ask for the clock of a thread that has ended may end the process

    worker = threading.Thread(target=work, daemon=True, name="chat template")
    begin = time.monotonic()
    worker.start()
    try:
        while not done.wait(0.05) and _computed(worker, begin) < limit:
            pass
    finally:
        asked.set()
    if not done.is_set():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident or 0), ctypes.py_object(_TooLongError))
        worker.join(1.0)
        raise UserError(f"the chat template takes longer than {limit:g} seconds; expected one that ends, or prompt=owl")
    if not found:
        _raise(failed[0])
    return found[0]


def _raise(error: BaseException) -> NoReturn:
    """What a template's thread met, as `render` says it."""
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
    return time.clock_gettime(time.pthread_getcpuclockid(worker.ident))


def _counted(value: Any) -> Any:
    """A value that a template has made. Raises SecurityError where it, or all that was made, is too large."""
    if isinstance(value, int) and value.bit_length() > _LARGEST_NUMBER:
        raise SecurityError(f"a number of {value.bit_length()} bits is too large")
    size = len(value) if hasattr(value, "__len__") else 0
    _made.size += size
    if size > LARGEST or _made.size > _TOGETHER * LARGEST:
        raise SecurityError(f"a text or list of {size} is too large, or all of {_made.size} are")
    return value


def _measured(value: Any) -> Any:
    """A value that is about to be written out. Raises SecurityError where its text would be too long.

    A list may hold one long text many times, or lists that hold one another.
    """
    waiting, size = [value], 0
    while waiting:
        one = waiting.pop()
        size += len(one) if isinstance(one, str) else 1
        if isinstance(one, Namespace):
            raise SecurityError("a namespace is no text")
        if isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, Collection) and not isinstance(one, (str, bytes, range)):
            waiting += one
        if size + len(waiting) > LARGEST:
            raise SecurityError(f"more than {LARGEST} characters are too large a text")
    return value


def _joined(parts: Iterable[Any], between: str = "") -> str:
    """Parts as one text."""
    texts, size = list[str](), 0
    for part in parts:
        texts.append(str(_measured(part)))
        size += len(texts[-1]) + len(between)
        if size - len(between) > LARGEST:
            raise SecurityError(f"more than {LARGEST} characters are too large a text")
    return str(_counted(between.join(texts)))


@pass_environment
def _filter_join(environment: Environment, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    parts = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    return _joined(parts, str(_measured(d)))


def _replaced(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = (str(_measured(part)) for part in (text, old, new))
    times = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    if len(text) + times * (len(new) - len(old)) > LARGEST:
        raise SecurityError(f"{times} times a text of {len(new)} is too large")
    return text.replace(old, new, -1 if count is None else count)


def _indented(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text, wide = str(_measured(text)), len(width) if isinstance(width, str) else width
    if len(text) + (len(text.splitlines()) + 1) * wide > LARGEST:
        raise SecurityError(f"an indent of {wide} is too large")
    return do_indent(text, width, first, blank)


def _counting(function: Callable[..., Any], looking: bool) -> Callable[..., Any]:
    """A filter whose value is counted, and what it is given measured unless it only looks at it."""

    @wraps(function)
    def counting(*args: Any, **kwargs: Any) -> Any:
        if not looking:
            _measured([*args, *kwargs.values()])
        return _counted(function(*args, **kwargs))

    return counting


def _as_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    if indent is not None and (wide := indent if isinstance(indent, int) else len(indent)) > 16:
        raise SecurityError(f"tojson with an indent of {wide}; expected 16 at most")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return _joined(encoder.iterencode(value))


def _refuse(message: Any) -> None:
    raise TemplateRefusalError(str(_measured(message)))
