"""Which format a file, a folder or an address has, when nobody says: by its name's ending and its first record."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mplug_owl.data.sources import coco, folder, formats, hub, owleval
from mplug_owl.data.sources.files import is_pattern, is_remote, short_name, skip_broken
from mplug_owl.data.sources.json_file import read_json
from mplug_owl.data.sources.records import Records, check_file, ending
from mplug_owl.data.sources.table import read_table
from mplug_owl.errors import BadSample, UserError
from mplug_owl.model.images import expand_home

_ENDINGS = {".tar": "webdataset", ".parquet": "parquet", ".txt": "text", ".csv": "captions", ".tsv": "captions"}
_TABLES = (".csv", ".tsv")
# Damaged records in front do not hide the format of the others.
_LOOKED_AT = 100


class UnrecognisedError(UserError):
    """Data whose format has to be said."""


def recognise(spec: str) -> str:
    """The name of the format of `spec`. Raises UserError, or UnrecognisedError where naming a format helps."""
    spec, _ = skip_broken(spec)
    kind = ending(short_name(spec))
    path = expand_home(spec)
    if kind in _TABLES and path.is_file():
        return _recognised_table(path)
    if kind in _ENDINGS and (is_remote(spec) or is_pattern(spec) or not path.is_dir()):
        return _ENDINGS[kind]
    if is_remote(spec):
        raise UnrecognisedError(f"{spec}: an address of neither .tar nor .parquet files")
    if path.is_dir():
        return _recognised_folder(path)
    if not kind and not path.exists():
        raise UserError(f"{spec}: no such file or folder; data are named FORMAT:PATH, such as captions:pairs.jsonl")
    check_file(path)
    if coco.is_coco(path):
        return "coco"
    records = read_json(path)
    try:
        return _recognised_records(records, path)
    except BadSample as error:
        if kind in (".json", ".jsonl") and "no known format" not in str(error):
            raise UserError(str(error)) from None
        raise UnrecognisedError(str(error)) from None


def _recognised_records(records: Records, path: Path) -> str:
    """The format of the first record that has one. Raises BadSample, the first record's, where none of the first has."""
    errors = list[BadSample]()
    for index in range(min(len(records), _LOOKED_AT)):
        try:
            record = records[index]
            return "owleval" if owleval.is_question(record, path) else formats.recognise(record, records.location(index))
        except BadSample as error:
            errors.append(error)
    raise errors[0]


def _recognised_table(path: Path) -> str:
    """Captions unless the records are something else. Broken ones say so when they are read."""
    try:
        return _recognised_records(read_table(path), path)
    except BadSample:
        return "captions"


def _recognised_folder(path: Path) -> str:
    kinds: Sequence[tuple[str, Callable[[Path], bool]]] = [
        ("owleval", owleval.is_folder),
        ("hub", hub.is_saved),
        ("webdataset", lambda path: any(path.glob("*.tar"))),
        ("parquet", lambda path: any(path.glob("*.parquet"))),
        ("folder", folder.is_folder),
        # A clone of a repository has its files in folders of their own.
        ("webdataset", lambda path: any(path.rglob("*.tar"))),
        ("parquet", lambda path: any(path.rglob("*.parquet"))),
    ]
    for name, matches in kinds:
        if matches(path):
            return name
    raise UnrecognisedError(
        f"{path}: a folder; expected a file, or a folder of pictures, shards (.tar) or .parquet, or OwlEval's"
    )
