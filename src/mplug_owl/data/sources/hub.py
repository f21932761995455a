"""Data sets in Hugging Face's own layout: from a folder written by `save_to_disk`, or by a name on the hub."""

from pathlib import Path
from typing import Any

from mplug_owl.data.sources.files import needed
from mplug_owl.data.sources.formats import FIELDS


class HubRecords:
    """The rows of a `datasets.Dataset`, which maps them from disk. Pictures stay the bytes they are."""

    def __init__(self, dataset: Any, title: str) -> None:
        datasets = needed("datasets", "hub")
        if isinstance(dataset, datasets.IterableDataset | datasets.IterableDatasetDict):
            raise ValueError(
                f"{title}: a streamed data set cannot be read in any order, so a run could not be resumed; load it without "
                "streaming, or read its files where they are: parquet:hf://datasets/USER/NAME/**/*.parquet, webdataset:hf://..."
            )
        if not len(dataset):
            raise ValueError(f"{title}: no records in the data set")
        known = [name for name in dataset.column_names if name in FIELDS]
        dataset = dataset.select_columns(known) if known else dataset
        # As Arrow has it: otherwise pictures come decoded, whatever is wrong with them.
        self.dataset, self.title, self.folder = dataset.with_format("arrow"), title, Path()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[index].to_pylist()[0]

    def location(self, index: int) -> str:
        """`flickr30k:test, row 17`."""
        return f"{self.title}, row {index + 1}"


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def open_hub(spec: str) -> HubRecords:
    """`NAME[:SPLIT]`, `NAME:CONFIG:SPLIT` or `FOLDER[:SPLIT]`. Raises ValueError that says what there is instead."""
    datasets = needed("datasets", "hub")
    name, _, rest = spec.partition(":")
    config, _, split = rest.rpartition(":")
    folder = Path(name).expanduser()
    if not folder.exists() and (folder.suffix or name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise ValueError(f"{name}: no such file or folder, and no name on the hub")
    try:
        if folder.is_dir() and is_saved(folder):
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder) if folder.exists() else name, config or None)
    # What keeps a name from being found is a FileNotFoundError, a ValueError or a ConnectionError.
    except (ValueError, OSError) as error:
        raise ValueError(f"hub:{spec}: {error}") from None
    if isinstance(loaded, datasets.DatasetDict):
        if not split and len(loaded) > 1 and "train" not in loaded:
            raise ValueError(f"hub:{spec}: has the splits {', '.join(loaded)}; name one, hub:{spec}:{next(iter(loaded))}")
        split = split or ("train" if "train" in loaded else next(iter(loaded)))
        if split not in loaded:
            raise ValueError(f"hub:{spec}: no split {split}; it has {', '.join(loaded)}")
        loaded = loaded[split]
    return HubRecords(loaded, f"{folder.name}:{split}" if split else folder.name)
