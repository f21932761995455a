"""A server that misbehaves in every way: no answer is lost, none comes twice, and what is wrong is said in a sentence."""

import base64
import gc
import io
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mplug_owl.chat.address import Endpoint
from mplug_owl.chat.endpoint import EndpointChatModel, Usage
from mplug_owl.chat.faults import BadReply, error_message, read_answer, read_usage
from mplug_owl.chat.protocol import AnswersArrive, Decoding
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.errors import BadSample, RefusedConversationError, UserError
from mplug_owl.eval.exam import run_exam
from mplug_owl.eval.tasks.owleval import OwlEval
from tests.chat.server import (
    MODEL,
    Behaviour,
    Server,
    cuts,
    good,
    hangs_up,
    refuses,
    says,
    sends,
    serving,
    streams,
    trickles,
    waits,
    words_for,
)
from tests.eval.owleval import QUESTIONS, folder_of
from tests.tiny import picture

pytest.importorskip("openai", reason="servers are asked by the extra `eval`")
DECODING = Decoding(max_new_tokens=20)
NAMES = ["choices", "message", "content", "finish_reason", "error", "usage", "prompt_tokens", "detail"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
# Faults that pass, each in its own words.
PASSING: dict[str, tuple[Behaviour, str]] = {
    "500": (refuses(500), "error 500"),
    "502 in HTML": (sends("<html>Bad gateway</html>", 502, "text/html"), "error 502"),
    "503": (refuses(503, "loading"), "error 503, loading"),
    "408": (refuses(408), "error 408"),
    "429": (refuses(429, "slow down"), "error 429, slow down"),
    "junk": (sends("\x00\x01 no JSON"), "no JSON"),
    "junk without a type": (sends(b"\xff\xfe", kind=""), "no JSON"),
    "half of a JSON": (sends('{"choices": [{"mess'), "no JSON"),
    "nothing": (sends(b""), "no JSON"),
    "a page": (sends("<html>hello</html>", kind="text/html"), "no JSON"),
    "a list": (sends([1]), "no JSON object"),
    "nested": (sends("[" * 100_000), "no JSON"),
    "no choices": (sends({"id": "1"}), "without choices"),
    "empty choices": (sends({"choices": []}), "without choices"),
    "choices of null": (sends({"choices": None}), "without choices"),
    "choices of numbers": (sends({"choices": [1]}), "without choices"),
    "an error with code 200": (sends({"error": {"message": "upstream"}}), "reports an error (upstream)"),
    "no message": (sends({"choices": [{}]}), "without content"),
    "content of null": (says(None), "without content"),
    "content in parts": (says([{"type": "text", "text": "x"}]), "without content"),
    "an empty answer that was filtered": (says("", "content_filter"), "empty answer (finish_reason content_filter)"),
    "an empty answer without a reason": (says(" ", None), "empty answer"),
    "a cut connection": (cuts, "the connection failed"),
    "no reply": (hangs_up, "the connection failed"),
    "too late": (waits(2.5), "no answer in time"),
    "byte by byte": (trickles, "no answer in time"),
}


def model(server: Server | str, **options: object) -> EndpointChatModel:
    address = server if isinstance(server, str) else server.address
    return EndpointChatModel(Endpoint(address, MODEL, **{"backoff": 0.001, "timeout": 10, "retries": 2, **options}))


def talks(count: int) -> list[Conversation]:
    return [Conversation((), system=None).said("user", f"question {number}") for number in range(count)]


def expected(count: int) -> list[str]:
    return [words_for(f"question {number}") for number in range(count)]


def take(items: Iterable[Any], into: list[Any]) -> None:
    """What comes before an error stays."""
    for item in items:
        into.append(item)


def first_only(fault: Behaviour, then: Behaviour = good) -> Callable[[str, int], Behaviour]:
    """A fault at each question's first try."""
    return lambda question, tried: fault if tried == 1 else then


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OWL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


# What is sent


def test_a_conversation_is_sent_as_it_was_said() -> None:
    image = picture(1)
    talk = Conversation((), system="Be short.").said("user", Picture(image), "What is it?").said("assistant", "A square.")
    with serving(lambda question, tried: good) as server:
        (answer,) = model(server).answers([talk.said("user", "And now?")], Decoding(7, 0.5, 0.8, stop=("Human:",)))
    (request,) = server.requests
    parts = request["messages"][1].pop("content")
    assert answer == words_for("And now?")
    assert request == {
        "model": MODEL,
        "key": "none",
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.8,
        "stop": ["Human:"],
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user"},
            {"role": "assistant", "content": "A square."},
            {"role": "user", "content": "And now?"},
        ],
    }
    assert [part["type"] for part in parts] == ["image_url", "text"]
    head, _, packed = parts[0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(packed))).tobytes() == image.tobytes()


