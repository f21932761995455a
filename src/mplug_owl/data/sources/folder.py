"""A folder of pictures: their words in one table beside them, or each picture's in a text file of the same name."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mplug_owl.data.sources.files import say_once
from mplug_owl.data.sources.json_file import read_json
from mplug_owl.data.sources.parquet import open_rows
from mplug_owl.data.sources.records import Records, decode
from mplug_owl.data.sources.shards import PICTURES
from mplug_owl.data.sources.table import read_table
from mplug_owl.errors import BadSample, UserError

# The second row is what Hugging Face's image folders have; captions.txt is Flickr8k's, a table in spite of its name.
TABLES = (
    *("captions.jsonl", "captions.json", "captions.csv", "captions.tsv", "captions.txt"),
    *("metadata.jsonl", "metadata.csv", "metadata.parquet"),
)
# The folders of an image folder's splits, as Hugging Face names them. The first is what is learned from.
SPLITS = ("train", "validation", "val", "test")


class Pictures:
    """The pictures below a folder, in the order of their names; `cat.jpg` has its words in `cat.txt`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = sorted(_below(folder))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, str]:
        words = (self.folder / self.names[index]).with_suffix(".txt")
        try:
            return {"image": self.names[index], "caption": decode(words.read_bytes())}
        except FileNotFoundError:
            raise BadSample(f"{self.location(index)}: no {words.name} beside it") from None
        except OSError as error:
            raise BadSample(f"{self.location(index)}: {words.name} cannot be read ({error.strerror})") from None
        except BadSample as error:
            raise BadSample(f"{words.relative_to(self.folder)}: {error}") from None

    def location(self, index: int) -> str:
        """The picture's name in the folder."""
        return self.names[index]


def is_folder(path: Path) -> bool:
    """Whether a folder has pictures with words in it."""
    return _table(path) is not None or next(_below(path), None) is not None


def open_folder(path: Path) -> Records:
    """The pictures of a folder with their words.

    Of an image folder's splits, each with a table of its own, the one to learn from is read; the others are named once.

    Raises:
        UserError: There is no such folder, or no picture in it.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir():
        raise UserError(f"{path}: a file; expected a folder of pictures")
    if (table := _table(path)) is not None:
        return _read(table)
    if splits := [path / name for name in SPLITS if _table(path / name) is not None]:
        return _read_split(path, splits)
    if not len(pictures := Pictures(path)):
        raise UserError(f"{path}: no pictures in the folder ({', '.join(PICTURES)})")
    return pictures


def _read_split(folder: Path, splits: Sequence[Path]) -> Records:
    chosen, *others = splits
    if others and chosen.name != "train":
        names = ", ".join(split.name for split in splits)
        raise UserError(f"{folder}: has the splits {names}; name one, folder:{chosen}")
    if others:
        say_once(f"{folder}: {chosen.name} is read, and not {', '.join(f'folder:{split}' for split in others)}")
    return open_folder(chosen)


def _read(table: Path) -> Records:
    if table.suffix == ".parquet":
        return open_rows(str(table))
    return read_json(table) if table.suffix in (".json", ".jsonl") else read_table(table)


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _below(folder: Path) -> Iterator[str]:
    """The pictures below a folder, those that links lead to included. Raises UserError where a folder may not be read."""

    def refused(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    seen = set[tuple[int, int]]()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refused):
        about = Path(parent).stat()
        if (about.st_dev, about.st_ino) in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders.sort()
        for name in names:
            if name.rpartition(".")[2].lower() in PICTURES and not name.startswith("."):
                yield str(Path(parent, name).relative_to(folder))
