"""Jobs of one model in one batch: each says what it says alone, whatever stands beside it and whoever leaves."""

import random
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from mplug_owl.chat import Decoding, OwlChatModel
from mplug_owl.chat.decode import decode
from mplug_owl.chat.lean import _takes_bias_along
from mplug_owl.chat.pictures import PictureFeatures
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.model.load import Owl, load
from mplug_owl.model.small_weights import pack
from mplug_owl.scenes import scene
from mplug_owl.serve import engine as engine_module
from mplug_owl.serve.engine import ClosedError, End, Engine, Job, QueueFullError, Token
from mplug_owl.serve.kept import Kept, KnownPicture
from mplug_owl.serve.lane import Lane, LaneLimits
from tests.chat.test_decode import made
from tests.tiny import picture

# Keys and values, sliding windows, convolutions, slopes.
KINDS = ("llama", "gemma3", "lfm2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("qwen3", "bloom")))
WORDS = ("What?", "What is that, and where?", "Who?", "Is it the same one as before?")
SHOWN = [KnownPicture(picture(seed), bytes([seed])) for seed in range(3)]


class Heard:
    """What a job's listener hears."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.tokens: list[Token] = []
        self.ends: list[str] = []

    def __call__(self, event: Token | End) -> None:
        assert not self.ends, "something was said after the end"
        if isinstance(event, End):
            self.ends.append(event.reason)
        else:
            self.ids.append(event.id)
            self.tokens.append(event)


def talks() -> list[Conversation]:
    return [Conversation(()).said("user", *SHOWN[: number % 3], f"{number} {WORDS[number % 4]}") for number in range(8)]


def job(owl: Owl, talk: Conversation, decoding: Decoding, **fields: Any) -> tuple[Job, Heard]:
    heard = Heard()
    shown = [one for one in talk.pictures if isinstance(one, KnownPicture)]
    return Job(list(owl.processor.encode(talk, reply=True).ids), shown, decoding, heard, **fields), heard


def alone(owl: Owl, one: Job) -> list[int]:
    """The oracle: what `owl chat` decodes by, with nothing beside it."""
    from mplug_owl.chat.decode import Prompt

    model = OwlChatModel(owl)
    config, prompt = model._generation_config(one.decoding), Prompt(one.ids, one.pictures, one.seed)
    stops = lambda ids: model._stops(one.decoding, ids)  # noqa: E731
    return next(decode(owl.model, [prompt], PictureFeatures(owl), config, stops, 1))[1]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_depends_on_nobody_else(kind: str) -> None:
    """Jobs come at random, choose in different ways, some are cancelled; three answers at once at most."""
    owl, dice = made(kind), random.Random(1)
    lane = Lane(owl, LaneLimits(rows=3))
    ways = [
        Decoding(max_new_tokens=9),
        Decoding(max_new_tokens=4),
        Decoding(max_new_tokens=12, stop=("e",)),
        Decoding(max_new_tokens=7, temperature=0.9),
        Decoding(max_new_tokens=7, repetition_penalty=1.4),
    ]
    jobs = [
        job(owl, talk, ways[number % 5], seed=number, logprobs=2 if number == 3 else None)
        for number, talk in enumerate(talks())
    ]
    left, cancelled = list(range(8)), {2, 5}
    while left or lane.busy:
        while left and dice.random() < 0.5:
            lane.add(jobs[left.pop(0)][0])
        for number in cancelled:
            jobs[number][0].cancelled |= len(jobs[number][1].ids) == 2
        lane.turn()
    for number, (one, heard) in enumerate(jobs):
        expected = alone(owl, one)
        assert heard.ids == (expected[:2] if number in cancelled and len(expected) > 2 else expected), number
        assert len(heard.ends) == 1
    assert all(len(token.likeliest) == 2 for token in jobs[3][1].tokens)


def test_a_crowd_changes_no_bit() -> None:
    """owl-tiny in bf16, with the log-probabilities of every token: rounding too is the same in any company.

    Alone means the engine of `owl chat`, one after the other. Without `computed_apart` most of them differ.
    """
    if not _takes_bias_along():
        pytest.skip("bf16 products of this CPU are PyTorch's own, whose sums are not ours to order")
    owl = load("owl-tiny", "cpu")
    pack(owl.model)
    shown = [KnownPicture(scene(900 + number).draw(), bytes([number])) for number in range(6)]
    words = ("How many things are there?", "Is there a star?", "What colour is the largest thing?")
    talks = [Conversation(()).said("user", *shown[n % 6 : n % 6 + n % 4], words[n % 3]) for n in range(12)]
    heard: list[list[Heard]] = []
    for together in (1, 12):
        lane, jobs = Lane(owl, LaneLimits(rows=together, turns=0)), []
        for talk in talks:
            jobs.append(job(owl, talk, Decoding(max_new_tokens=6), logprobs=5))
            lane.add(jobs[-1][0])
            if together > 1 and len(jobs) == 5:  # the others come later, and are read together too
                lane.turn()
        while lane.busy:
            lane.turn()
        heard.append([said for _, said in jobs])
    assert [one.tokens for one in heard[0]] == [one.tokens for one in heard[1]]


def test_reasons_and_log_probabilities() -> None:
    owl = made("llama")
    lane = Lane(owl, LaneLimits())
    talk = talks()[1]
    short, heard = job(owl, talk, Decoding(max_new_tokens=5), logprobs=3)
    lane.add(short)
    while lane.busy:
        lane.turn()
    assert heard.ends == ["length"]
    with torch.no_grad():
        batch = owl.processor.batch([owl.processor.encode(talk, reply=True)])
        expected = owl.model(**batch).logits[0, -1].log_softmax(-1)
    first = heard.tokens[0]
    assert first.likeliest[0] == (first.id, pytest.approx(first.logprob))
    assert first.logprob == pytest.approx(float(expected.max()), abs=1e-5)
    assert [one for one, _ in first.likeliest] == expected.topk(3).indices.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_turn_computes_what_is_new_and_says_the_same(kind: str) -> None:
    owl = made(kind)
    lane = Lane(owl, LaneLimits())
    talk, decoding = talks()[2], Decoding(max_new_tokens=6)
    first, heard = job(owl, talk, decoding, owner=b"a")
    lane.add(first)
    while lane.busy:
        lane.turn()
    # Ids as they were said: words of a random model would be tokenised otherwise.
    ids = [*first.ids, *heard.ids, *owl.processor.encode(Conversation((), None).said("user", "Why?"), reply=True).ids[1:]]
    later = [replace(first, ids=ids, tell=Heard(), owner=owner) for owner in (b"b", b"a")]
    for one in later:
        lane.add(one)
    while lane.busy:
        lane.turn()
    stranger, own = later
    assert (stranger.known, own.known) == (0, len(first.ids) + len(heard.ids) - 1)
    assert own.tell.ids == stranger.tell.ids == alone(owl, own)


def test_a_picture_is_encoded_once_an_owner() -> None:
    owl = made("llama")
    lane = Lane(owl, LaneLimits())
    seen: list[int] = []
    encode = lane.features.encode
    lane.features.encode = lambda sources: (seen.append(len(sources)), encode(sources))[1]
    for _ in range(2):
        for one, _heard in (job(owl, talk, Decoding(max_new_tokens=1)) for talk in talks()):
            lane.add(one)
        while lane.busy:
            lane.turn()
    assert sum(seen) == 2


def test_what_is_kept_is_bounded() -> None:
    kept = Kept[str](10)
    for key in "abc":
        kept.put(key, key, 4)
    assert [key for key, _ in kept.items()] == ["b", "c"]
    assert kept.get("b") == "b"
    kept.put("d", "d", 4)
    assert [key for key, _ in kept.items()] == ["b", "d"]
    kept.put("large", "x", 11)
    assert kept.get("large") is None
    assert kept.bytes == 8


def test_the_queue_is_bounded_and_a_fault_ends_only_those_there() -> None:
    owl = made("llama")
    lane = Lane(owl, LaneLimits(rows=2))
    engine = Engine({"owl": lane}, queue=3)
    jobs = [job(owl, talk, Decoding(max_new_tokens=3)) for talk in talks()]
    with pytest.raises(ClosedError):  # it has not begun
        engine.submit("owl", [jobs[0][0]])
    broken, lane.features.encode = lane.features.encode, lambda sources: 1 / 0
    engine.start()
    try:
        with pytest.raises(QueueFullError):
            engine.submit("owl", [one for one, _ in jobs[:4]])
        engine.submit("owl", [jobs[1][0]])
        wait_for(jobs[1][1])
        assert engine.waiting == 0
        lane.features.encode = broken
        engine.submit("owl", [one for one, _ in jobs[2:5]])
    finally:
        engine.close()
    assert jobs[1][1].ends == ["failed"]
    assert [heard.ends for _, heard in jobs[2:5]] == [["length"]] * 3
    assert engine.waiting == 0


def test_rows_are_as_many_as_positions_allow() -> None:
    """Every row is as wide as the widest may become; a job that is wider than all of them is answered alone."""
    owl = made("llama")
    jobs = [job(owl, talk, Decoding(max_new_tokens=5)) for talk in [talks()[0]] * 5]
    width = len(jobs[0][0].ids) + 5
    lane, most = Lane(owl, LaneLimits(positions=2 * width)), 0
    wide = job(owl, talks()[0], Decoding(max_new_tokens=3 * width))
    for one, _ in (*jobs, wide):
        lane.add(one)
    while lane.busy:
        lane.turn()
        most = max(most, len(lane.rows.rows))
    assert most == 2
    assert [heard.ends for _, heard in (*jobs, wide)] == [["length"]] * 6


def test_jobs_wait_for_company_that_is_nearly_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts are read at once where the second is being made ready; nobody waits longer than a moment for it."""
    owl = made("llama")
    lane = Lane(owl, LaneLimits())
    engine, sizes, add = Engine({"owl": lane}, queue=8), [], lane.rows.add
    monkeypatch.setattr(lane.rows, "add", lambda prompts, choice: (sizes.append(len(prompts)), add(prompts, choice))[1])
    jobs = [job(owl, talk, Decoding(max_new_tokens=2)) for talk in talks()[:3]]
    engine.start()
    try:
        monkeypatch.setattr(engine_module, "COMPANY_SECONDS", 30.0)
        with engine.coming():
            engine.submit("owl", [jobs[0][0]])
            time.sleep(0.05)
            assert not jobs[0][1].ids
            engine.submit("owl", [jobs[1][0]])
        wait_for(jobs[0][1])
        wait_for(jobs[1][1])
        assert sizes == [2]
        monkeypatch.setattr(engine_module, "COMPANY_SECONDS", 0.02)
        with engine.coming():
            engine.submit("owl", [jobs[2][0]])
            wait_for(jobs[2][1])
    finally:
        engine.close()


def test_who_waits_too_long_or_takes_too_long_ends() -> None:
    owl = made("llama")
    lane = Lane(owl, LaneLimits(rows=1))
    running, waiting = (job(owl, talks()[0], Decoding(max_new_tokens=100), deadline=time.monotonic() + 60) for _ in range(2))
    for one, _ in (running, waiting):
        lane.add(one)
    lane.turn()
    running[0].deadline = waiting[0].deadline = 0
    lane.turn()
    assert (running[1].ends, waiting[1].ends) == (["length"], ["late"])
    assert not lane.busy


def wait_for(heard: Heard) -> None:
    end = time.monotonic() + 20
    while not heard.ends:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_known_picture_is_a_picture() -> None:
    assert isinstance(SHOWN[0], Picture)