def test_the_likeliest_words_need_no_top_p() -> None:
    with serving(lambda question, tried: good) as server:
        model(server).answers(talks(1), DECODING)
    assert set(server.requests[0]) == {"model", "key", "messages", "max_tokens", "temperature"}


def test_an_answer_ends_before_a_stop_word_that_the_server_did_not_mind() -> None:
    with serving(lambda question, tried: says(" Red. Human: Why? ")) as server:
        assert model(server).answers(talks(1), Decoding(stop=("Human:",))) == ["Red."]


def test_a_server_that_calls_the_longest_answer_otherwise_is_asked_its_way() -> None:
    refused = refuses(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    with serving(lambda question, tried: refused if "max_tokens" in server.requests[-1] else good) as server:
        asked = model(server, concurrency=1)
        assert asked.answers(talks(3), DECODING) == expected(3)
    assert ["max_tokens" in request for request in server.requests] == [True, False, False, False]


def test_a_penalty_that_servers_do_not_know_is_an_error() -> None:
    with serving(lambda question, tried: good) as server, pytest.raises(UserError, match="repetition_penalty"):
        model(server).answers(talks(1), Decoding(repetition_penalty=1.1))


# Answers


def test_no_conversations_are_no_requests() -> None:
    with serving(lambda question, tried: good) as server:
        assert model(server).answers([], DECODING) == []
    assert server.requests == []


def test_answers_come_as_they_are_ready_and_stand_in_order() -> None:
    """The first question takes longest."""
    with serving(lambda question, tried: waits(0.4) if question == "question 0" else good) as server:
        asked = model(server)
        assert isinstance(asked, AnswersArrive)
        came = list(asked.arriving(talks(6), DECODING))
        assert came[-1][0] == 0
        assert dict(came) == dict(enumerate(expected(6)))
        assert asked.answers(talks(6), DECODING) == expected(6)
    assert asked.usage == Usage(12, 120, 36)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_requests_are_under_way_at_once(concurrency: int) -> None:
    with serving(lambda question, tried: waits(0.05)) as server:
        assert model(server, concurrency=concurrency).answers(talks(7), DECODING) == expected(7)
    assert server.most_at_once == concurrency


def test_an_empty_answer_is_one_where_the_model_stopped_by_itself() -> None:
    with serving(lambda question, tried: says("")) as server:
        assert model(server).answers(talks(1), DECODING) == [""]


def test_an_answer_may_be_cut_by_its_length() -> None:
    with serving(lambda question, tried: says("A long", "length")) as server:
        assert model(server).answers(talks(1), DECODING) == ["A long"]


# Faults that pass


def test_a_fault_that_passes_costs_a_try() -> None:
    """A question for each fault, which its first try has."""
    faults = [behave for behave, _ in PASSING.values()]

    def behave(question: str, tried: int) -> Behaviour:
        return faults[int(question.split()[-1])] if tried == 1 else good

    with serving(behave) as server:
        assert model(server, timeout=1.5).answers(talks(len(faults)), DECODING) == expected(len(faults))
    assert set(server.tries.values()) == {2}


def test_a_fault_that_stays_is_an_error_that_names_it() -> None:
    """One server for all, as a connection costs more than a question. On a busy machine 0.2 s may be too short for any."""
    staying = {f"question {number}": behave for number, (behave, _) in enumerate(PASSING.values())}
    with serving(lambda question, tried: staying[question]) as server:
        patient, hasty = model(server, retries=1), model(server, timeout=0.2, retries=1)
        for talk, (_, words) in zip(talks(len(PASSING)), PASSING.values(), strict=True):
            with pytest.raises(UserError) as raised:
                (hasty if "in time" in words else patient).answers([talk], DECODING)
            assert re.fullmatch(rf"{server.address}#{MODEL}: .*{re.escape(words)}.*, in 2 tries", str(raised.value))


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after_ms": "300", "retry_after": "7"}, 0.3),
        ({"retry_after": "soon"}, 0.5),
        ({"retry_after": "nan"}, 0.5),
        ({"retry_after": "Sat, 01 Jan 2000 00:00:00 GMT"}, 0),
        ({"retry_after": "in 100 seconds"}, 100),
        ({}, 0.5),
    ],
)
def test_the_wait_that_a_server_asks_for_is_granted(
    headers: dict[str, str], wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little longer, so that several do not come back at once."""
    if wait == 100:  # as a date
        headers = {"retry_after": format_datetime(datetime.now(UTC) + timedelta(seconds=wait))}
    waited = []

    async def happens(event: object, within: float) -> bool:
        waited.append(within)
        return False

    monkeypatch.setattr("mplug_owl.chat.endpoint._happens", happens)
    with serving(lambda question, tried: refuses(429, **headers) if tried < 3 else good) as server:
        assert model(server, backoff=0.5).answers(talks(1), DECODING) == expected(1)
    again = 1.0 if wait == 0.5 else wait  # the backoff doubles
    slack = 60 if wait == 100 else 0  # a busy machine
    assert wait - slack <= waited[0] <= wait * 1.25
    assert again - slack <= waited[1] <= again * 1.25


def test_a_wait_of_an_hour_is_an_error_at_once() -> None:
    with serving(lambda question, tried: refuses(429, retry_after="3600")) as server, pytest.raises(UserError) as raised:
        model(server).answers(talks(1), DECODING)
    assert "asks to wait 3,600 seconds" in str(raised.value)
    assert len(server.requests) == 1


# Faults that stay


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (refuses(400, "temperature must be 1"), "temperature must be 1"),
        (refuses(401, "bad key"), "OWL_API_KEY"),
        (refuses(403, "not yours"), "OWL_API_KEY"),
        (refuses(404, "no model parrot"), "no model parrot"),
        (refuses(413, "too large"), "pictures"),
        (refuses(422, "what"), "error 422, what"),
        (refuses(429, "pay", "insufficient_quota"), "credit"),
        (says("", "length"), "max_new_tokens"),
    ],
)
def test_what_no_repetition_mends_is_an_error_at_once(behave: Behaviour, words: str) -> None:
    with serving(lambda question, tried: behave) as server, pytest.raises(UserError, match=words):
        model(server, concurrency=1).answers(talks(5), DECODING)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("behave", "is_refused"),
    [
        (refuses(400, "This model's maximum context length is 2048 tokens. However, your request has 3000."), True),
        (refuses(400, "too much", "context_length_exceeded"), True),
        (refuses(400, "the request exceeds the available context size"), True),
        (refuses(413, "too large"), True),
        (refuses(400, "temperature must be 1"), False),
        (refuses(401, "the context length of your key"), False),
    ],
)
def test_a_conversation_that_is_too_long_for_a_server_is_known(behave: Behaviour, is_refused: bool) -> None:
    """`owl answer` goes on with the others."""
    with serving(lambda question, tried: behave) as server, pytest.raises(UserError) as raised:
        model(server, concurrency=1).answers(talks(1), DECODING)
    assert isinstance(raised.value, RefusedConversationError) is is_refused


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as used:
        return used.getsockname()[1]


def test_a_server_that_is_not_there_is_found_in_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"127\.0\.0\.1.*#parrot: the connection failed"):
        model(f"http://127.0.0.1:{free_port()}/v1", retries=50, backoff=60).answers(talks(100), DECODING)
    assert time.monotonic() - began < 30


def test_a_server_that_never_replies_is_found_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mplug_owl.chat.endpoint.REACHED_WITHIN", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, pytest.raises(UserError, match="no answer in time"):
        model(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", retries=50).answers(talks(100), DECODING)


@pytest.mark.parametrize("behave", [refuses(404), sends("junk"), hangs_up])
def test_a_server_without_a_list_of_models_is_asked_all_the_same(behave: Behaviour) -> None:
    with serving(lambda question, tried: good) as server:
        server.on_list = lambda handler: behave(handler, "")
        if behave is hangs_up:
            with pytest.raises(UserError, match="the connection failed"):
                model(server).answers(talks(1), DECODING)
        else:
            assert model(server).answers(talks(1), DECODING) == expected(1)


def test_the_list_of_models_is_asked_for_once() -> None:
    with serving(lambda question, tried: good) as server:
        asked = model(server)
        for _ in range(3):
            asked.answers(talks(2), DECODING)
    assert server.listed == 1


def test_what_was_answered_before_an_error_has_arrived() -> None:
    """The server dies at the sixth question; requests under way are waited for."""

    def behave(question: str, tried: int) -> Behaviour:
        number = int(question.split()[-1])
        return refuses(401, "expired") if number == 5 else waits(0.3) if number == 4 else good

    came: list[tuple[int, str]] = []
    with serving(behave) as server, pytest.raises(UserError, match="expired"):
        take(model(server, concurrency=3).arriving(talks(20), DECODING), came)
    assert {0, 1, 2, 3, 4} <= dict(came).keys() <= {0, 1, 2, 3, 4, 6, 7}
    assert all(answer == words_for(f"question {index}") for index, answer in came)


def test_a_server_that_is_down_for_a_while_in_the_middle_loses_nothing() -> None:
    answered: list[str] = []
    down, port = threading.Event(), free_port()

    def behave(question: str, tried: int) -> Behaviour:
        answered.append(question)
        if len(answered) == 5:
            down.set()
        return waits(0.02)

    def play() -> None:
        with serving(behave, port):
            up.set()
            down.wait(10)
        time.sleep(0.3)
        with serving(lambda question, tried: good, port):
            over.wait(20)

    over, up = threading.Event(), threading.Event()
    thread = threading.Thread(target=play)
    thread.start()
    try:
        assert up.wait(10)
        asked = model(f"http://127.0.0.1:{port}/v1", retries=8, backoff=0.02)
        came = list(asked.arriving(talks(30), DECODING))
    finally:
        over.set()
        thread.join()
    assert down.is_set()
    assert sorted(came) == list(enumerate(expected(30)))


def test_a_server_that_dies_in_the_middle_is_an_error_after_what_it_answered() -> None:
    came: list[tuple[int, str]] = []
    with serving(lambda question, tried: good if int(question.split()[-1]) < 7 else hangs_up) as server:
        dying = model(server).arriving(talks(30), DECODING)
        with pytest.raises(UserError, match="in 3 tries"):
            take(dying, came)
    assert sorted(came) == list(enumerate(expected(7)))


@settings(max_examples=15)
@given(
    faults=st.lists(st.lists(st.sampled_from([*PASSING.keys() - {"too late", "byte by byte"}]), max_size=3), max_size=9),
    concurrency=st.integers(1, 5),
)
def test_every_conversation_is_answered_once_or_there_is_an_error(faults: list[list[str]], concurrency: int) -> None:
    """Each question has its own faults before its answer; more than two tries are not repeated."""

    def behave(question: str, tried: int) -> Behaviour:
        planned = faults[int(question.split()[-1])]
        return PASSING[planned[tried - 1]][0] if tried <= len(planned) else good

    came: list[tuple[int, str]] = []
    with serving(behave) as server:
        hopeless = [index for index, planned in enumerate(faults) if len(planned) > 2]
        try:
            take(model(server, concurrency=concurrency).arriving(talks(len(faults)), DECODING), came)
            assert not hopeless
        except UserError:
            assert hopeless
    assert len(dict(came)) == len(came)
    assert all(answer == words_for(f"question {index}") for index, answer in came)
    missing = set(range(len(faults))) - dict(came).keys()
    # Without an error none is missing; with one, all that was asked before it was answered unless it failed itself.
    assert not missing if not hopeless else set(hopeless) <= missing
    assert all(index in dict(came) for index in range(min(hopeless, default=0)) if len(faults[index]) == 0)


# Who stops


def test_whoever_stops_listening_stops_the_requests() -> None:
    with serving(lambda question, tried: good if tried == 1 and question == "question 0" else waits(30)) as server:
        began = time.monotonic()
        arriving = model(server, timeout=60).arriving(talks(50), DECODING)
        assert next(arriving) == (0, words_for("question 0"))
        arriving.close()
        assert time.monotonic() - began < 20
        assert len(server.requests) <= 6


def test_an_error_of_ours_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mplug_owl.chat.endpoint.read_answer", lambda reply: 1 / 0)
    with serving(lambda question, tried: good) as server, pytest.raises(ZeroDivisionError):
        model(server).answers(talks(3), DECODING)
    assert set(server.tries.values()) == {1}


def test_a_picture_that_is_none_is_said_to_be() -> None:
    talk = Conversation(()).said("user", Picture("nowhere.png"), "What?")
    came: list[tuple[int, str]] = []
    with serving(lambda question, tried: good) as server, pytest.raises(BadSample, match=r"nowhere\.png"):
        take(model(server).arriving([*talks(2), talk], DECODING), came)
    assert sorted(came) == list(enumerate(expected(2)))


# The key


def test_the_key_comes_from_the_environment_and_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda question, tried: refuses(401, "bad key sk-secret")) as server:
        for name, value in (("OPENAI_API_KEY", "sk-other"), ("OWL_API_KEY", " sk-secret\n")):
            monkeypatch.setenv(name, value)
            with pytest.raises(UserError) as raised:
                model(server).answers(talks(1), DECODING)
    assert [request["key"] for request in server.requests] == ["sk-other", "sk-secret"]
    assert "sk-secret" not in str(raised.value)
    assert "bad key ***" in str(raised.value)
    assert "sk-" not in repr(model(server).endpoint)


# Streams


def test_a_stream_gives_the_words_as_they_come() -> None:
    with serving(lambda question, tried: streams("A re", "d squ", "are. ")) as server:
        assert list(model(server).stream(talks(1)[0], DECODING)) == ["A re", "d squ", "are."]


@pytest.mark.parametrize("parts", [["Red. Hu", "man: more"], ["Red.", " Human:", " more"], ["Red. Human: more"]])
def test_a_stream_ends_before_a_stop_word(parts: Sequence[str]) -> None:
    with serving(lambda question, tried: streams(*parts)) as server:
        assert "".join(model(server).stream(talks(1)[0], Decoding(stop=("Human:",)))) == "Red."


@pytest.mark.parametrize(
    "fault",
    [
        refuses(500),
        refuses(429, retry_after="0"),
        hangs_up,
        streams(reason=None),
        streams(reason=None, done=False),
        streams(reason=None, done=False, promised=1000),
        streams(reason="content_filter"),
        sends("data: junk\n\n", kind="text/event-stream"),
        sends("data: [1]\n\n", kind="text/event-stream"),
        sends('data: {"choices": 5}\n\n', kind="text/event-stream"),
        sends('data: {"choices": [5]}\n\n', kind="text/event-stream"),
        sends('data: {"error": {"message": "upstream"}}\n\n', kind="text/event-stream"),
    ],
)
def test_a_stream_that_fails_before_its_first_word_is_begun_again(fault: Behaviour) -> None:
    with serving(first_only(fault, streams("Red."))) as server:
        assert list(model(server).stream(talks(1)[0], DECODING)) == ["Red."]
    assert len(server.requests) == 2


@pytest.mark.parametrize(("promised", "words"), [(None, "the stream broke off"), (1000, "peer closed")])
def test_a_stream_that_breaks_off_after_its_first_word_is_an_error(promised: int | None, words: str) -> None:
    shown: list[str] = []
    with serving(first_only(streams("A re", "d", reason=None, done=False, promised=promised))) as server:
        broken = model(server).stream(talks(1)[0], DECODING)
        with pytest.raises(UserError, match=words):
            take(broken, shown)
    assert shown == ["A re", "d"]
    assert len(server.requests) == 1


def test_a_stream_that_is_closed_closes_the_connection() -> None:
    with serving(lambda question, tried: streams(*("word " * 500).split(" "), pause=0.01)) as server:
        words = model(server).stream(talks(1)[0], DECODING)
        next(words)
        words.close()
        assert server.hung_up.wait(20)


def test_nothing_is_left_open() -> None:
    before = set(threading.enumerate())  # other tests' too
    with serving(lambda question, tried: streams("Red.") if tried > 1 else good) as server:
        asked = model(server)
        asked.answers(talks(3), DECODING)
        list(asked.stream(talks(1)[0], DECODING))
    gc.collect()  # an open socket or loop would warn here, and a warning is an error
    end = time.monotonic() + 20  # the server's threads see their connections close a moment later
    while (left := set(threading.enumerate()) - before) and time.monotonic() < end:
        time.sleep(0.01)
    assert not left


# Names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("http://host/v1", "names no model"),
        ("http:///v1#m", "expected http://HOST/v1"),
        ("http://host/v1?speed=3#m", "no option 'speed'; expected concurrency, timeout, retries"),
        ("http://host/v1?concurrency=many#m", "concurrency is 'many'"),
        ("http://host/v1?concurrency=0#m", "concurrency is 0"),
        ("http://host/v1?timeout=0#m", "timeout is 0"),
        ("http://host/v1?timeout=nan#m", "timeout is nan"),
        ("http://host/v1?retries=-1#m", "retries is -1"),
        ("http://me:secret@host/v1#m", "holds a password"),
        ("http://[x", "http://[x: no address of a server"),
        ("http://me:secret@host:80a/v1#m", "host:80a/v1#m: no address of a server"),
    ],
)
def test_a_name_that_is_none_is_an_error(name: str, words: str) -> None:
    with pytest.raises(UserError) as raised:
        Endpoint.from_name(name)
    assert words in str(raised.value)
    assert "secret" not in str(raised.value)


def test_options_stand_in_the_name() -> None:
    named = Endpoint.from_name("https://host:8/v1/?concurrency=9&timeout=2.5&retries=0#org/model:7b")
    assert named == Endpoint("https://host:8/v1", "org/model:7b", concurrency=9, timeout=2.5, retries=0)
    assert named.name == "https://host:8/v1#org/model:7b"


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        ("https://api.example.org/v1", "sk-openai"),
        ("http://localhost:8000/v1", "sk-openai"),
        ("http://[::1]:8000/v1", "sk-openai"),
        ("http://elsewhere:8000/v1", None),
    ],
)
def test_openais_key_does_not_travel_in_clear_text(address: str, sent: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    assert Endpoint(address, "m").key() == sent
    monkeypatch.setenv("OWL_API_KEY", "sk-owl")
    assert Endpoint(address, "m").key() == "sk-owl"


def test_a_key_that_cannot_be_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWL_API_KEY", "schlüssel")
    with pytest.raises(UserError, match="OWL_API_KEY") as raised:
        Endpoint("http://host/v1", "m").key()
    assert "schl" not in str(raised.value)


# An exam


def test_an_exam_whose_server_dies_keeps_its_answers_and_resumes(tmp_path: Path) -> None:
    """The server works for two requests, then refuses: the exam ends with an error until all is answered."""
    task, asked, left = OwlEval(folder_of(tmp_path)), Counter[str](), [0]

    def behave(question: str, tried: int) -> Behaviour:
        left[0] -= 1
        if left[0] < 0:
            return refuses(500, "dead")
        asked[question] += 1
        return good

    with serving(behave) as server:
        name = f"{server.address}?retries=0&concurrency=1#{MODEL}"
        left[0] = 2
        with pytest.raises(UserError, match="error 500, dead"):
            run_exam(name, task, tmp_path, out=tmp_path / "exam")
        kept = (tmp_path / "exam" / "answers.jsonl").read_text("utf-8")
        assert len({json.loads(line)["question"] for line in kept.splitlines()}) == 2
        left[0] = 2
        run_exam(name, task, tmp_path, out=tmp_path / "exam")
    assert (tmp_path / "exam" / "answers.jsonl").read_text("utf-8").startswith(kept)
    lines = [json.loads(line) for line in (tmp_path / "exam" / "answers.jsonl").read_text("utf-8").splitlines()]
    assert {line["answer"] for line in lines} == {words_for(one["question"]) for one in QUESTIONS}
    assert set(asked.values()) == {1}


@settings(max_examples=200)
@given(JSON)
def test_any_reply_is_an_answer_or_a_fault(reply: Any) -> None:
    with suppress(BadReply):
        assert isinstance(read_answer(reply), str)
    assert all(count >= 0 for count in read_usage(reply))
    assert isinstance(error_message(reply), str)
