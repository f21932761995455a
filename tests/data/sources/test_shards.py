"""Shards: samples in any order, every odd name and every damage."""

import json
import pickle
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mplug_owl import Picture
from mplug_owl.conversation import caption
from mplug_owl.data.sources import check, read
from tests.data.sources.layouts import every, jpeg, sample, shard, tar


def test_shards_are_one_source_in_any_order(shards: Path) -> None:
    source = read(f"webdataset:{shards}/{{00000..00002}}.tar")
    assert [len(source), check(source)] == [6, []]
    for index, (number, place) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)][::-1]):
        key = f"{number:05d}{place:04d}"
        found = caption(jpeg(number * 7 + place), f"picture {place} of shard {number}", f"{number:05d}.tar, {key}.jpg")
        assert source[5 - index] == found
    with pytest.raises(IndexError):
        source[6]


@pytest.mark.parametrize("names", ["", "*.tar", "{00000..00002}.tar", "{00000,00001,00002}.tar", "0000[0-2].tar"])
def test_shards_are_named_in_many_ways(shards: Path, names: str) -> None:
    for spec in (f"webdataset:{shards}/{names}", f"{shards}/{names}"):
        assert read(spec).name.startswith("webdataset:")
        assert len(read(spec)) == 6
    assert len(read(f"{shards}/00001.tar")) == 1


