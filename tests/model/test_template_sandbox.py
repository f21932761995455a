"""Somebody else's template ends, stays small and reaches nothing."""

import threading
import time
from collections.abc import Iterator

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

from mplug_owl.errors import UserError
from mplug_owl.model.template_sandbox import LARGEST, render

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_it_renders_as_transformers_does() -> None:
    """Tags and functions that chat templates use, blocks trimmed as transformers trims them."""
    source = """
{%- for message in messages %}
    {% if loop.index0 > 1 %}{% break %}{% endif %}
    {% generation %}
{{ message | tojson }}é
    {% endgeneration %}
{% endfor %}
{{ namespace(a=1).a + 1 }}"""
    values = {"messages": [{"a": "<é>"}, {"b": None}, {"c": 1}]}
    assert render(source, values) == _compile_jinja_template(source).render(**values) == '{"a": "<é>"}é\n{"b": null}é\n2'


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a\nb\n' | indent(2, true) ~ messages[:1] | length ~ ['a', 1] | join(', ') ~ 'aa'.replace('a', 'b', 1) }}",
        "{{ [1, {'a': 'é'}] }}{{ ', '.join(['a', 'b']) }}{{ 'aXa' | replace('a', 'bc') | lower }}{{ messages[::-1][0].c }}",
        "{{ [1, [2], {'b': 1}] | tojson(indent=2) }}{{ messages | map(attribute='a') | join }}{{ messages | join(',', 'c') }}",
        "{% set x %}a{{ 1 }}{% endset %}{% macro f(y) %}[{{ y }}]{% endmacro %}{{ f(x) | trim }}{{ x[-1] }}{{ none ~ no }}",
    ],
)
def test_what_is_counted_is_what_transformers_writes(source: str) -> None:
    values = {"messages": [{"a": "<é>"}, {"b": None}, {"c": 1}]}
    assert render(source, values) == _compile_jinja_template(source).render(**values) != ""


@pytest.fixture
def watched() -> Iterator[None]:
    """What a template leaves running would slow everything after it."""
    before = threading.active_count()
    yield
    for _ in range(1000):
        if threading.active_count() <= before:
            return
        time.sleep(0.02)
    raise AssertionError("a template still runs")


@pytest.mark.usefixtures("watched")
def test_an_endless_template_is_stopped() -> None:
    with pytest.raises(UserError, match=r"longer than 0\.2 seconds"):
        render(LOOP, {}, 0.2)


def test_waiting_for_a_busy_machine_is_no_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mplug_owl.model.template_sandbox._compiled", lambda source: time.sleep(0.5) or _Slow())
    assert render("", {}, 0.2) == "done"


class _Slow:
    def render(self, **values: object) -> str:
        return "done"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ namespace(__init__=1) }}{{ cycler.__init__.__globals__.os }}",
        "{{ 'a' * 10**9 }}",
        "{{ [0] * 10**9 }}",
        "{{ 10**9 * 'a' }}",
        "{{ '%99999999d' % 1 }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a' | center(999999999) }}",
        "{{ 9**9**9 }}",
        "{{ range(10**9) }}",
        "{{ messages | tojson(indent=10**8) }}",
        "{% set a = namespace(t='a' * 10000) %}{% for i in range(40) %}{% set a.t = a.t + a.t %}{% endfor %}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    ],
)
def test_what_escapes_or_grows_is_refused(source: str) -> None:
    with pytest.raises((TemplateError, UserError)):
        render(source, {"messages": []}, 5.0)


@pytest.mark.parametrize(
    "source",
    [
        "{% set a = namespace(t='ab') %}{% for i in range(12) %}{% set a.t = a.t ~ a.t %}{% endfor %}",
        "{{ 'a\nb' | indent(2000) }}",
        "{{ 'a\nb' | indent('ab' * 400) }}",
        "{{ range(99) | join('a' * 90) }}",
        "{{ ([{'a': 'b' * 300}] * 4) | join(attribute='a') }}",
        "{{ ('a' * 60) | replace('a', 'b' * 60) }}",
        "{{ ('a' * 60).replace('a', 'b' * 60) }}",
        "{{ ('a' * 90).join(range(99) | map('string')) }}",
        "{{ 'aaa'.translate({97: 'b' * 900}) }}",
        "{{ 'a'.encode().ljust(2000) }}",
        "{{ (1).to_bytes(2000) }}",
        "{{ [1] | batch(2000, 'x') | list }}",
        "{{ [1] | tojson(indent='a' * 900) }}",
        "{{ range(50) | list | tojson(separators=('a' * 50, ':')) }}",
        "{% for i in range(99) %}{{ 'a' * 20 }}{% endfor %}",
        "{% set a %}{% for i in range(99) %}{{ 'a' * 20 }}{% endfor %}{% endset %}",
        "{% macro a() %}{{ 'a' * 600 }}{% endmacro %}{% set b %}{{ a() }}{{ a() }}{% endset %}",
        "{% set a = namespace(t=['a']) %}{% for i in range(12) %}{% set a.t = [a.t, a.t] %}{% endfor %}{{ a.t }}",
        "{% set a = namespace(t=9) %}{% for i in range(12) %}{% set a.t = [a.t, a.t] %}{% endfor %}{% set b = a.t | string %}",
        "{{ raise_exception(['a' * 900] * 9) }}",
        "{% set a = namespace(t=9) %}{% for i in range(14) %}{% set a.t = a.t * a.t %}{% endfor %}",
        "{% set a, b = namespace(t=[]), 'a' * 900 %}{% for i in range(30) %}{% set a.t = [a.t, b[:899]] %}{% endfor %}",
    ],
)
def test_what_multiplies_text_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mplug_owl.model.template_sandbox.LARGEST", 1000)
    with pytest.raises(TemplateError, match=r"too large|unsafe|No filter named|16 at most"):
        render(source, {"messages": []}, 5.0)


def test_texts_may_be_as_long_as_conversations_are() -> None:
    words = "a" * (LARGEST // 4)
    assert len(render("{{ words + words }}", {"words": words})) == 2 * len(words)


def test_a_thread_that_has_ended_is_asked_for_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own documentation: to ask may end the process."""
    alive = list[bool]()

    def computed(worker: threading.Thread, begin: float) -> float:
        time.sleep(0.3)  # meanwhile the template has ended
        alive.append(worker.is_alive())
        return 0.0

    monkeypatch.setattr("mplug_owl.model.template_sandbox._compiled", lambda source: time.sleep(0.2) or _Slow())
    monkeypatch.setattr("mplug_owl.model.template_sandbox._computed", computed)
    assert render("", {}, 1.0) == "done"
    assert alive == [True]
