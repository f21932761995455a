"""Data sets in Hugging Face's own layout: from a folder written by `save_to_disk`, or by a name on the hub."""

from pathlib import Path
from typing import Any

from mplug_owl.data.sources.files import exists, needed
from mplug_owl.data.sources.formats import READ_FIELDS
from mplug_owl.errors import BadSample, UserError
from mplug_owl.model.images import expand_home


class HubRecords:
    """The rows of a `datasets.Dataset`, which maps them from disk. Pictures stay the bytes they are."""

    def __init__(self, dataset: Any, title: str) -> None:
        datasets = needed("datasets", "hub")
        if isinstance(dataset, datasets.IterableDataset | datasets.IterableDatasetDict):
            raise UserError(
                f"{title}: a streamed data set cannot be read in any order, so a run could not be resumed; load it without "
                "streaming, or read its files where they are: parquet:hf://datasets/USER/NAME/**/*.parquet, webdataset:hf://..."
            )
        if not len(dataset):
            raise UserError(f"{title}: no records in the data set")
        known = [name for name in dataset.column_names if name in READ_FIELDS]
        # Columns that no format here knows are not read, but an error can name them.
        self.unread = dict.fromkeys(name for name in dataset.column_names if known and name not in READ_FIELDS)
        dataset = dataset.select_columns(known) if known else dataset
        # As Arrow has it: otherwise pictures come decoded, whatever is wrong with them.
        self.dataset, self.title, self.folder = dataset.with_format("arrow"), title, Path()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            record: dict[str, Any] = self.dataset[index].to_pylist()[0]
        except Exception as error:  # each of Arrow's types fails in its own way
            raise BadSample(f"{self.location(index)}: cannot be read ({error})") from error
        return {**self.unread, **record}

    def location(self, index: int) -> str:
        """`flickr30k:test, row 17`."""
        return f"{self.title}, row {index + 1}"


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def open_hub(spec: str) -> HubRecords:
    """`NAME[:SPLIT]`, `NAME:CONFIG:SPLIT` or `FOLDER[:SPLIT]`. Raises UserError that says what there is instead."""
    datasets = needed("datasets", "hub")
    name, _, rest = spec.partition(":")
    config, _, split = rest.rpartition(":")
    folder = expand_home(name)
    if not exists(folder) and (folder.suffix or name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise UserError(f"{name}: no such file or folder, and no name on the hub")
    try:
        if exists(folder) and is_saved(folder):
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder) if exists(folder) else name, config or None)
    except Exception as error:  # the library has errors of its own, and KeyError or TypeError for a folder that is damaged
        raise UserError(f"hub:{spec}: {type(error).__name__}: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if not split and len(loaded) > 1 and "train" not in loaded:
            raise UserError(f"hub:{spec}: has the splits {', '.join(loaded)}; name one, hub:{spec}:{next(iter(loaded))}")
        split = split or ("train" if "train" in loaded else next(iter(loaded)))
        if split not in loaded:
            raise UserError(f"hub:{spec}: no split {split}; it has {', '.join(loaded)}")
        loaded = loaded[split]
    return HubRecords(loaded, f"{folder.name}:{split}" if split else folder.name)
