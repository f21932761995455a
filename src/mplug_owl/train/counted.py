"""A run counts its shards once: as many slots as each had when it began, in every process and in every life of the run.

How many samples a shard holds may be an estimate, and better known later, when it was read or indexed. The order of a run
hangs on these numbers, so they are kept in its folder, in `shards.npz`, and a run that is resumed takes them from there.
"""

import contextlib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mplug_owl.data.sources import Source
from mplug_owl.data.sources.indexing import begin_beside
from mplug_owl.data.sources.shards import Shards
from mplug_owl.data.sources.source import FileSource
from mplug_owl.data.sources.store import is_remote
from mplug_owl.data.survey import Survey
from mplug_owl.errors import UserError
from mplug_owl.writing import replacing, writing

NAME = "shards.npz"
# By a source's number: the addresses of its shards, and the slots of each.
Slots = Mapping[int, tuple[list[str], np.ndarray]]


def slots_of(sources: Sequence[Source], out: Path, resumed: bool) -> Slots:
    """The slots of every source of shards: as the run in `out` began with, or as they are counted now.

    A run from before there was `shards.npz` had read every shard. Raises UserError where the file is damaged.
    """
    if resumed and (out / NAME).exists():
        return _read(out / NAME)
    went_on = resumed and any((out / "checkpoints").glob("step-*"))
    found = {number: records for number, source in enumerate(sources) if (records := _shards(source)) is not None}
    return {
        number: ([file.address for file in counted.files], counted.blocks)
        for number, records in found.items()
        for counted in [records.read_through() if went_on else records]
    }


def with_slots(survey: Survey, slots: Slots) -> Survey:
    """The survey of the same sources with these slots; the very same where they had them."""
    sources = [_with(source, *slots[number]) if number in slots else source for number, source in enumerate(survey.sources)]
    is_same = all(one is other for one, other in zip(sources, survey.sources, strict=True))
    return survey if is_same else Survey(sources, survey.weights)


def write(out: Path, slots: Slots) -> None:
    """Write shards.npz into a run's folder where there is something to keep. Raises WriteError where there is no room."""
    if not slots:
        return
    arrays: dict[str, np.ndarray] = {}
    for number, (addresses, blocks) in slots.items():
        arrays[f"addresses_{number}"] = np.frombuffer("\n".join(addresses).encode("utf-8", "surrogateescape"), np.uint8)
        arrays[f"slots_{number}"] = blocks
    with writing(str(out / NAME)), replacing(out / NAME) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


@contextlib.contextmanager
def indexed_meanwhile(sources: Sequence[Source], note: Callable[[str], None]) -> Iterator[None]:
    """Within it local shards that nobody has read are read by a process of the lowest priority, for this machine's next run."""
    unread = [source for source in sources if (records := _shards(source)) is not None and not records.is_exact]
    near = [source for source in unread if (shards := _shards(source)) is not None and not is_remote(shards.files[0].address)]
    for source in near:
        note(f"{source.name}: its shards are indexed meanwhile, for the next run; --set index=false leaves that out")
    processes = [begin_beside(source.name.removeprefix("webdataset:")) for source in near]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def _shards(source: Source) -> Shards | None:
    return source.records if isinstance(source, FileSource) and isinstance(source.records, Shards) else None


def _with(source: Source, addresses: Sequence[str], blocks: np.ndarray) -> Source:
    if not isinstance(source, FileSource) or not isinstance(source.records, Shards):
        raise UserError(f"{source.name}: {NAME} in the run's folder has shards for it, and it has none")
    pinned = source.records.with_slots(addresses, blocks)
    return source if pinned is source.records else replace(source, records=pinned)


def _read(path: Path) -> Slots:
    try:
        with np.load(path) as arrays:
            numbers = [int(name.partition("_")[2]) for name in arrays if name.startswith("slots_")]
            return {
                number: (
                    arrays[f"addresses_{number}"].tobytes().decode("utf-8", "surrogateescape").split("\n"),
                    arrays[f"slots_{number}"],
                )
                for number in numbers
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({error}), so nobody knows in which order this run reads; begin another") from None
