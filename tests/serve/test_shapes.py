"""What programs that speak OpenAI's language rely on: shapes, errors, and that nobody's request keeps the others waiting."""

import asyncio
import json
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from mplug_owl.chat.protocol import Decoding
from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.model.load import Owl
from mplug_owl.serve.answering import Answering, AnswerLimits, Saying, Words
from mplug_owl.serve.api import ServeLimits, Server
from mplug_owl.serve.chunks import Reply
from mplug_owl.serve.engine import End, Engine, Job, Token
from mplug_owl.serve.fetch import Fetcher
from mplug_owl.serve.guard import Keys
from mplug_owl.serve.lane import Lane, LaneLimits
from mplug_owl.serve.protocol import ChatRequest, read_request
from tests.chat.test_decode import made
from tests.serve.served import KEY, asked, events, with_client
from tests.serve.test_lane import job, wait_for

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def owl() -> Owl:
    return made("llama")


def test_a_models_name_may_hold_a_slash(owl: Owl) -> None:
    server = Server({"lab/owl": owl}, Keys([KEY]))

    async def use(client: Any) -> Any:
        (listed,) = (await client.get("/v1/models")).json()["data"]
        paths = (listed["id"], listed["id"].replace("/", "%2F"), "lab", "lab/owl/")
        return [await client.get(f"/v1/models/{path}") for path in paths]

    one, packed, part, more = with_client(server, use)
    assert one.json()["id"] == packed.json()["id"] == "lab/owl"
    assert [part.status_code, more.status_code] == [404, 404]
    assert part.json()["error"]["code"] == "model_not_found"


def test_an_answer_as_openais_package_writes_it_out_comes_back() -> None:
    """`messages.append(answer.model_dump())`: fields that are empty there ask for nothing here."""
    empty = {"refusal": None, "annotations": None, "audio": None, "function_call": None, "tool_calls": None}
    history = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I.", **empty},
        {"role": "assistant", "content": "Me.", "annotations": []},
        {"role": "user", "content": "You?"},
    ]
    assert len(read_request(json.dumps({"model": "owl", "messages": history}).encode()).messages) == 4


