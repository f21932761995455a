"""Mixed requests from many clients at once: a small version of benchmarks/serve_load.py, in this process."""

import asyncio
from collections import Counter

from benchmarks.serve_load import asked, mixed
from mplug_owl.model.load import Owl
from mplug_owl.serve.api import Server
from mplug_owl.serve.guard import Keys
from tests.chat.test_decode import made
from tests.serve.running import running
from tests.serve.served import KEY
from tests.tiny import shaken


def another(seed: int) -> Owl:
    owl = made("llama")
    shaken(owl.model.model.language_model, 0.1 * seed)
    return owl


def test_none_is_lost_or_mixed_up() -> None:
    owls = {"owl-tiny": another(0), "one": another(1), "two": another(2)}
    requests = mixed(owls, 100, 3, pictures=1)
    server = Server(owls, Keys([KEY]))

    async def run() -> None:
        async with running(server) as (port, _):
            replies = await asked(port, requests, 12, KEY)
        verdicts = Counter(one.verdict(reply) for one, reply in zip(requests, replies, strict=True))
        assert set(verdicts) == {"answered", "left", "refused"}, verdicts
        assert min(verdicts.values()) > 5
        assert not any(batch.busy for batch in server.engine.batches.values())

    asyncio.run(run())