def test_headers_are_read_once(shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = every(read(f"{shards}/*.tar"))
    assert len(list(cache.glob("*.npy"))) == 3
    monkeypatch.setattr("mplug_owl.data.sources.shards._members", lambda file: pytest.fail("read again"))
    assert every(read(f"{shards}/*.tar")) == before


def test_a_changed_shard_is_read_anew(shards: Path) -> None:
    path = shards / "00001.tar"
    assert len(read(str(path))) == 1
    path.write_bytes(tar(shard(1, 2)))
    assert len(read(str(path))) == 2


def test_shards_travel_light_and_are_read_by_many_processes(shards: Path) -> None:
    source = read(f"webdataset:{shards}/*.tar")
    before = every(source)
    assert len(pickle.dumps(source)) < 2_000
    assert every(pickle.loads(pickle.dumps(source))) == before
    loader = DataLoader(source, batch_size=None, sampler=[5, 0, 3, 1], num_workers=2)
    assert list(loader) == [before[index] for index in (5, 0, 3, 1)]


def test_names_in_shards(tmp_path: Path) -> None:
    long = "a/" * 60 + "k" * 120
    members = {
        f"{long}.JPG": jpeg(1),
        f"{long}.txt": b"long",
        "b/x.y.jpg": jpeg(2),  # the ending is all that follows the first dot, so this is no picture
        "b/z.png": jpeg(3),
        "b/z.txt": "Eule aus Käse".encode(),
        "c/z.png": jpeg(4),
        "c/z.json": b'{"text": "another z"}',
        "c/.hidden.jpg": jpeg(5),
    }
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        (tmp_path / "a.tar").write_bytes(tar(members, format=form))
        source = read(str(tmp_path / "a.tar"))
        assert [talk.answers[0] for talk in every(source)] == ["long", "Eule aus Käse", "another z"]
        assert [talk.name for talk in every(source)] == [f"a.tar, {long}.jpg", "a.tar, b/z.png", "a.tar, c/z.png"]


def test_shards_with_talks_in_their_json(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
    (tmp_path / "a.tar").write_bytes(tar({"0.jpg": jpeg(), "0.json": json.dumps({"conversations": turns}).encode()}))
    talk = read(f"{tmp_path}/a.tar")[0]
    assert talk.messages[0].parts == (Picture(jpeg()), "What is it?")


def test_bad_samples_of_a_shard_are_named_one_by_one(tmp_path: Path) -> None:
    members = {
        **sample(3, 0),
        "1.txt": b"no picture",
        "2.jpg": jpeg(),
        "3.jpg": jpeg(),
        "3.txt": b"\xff",
        "4.jpg": jpeg(),
        "4.json": b'{"caption": null}',
        "5.jpg": jpeg(),
        "5.json": b"{",
        "6.jpg": jpeg()[:-200],
        "6.txt": b"cut short",
        "7.jpg": b"",
        "7.txt": b"empty",
        "8.jpg": jpeg(),
        "8.txt": b" \n",
        "9.jpg": jpeg(),
        "9.json": b"[]",
        **sample(3, 1),
    }
    (tmp_path / "00003.tar").write_bytes(tar(members))
    source = read(f"{tmp_path}/00003.tar")
    assert len(source) == 11
    assert check(source) == [
        "00003.tar, 1.txt: no picture beside it (jpg, jpeg, png, webp, gif, bmp, tif, tiff, ppm)",
        "00003.tar, 2.jpg: no 2.txt or 2.json beside it",
        "00003.tar, 3.txt: not UTF-8 text (byte 0xff at 0)",
        "00003.tar, 4.jpg: field 'caption' is null; expected text",
        "00003.tar, 5.json: not JSON (Expecting property name enclosed in double quotes at column 2)",
        "00003.tar, 6.jpg: the picture is damaged or cut short",
        "00003.tar, 7.jpg: the file is empty (0 bytes)",
        "00003.tar, 8.jpg: no words to learn; the text is empty",
        "00003.tar, 9.json: a list; expected an object with a caption",
    ]


def test_broken_shards_are_all_named_at_once(shards: Path) -> None:
    whole = (shards / "00000.tar").read_bytes()
    (shards / "00003.tar").write_bytes(whole[:900])
    (shards / "00004.tar").write_bytes(whole[:1536] + b"x" * 512 + whole[2048:])
    (shards / "00005.tar").write_bytes(b"<html>not found</html>" * 50)
    (shards / "00006.tar").write_bytes(b"\x1f\x8b" + whole)
    with pytest.raises(ValueError, match=r"3\.tar: damaged or cut short at byte 900; fetch it anew\n") as error:
        read(f"{shards}/*.tar")
    lines = str(error.value).splitlines()
    assert [Path(line.split(":")[0]).name for line in lines] == [f"0000{number}.tar" for number in (3, 4, 5, 6)]
    for line, complaint in zip(lines[1:], ("damaged or cut", "not a tar file", "compressed tar"), strict=True):
        assert complaint in line


@given(st.data())
def test_a_shard_cut_anywhere_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = tar({f"{name}.{ending}": b"x" * 700 for name in "ab" for ending in ("jpg", "txt")})
    end = 4 * (512 + 1024)
    length = data.draw(st.integers(1, end - 1))
    path = tmp_path_factory.mktemp("cut") / "a.tar"
    path.write_bytes(whole[:length])
    if length % 1536 in (0, *range(1212, 1536)):  # between two members there is nothing to tell an early end by
        assert len(read(str(path))) == -(-length // 1536) // 2 + -(-length // 1536) % 2
        return
    with pytest.raises(ValueError, match=r"damaged or cut short|not a tar file"):
        read(str(path))


def test_missing_shards(shards: Path) -> None:
    with pytest.raises(ValueError, match=r"00003\.tar: no such file, nor 1 more of 5$"):
        read(f"webdataset:{shards}/{{00000..00004}}.tar")
    with pytest.raises(ValueError, match=r"z\*\.tar: no such file; nothing matches the pattern"):
        read(f"webdataset:{shards}/z*.tar")
    (shards / "00001.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"00001\.tar: the file is empty"):
        read(f"webdataset:{shards}/*.tar")
    (shards / "00001.tar").write_bytes(tar({"readme.md": b"hello"}))
    with pytest.raises(ValueError, match="no pictures with words in it"):
        read(f"webdataset:{shards}/00001.tar")
