"""What a body may hold before anything is made of it."""

import json
from typing import Any

import pytest

from mplug_owl.serve.protocol import DEPTH, ENTRIES, RequestError, read_request

PART = {"type": "text", "text": ""}


def body(content: Any, **fields: Any) -> bytes:
    return json.dumps({"model": "owl", "messages": [{"role": "user", "content": content}], **fields}).encode()


def refusal(raw: bytes) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        read_request(raw)
    return caught.value.status, caught.value.message


@pytest.mark.parametrize(
    "raw",
    [
        body([PART] * (ENTRIES // 3)),
        body("Who?", metadata={"a": [0] * ENTRIES}),
        body("Who?", metadata={str(number): 0 for number in range(ENTRIES)}),
        body("Who?", metadata={"a": [[0]] * (ENTRIES // 2)}),
    ],
)
def test_a_body_of_very_many_entries_is_refused_before_it_is_read(raw: bytes) -> None:
    """Each is far from every limit of bytes and characters; as many as 20 MB hold kept everybody waiting for seconds."""
    assert refusal(raw) == (413, f"the body's objects and lists have more than {ENTRIES:,} entries")


def test_as_many_entries_as_may_be_are_read() -> None:
    others = len(json.loads(body("Who?", metadata={"a": 0}))) + 1 + 2 + 1  # the request's, one message's, and metadata's
    assert read_request(body("Who?", metadata={"a": [0] * (ENTRIES - others)}))
    assert refusal(body("Who?", metadata={"a": [0] * (ENTRIES - others + 1)}))[0] == 413


def test_as_many_levels_as_may_be_are_read() -> None:
    deep: Any = {}
    for _ in range(DEPTH - 2):  # the request and this one are levels, too
        deep = {"a": deep}
    assert read_request(body("Who?", metadata=deep))
    assert refusal(body("Who?", metadata={"a": deep})) == (400, f"the body is nested deeper than {DEPTH} levels")