def test_what_fails_unforeseen_is_an_error_in_json(owl: Owl, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({"owl": owl}, Keys([KEY]))
    monkeypatch.setattr(server, "desk", lambda name: 1 / 0)

    async def use(client: Any) -> Any:
        return await client.post(CHAT, json=asked("Who?"))

    response = with_client(server, use)
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")


class Spaced:
    """A processor whose tokens are words: one that stands first is decoded without its space, as by most tokenizers."""

    end_token_ids: tuple[int, ...] = ()
    chat_format = None

    def __init__(self) -> None:
        self.decoded = 0

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        self.decoded += 1
        return "".join(" a\u2028"[token : token + 1] + "ow" for token in ids).removeprefix(" ")


def reply(words: Words, *ids: int, **fields: Any) -> Reply:
    """A reply whose answer has been said."""
    saying = Saying(words, (), listens=bool(fields.get("stream")))
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    for event in (*(Token(token, -1.0, ((token, -1.0),) * 2) for token in ids), End("length")):
        inbox.put_nowait((0, event))
    one = Job([1, 2], [], Decoding(), lambda event: None)
    return Reply(ChatRequest.model_validate(asked("Who?", **fields)), Answering([one], [saying], inbox))


def spaced() -> tuple[Words, Spaced]:
    processor = Spaced()
    words = Words.__new__(Words)
    words.__init__(SimpleNamespace(model=None, processor=processor))  # type: ignore[misc]
    return words, processor


def test_tokens_with_their_log_probabilities_make_up_the_answer() -> None:
    """With their spaces: by these a client finds the words that an answer was sure of. Each token is made words of once."""
    words, processor = spaced()
    (choice,) = asyncio.run(reply(words, 0, 1, 0, 0, logprobs=True, top_logprobs=2).whole())["choices"]
    assert choice["message"]["content"] == "owaow ow ow"
    content = choice["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["ow", "aow", " ow", " ow"]
    assert content[2]["top_logprobs"][0] == {"token": " ow", "logprob": -1.0, "bytes": [32, 111, 119]}
    assert processor.decoded == 1 + 2 * 2  # the answer, and two tokens


def test_many_log_probabilities_are_written_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    words, _ = spaced()
    found = reply(words, 0, 1, logprobs=True)
    threads: list[threading.Thread] = []
    token = words.token
    monkeypatch.setattr(words, "token", lambda number: (threads.append(threading.current_thread()), token(number))[1])
    asyncio.run(found.whole())
    assert threads
    assert threading.main_thread() not in threads


def test_no_event_has_what_some_clients_take_for_the_end_of_a_line() -> None:
    words, _ = spaced()

    async def run() -> bytes:
        return b"".join([event async for event in reply(words, 1, 2, stream=True).stream()])

    text = asyncio.run(run()).decode()
    assert text.splitlines() == text.split("\n")[:-1]
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in events(text)[:-1]]
    assert "".join(deltas) == "aow\u2028ow"


def test_nobody_s_words_wait_for_another_s_long_text(owl: Owl) -> None:
    """A text of 400,000 characters is read for seconds; the event loop makes words of everybody's tokens meanwhile."""
    words, begun, over = Words(owl), threading.Event(), threading.Event()

    class Slow:
        def encode(self, talk: Conversation, reply: bool) -> Any:
            begun.set()
            assert over.wait(20)
            raise UserError("too long")

        def __getattr__(self, name: str) -> Any:
            return getattr(owl.processor, name)

    words.owl = Owl(owl.model, Slow())  # type: ignore[arg-type]

    def read() -> None:
        with pytest.raises(UserError):
            words.encode(Conversation(()).said("user", "Who?"))

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(20)
    said: list[str] = []
    other = threading.Thread(target=lambda: said.extend((words.decode([70, 71]), words.token(70))), daemon=True)
    other.start()
    other.join(5)
    waited = not said
    over.set()
    thread.join()
    assert not waited


class Unread:
    """A log that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_log_that_nobody_reads_ends_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread would die of the traceback that it cannot print, and every client wait for ever."""
    owl = made("llama")
    lane = Lane(owl, LaneLimits())
    engine, talk = Engine({"owl": lane}, queue=3), Conversation(()).said("user", "Who?")
    first, second = (job(owl, talk, Decoding(max_new_tokens=2)) for _ in range(2))
    monkeypatch.setattr(lane.rows, "add", lambda prompts, choice: 1 / 0)
    monkeypatch.setattr(sys, "stderr", Unread())
    engine.start()
    try:
        engine.submit("owl", [first[0]])
        wait_for(first[1])
        engine.submit("owl", [second[0]])
        wait_for(second[1])
    finally:
        engine.close()
    assert (first[1].ends, second[1].ends) == (["failed"], ["length"])


def test_a_log_that_nobody_reads_loses_no_answer(owl: Owl, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server({"owl": owl}, Keys([KEY]), stats=True)
    monkeypatch.setattr(sys, "stderr", Unread())

    async def use(client: Any) -> Any:
        return await client.post(CHAT, json=asked("Who?"))

    assert with_client(server, use).status_code == 200


def test_what_nobody_waits_for_does_not_keep_a_server_from_ending(owl: Owl) -> None:
    """A question of the page whose browser never came for its answer."""
    server, found = Server({"owl": owl}, Keys([KEY]), ServeLimits(answers=AnswerLimits(most_tokens=100_000))), []
    lane: Any = server.engine.batches["owl"]

    async def use(client: Any) -> None:
        found.append(await server.answer(json.dumps(asked("Who?", max_tokens=100_000)).encode(), b""))
        while not lane.running:
            await asyncio.sleep(0.001)
        lane.turn, turn = lambda admits=True: (threading.Event().wait(0.02), turn(admits)), lane.turn

    with_client(server, use)
    (answering,) = [one.answering for one in found]
    assert answering.jobs[0].cancelled


@pytest.mark.parametrize(
    "host", ["https://pictures.example", "pictures.example/", "", "pictures.example:x", "a b", "user@host", "[::1]"]
)
def test_a_host_that_is_none_is_refused(host: str) -> None:
    """It would never be found among those that are allowed, and every picture be refused."""
    with pytest.raises(UserError, match="--allow-host"):
        Fetcher([host], 1000, 1.0)
    assert Fetcher(["Pictures.Example:443"], 1000, 1.0).check("https://pictures.example/a") == ("pictures.example", 443, "/a")
