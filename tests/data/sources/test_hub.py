"""Hugging Face's data sets: saved to disk, by name, in memory."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from mplug_owl.conversation import caption
from mplug_owl.data.sources import check, read
from mplug_owl.data.sources.source import FileSource
from mplug_owl.errors import UserError
from tests.data.sources.layouts import ROWS, jpeg


@pytest.fixture
def saved() -> Callable[..., Path]:
    """Save a data set of pictures and captions by `save_to_disk`."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    image, words = datasets.Image(), datasets.Value("string")
    features = datasets.Features({"image": image, "caption": words, "id": datasets.Value("int64")})

    def save(path: Path, *splits: str) -> Path:
        rows = [{**row, "id": number} for number, row in enumerate(ROWS)]
        rows[2] = {**rows[2], "image": {"bytes": b"broken", "path": None}}
        made = datasets.Dataset.from_list(rows, features=features)
        (datasets.DatasetDict(dict.fromkeys(splits, made)) if splits else made).save_to_disk(path)
        return path

    return save


def test_a_data_set_saved_to_disk(tmp_path: Path, saved: Callable[..., Path]) -> None:
    path = saved(tmp_path / "photos")
    for spec in (str(path), f"hub:{path}"):
        source = read(spec)
        assert source.name == f"hub:{path}"
        assert check(source) == ["photos, row 3: not a picture in a known format (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM, AVIF)"]
        assert source[5] == caption(jpeg(5), "picture 5", "photos, row 6")
    assert len(pickle.dumps(source)) < 5_000
    assert list(DataLoader(source, batch_size=None, sampler=[5, 1], num_workers=1)) == [source[5], source[1]]


def test_splits(tmp_path: Path, saved: Callable[..., Path]) -> None:
    path = saved(tmp_path / "photos", "test", "train")
    assert read(str(path))[0].name == "photos:train, row 1"
    assert read(f"hub:{path}:test")[0].name == "photos:test, row 1"
    with pytest.raises(UserError, match="no split val; it has test, train"):
        read(f"hub:{path}:val")
    path = saved(tmp_path / "parts", "one", "two")
    with pytest.raises(UserError, match=r"has the splits one, two; name one, hub:.*:one"):
        read(str(path))


def test_a_folder_that_only_datasets_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"instruction": "Say hi.", "output": "Hi."}\n' * 2)
    source = read(f"hub:{tmp_path}/set:train")
    assert (len(source), source[1].answers, source[1].name) == (2, ("Hi.",), "set:train, row 2")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder, and no name on the hub"):
        read(f"hub:{tmp_path}/nothing")


@pytest.mark.parametrize("damage", [b"", b"{", b"{}", b"[]", b"\xff", b'{"_data_files": [{"filename": "gone.arrow"}]}'])
@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_damaged_data_set_is_one_sentence_or_whole(
    tmp_path: Path, saved: Callable[..., Path], name: str, damage: bytes
) -> None:
    path = saved(tmp_path / "photos")
    (path / name).write_bytes(damage)
    if name == "dataset_info.json" and len(damage) > 1 and damage[:1] == b"{":  # an object: what it says is in the data as well
        assert len(read(f"hub:{path}")) == 7
    else:
        with pytest.raises(UserError, match=r"^hub:"):
            read(f"hub:{path}")


def test_a_streamed_data_set_says_what_to_do(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from mplug_owl.data.sources.hub import HubRecords

    streamed = datasets.IterableDataset.from_generator(lambda: iter(ROWS))
    with pytest.raises(UserError, match=r"photos: a streamed data set .* parquet:hf://datasets/USER/NAME/"):
        HubRecords(streamed, "photos")


def test_a_data_set_in_memory_fits_the_door() -> None:
    datasets = pytest.importorskip("datasets")
    from mplug_owl.data.sources import formats
    from mplug_owl.data.sources.hub import HubRecords

    made = datasets.Dataset.from_list(ROWS)
    source = FileSource("mine", HubRecords(made, "mine"), formats.captions)
    assert source[6] == caption(jpeg(6), "picture 6", "mine, row 7")
