"""What an asynchronous program yields, item by item, for a program that is not."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")


def from_asynchronous(source: AsyncGenerator[Item, None]) -> Generator[Item, None, None]:
    """The items of an asynchronous generator, which runs in a thread and an event loop of its own.

    It does not wait until an item is asked for. Closing this generator cancels it, whatever it waits for. What it raises is
    raised after its last item.
    """
    items: SimpleQueue[tuple[Item] | None] = SimpleQueue()
    loop = asyncio.new_event_loop()

    async def pump() -> None:
        async with aclosing(source):
            async for item in source:
                items.put((item,))

    def run() -> None:
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            items.put(None)

    task = loop.create_task(pump())
    try:
        with ThreadPoolExecutor(max_workers=1) as worker:
            work = worker.submit(run)
            try:
                while (item := items.get()) is not None:
                    yield item[0]
                work.result()
            finally:
                loop.call_soon_threadsafe(task.cancel)
    finally:
        loop.close()
