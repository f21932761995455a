"""Shards: samples in any order, every odd name and every damage."""

import io
import json
import pickle
import re
import tarfile
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from mplug_owl import Picture
from mplug_owl.conversation import caption
from mplug_owl.data.sources import check, read
from mplug_owl.data.sources.shard_contents import contents_of
from mplug_owl.data.sources.shards import open_shards
from mplug_owl.errors import BadSample, UserError
from tests.data.sources.layouts import broken, every, jpeg, sample, shard, tar


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
    monkeypatch.setattr("mplug_owl.data.sources.shard_contents.tars", lambda file: pytest.fail("read again"))
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
        "b/x.y.jpg": jpeg(2),  # WebDataset's ending is all that follows the first dot; ours is the last one
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
        "00003.tar, 1.txt: no picture beside it (jpg, jpeg, png, webp, gif, bmp, tif, tiff, ppm, avif, heic, heif)",
        "00003.tar, 2.jpg: no 2.txt or 2.json beside it",
        "00003.tar, 3.txt: not UTF-8 text (byte 0xff at 0)",
        "00003.tar, 4.jpg: field 'caption' is null; expected text",
        "00003.tar, 5.json: not JSON (Expecting property name enclosed in double quotes at column 2)",
        "00003.tar, 6.jpg: the picture is damaged or cut short",
        "00003.tar, 7.jpg: the file is empty (0 bytes)",
        "00003.tar, 8.jpg: no words to learn; the text is empty",
        "00003.tar, 9.json: a list; expected an object with a caption",
    ]


def test_broken_shards_are_all_named_at_once(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (shards / "00000.tar").read_bytes()
    (shards / "00003.tar").write_bytes(whole[:900])
    (shards / "00004.tar").write_bytes(whole[:1536] + b"x" * 512 + whole[2048:])
    (shards / "00005.tar").write_bytes(b"<html>not found</html>" * 50)
    (shards / "00006.tar").write_bytes(b"\x1f\x8b" + whole)
    complaints = ["damaged or cut short at byte 900; fetch it anew", "damaged or cut", "not a tar file", "packed by gzip"]
    with pytest.raises(UserError) as error:
        read(f"{shards}/*.tar")
    *lines, cure = str(error.value).splitlines()
    for number, (line, complaint) in enumerate(zip(lines, complaints, strict=True), 3):
        assert re.match(rf".*/0000{number}\.tar: {complaint}", line)
    assert cure == "#skip-broken after the path reads the other shards"

    (shards / "00007.tar").touch()
    source = read(f"webdataset:{shards}/{{00000..00008}}.tar#skip-broken")
    assert (len(source), check(source)) == (6, [])
    said = capsys.readouterr().err.splitlines()
    left_out = [Path(line.removeprefix("left out: ").split(":")[0]).name for line in said]
    assert sorted(left_out) == [f"0000{number}.tar" for number in range(3, 9)]
    read(f"webdataset:{shards}/{{00000..00008}}.tar#skip-broken")
    assert capsys.readouterr().err == ""  # said once
    with pytest.raises(UserError, match=r"00003\.tar: damaged"):
        read(f"webdataset:{shards}/00003.tar#skip-broken")


def contents(path: Path, members: dict[str, bytes]) -> tuple[list[str], str]:
    """The names of a shard's samples, and what is said of the files that are passed over."""
    path.write_bytes(tar(members))
    found = open_shards(str(path))
    return [found.location(index) for index in range(len(found))], found.passed_over


def test_dots_in_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("good.jpg", "good.txt", "photo.v2.jpg", "photo.v2.txt", "22.05.png", "22.05.txt")
    assert contents(tmp_path / "a.tar", dict.fromkeys(names, b"owl")) == (
        ["a.tar, good.jpg", "a.tar, photo.v2.jpg", "a.tar, 22.05.png"],
        "",
    )
    assert capsys.readouterr().err == ""


def test_what_is_passed_over_is_counted_and_said_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a.jpg", "a.seg.png", "a.txt", "a.webp", "b.jpg", "b.caption", "b.cls", "c.npy", "._d.jpg", ".DS_Store", "readme")
    found, passed_over = contents(tmp_path / "a.tar", dict.fromkeys(names, b"owl"))
    assert found == ["a.tar, a.jpg", "a.tar, b.jpg"]
    assert passed_over == (
        "passed over 7 files: 3 neither pictures nor words (b.cls), 2 hidden (._d.jpg), "
        "1 a second picture or text of their sample (a.webp), 1 without a picture or words of their whole name (a.seg.png)"
    )
    assert capsys.readouterr().err == f"{tmp_path}/a.tar: {passed_over}\n"
    assert open_shards(f"{tmp_path}/a.tar").passed_over == passed_over  # as it was kept
    assert capsys.readouterr().err == ""  # and said once
    with pytest.raises(UserError, match=r"no pictures with words in it; .*; passed over 2 files: .*\(s0\.input\.jpg\)"):
        contents(tmp_path / "b.tar", {"s0.input.jpg": b"owl", "s0.outputs.txt": b"owl"})


def test_a_link_is_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in {"a.jpg": jpeg(), "a.txt": b"owl", "b.jpg": jpeg()}.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
        about = tarfile.TarInfo("b.txt")
        about.type, about.linkname = tarfile.LNKTYPE, "a.txt"
        archive.addfile(about)
    found = open_shards(f"{tmp_path}/a.tar")
    assert found.passed_over == "passed over 1 file: 1 links (b.txt)"
    with pytest.raises(BadSample, match=r"b\.jpg: no b\.txt"):
        found[1]


def test_an_unsorted_shard_has_its_pictures_joined_with_their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {"a.jpg": jpeg(1), "b.jpg": jpeg(2), "a.txt": b"one", "b.txt": b"two"}
    for near in (10**6, 0):  # one request or two
        monkeypatch.setattr("mplug_owl.data.sources.shards.NEAR", near)
        (tmp_path / "a.tar").write_bytes(tar(members))
        source = read(f"{tmp_path}/a.tar")
        assert [(talk.pictures[0].source, talk.answers[0]) for talk in every(source)] == [(jpeg(1), "one"), (jpeg(2), "two")]


def test_words_are_never_given_to_another_picture_of_the_same_name(tmp_path: Path) -> None:
    parts = [tar({"a.jpg": jpeg(1)}), tar({"a.txt": b"of the second", "a.jpg": jpeg(2)})]
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    assert broken(read(f"{tmp_path}/a.tar")) == {0: "a.tar, a.jpg: no a.txt or a.json beside it"}


def test_a_kept_index_that_is_damaged_is_made_anew(shards: Path, cache: Path) -> None:
    """And what was passed over in a shard, which is kept in a file beside it."""
    (shards / "00002.tar").write_bytes(tar({**shard(2, 2), "readme.md": b"hello"}))
    before, passed_over = every(read(f"{shards}/*.tar")), open_shards(f"{shards}/*.tar").passed_over
    assert "readme.md" in passed_over
    for pattern, count in (("*.npy", 3), ("*.json", 1)):
        for damage in (b"", b"\x93NUMPY", b"owl"):
            kept = list(cache.glob(pattern))
            assert len(kept) == count
            for file in kept:
                file.write_bytes(damage)
            contents_of.cache_clear()
            assert every(read(f"{shards}/*.tar")) == before
            assert open_shards(f"{shards}/*.tar").passed_over == passed_over


def test_a_full_disk_makes_shards_slow_and_not_wrong(shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*how: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert check(read(f"{shards}/*.tar")) == []
    assert list(cache.iterdir()) == []


def test_missing_shards(shards: Path) -> None:
    with pytest.raises(UserError, match=r"00003\.tar: no such file, nor 1 more of 5$"):
        read(f"webdataset:{shards}/{{00000..00004}}.tar")
    with pytest.raises(UserError, match=r"z\*\.tar: no such file; nothing matches the pattern"):
        read(f"webdataset:{shards}/z*.tar")
    (shards / "00001.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"00001\.tar: the file is empty"):
        read(f"webdataset:{shards}/*.tar")
    (shards / "00001.tar").write_bytes(tar({"readme.md": b"hello"}))
    with pytest.raises(UserError, match="no pictures with words in it"):
        read(f"webdataset:{shards}/00001.tar")


# The shards of ../shared/cases

SAMPLES = {
    "avif_and_others": ["a.avif", "b.jpg", "c.heic", "d.txt"],
    "dots_in_keys": ["good.jpg", "photo.v2.jpg", "22.05.png"],
    "dotted_folder": ["train.v1/0001.jpg", "train.v1/0002.jpg"],
    "duplicate_names": ["a.jpg", "a.jpg"],
    "mac_dust": ["./a.jpg"],
    "two_pictures": ["a.jpg", "b.txt"],
    "two_tars_in_one": ["a.jpg", "a.jpg", "a.jpg", "a.jpg"],
    "unsorted": ["a.jpg", "b.jpg"],
    "uppercase": ["a.jpg", "b.jpeg"],
}
REFUSED = {
    "gzipped_named_tar": "packed by gzip",
    "named_fields": "no pictures with words in it",
    "no_end_blocks": "without the two empty blocks that end a tar file",
    "one_of_three_cut": r"00002\.tar: damaged or cut short at byte 1,500; fetch it anew\n#skip-broken after the path",
}
BAD = {
    "avif_and_others": ["00000.tar, d.txt: no picture beside it"],
    "json_only": ["00000.tar, a.json: no picture", "00000.tar, c.jpg: ", "00000.tar, d.jpg: no known", "00000.tar, e.json: "],
    "latin_text": ["00000.tar, a.txt: not UTF-8 text"],
    "several_texts": ["00000.tar, a.jpg: no a.txt"],
    "two_pictures": ["00000.tar, b.txt: no picture beside it"],
}


def test_every_shard_of_the_cases_is_right_or_refused(shared: Path) -> None:
    for folder in sorted((shared / "cases" / "shards").iterdir()):
        if (reason := REFUSED.get(folder.name)) is not None:
            with pytest.raises(UserError, match=reason):
                read(str(folder))
            continue
        source = read(str(folder))
        found = [talk.split(", ")[1] for talk in map(source.records.location, range(len(source)))]
        assert found == SAMPLES.get(folder.name, found)
        problems = list(broken(source).values())
        assert len(problems) == len(BAD.get(folder.name, []))
        assert all(problem.startswith(start) for problem, start in zip(problems, BAD.get(folder.name, []), strict=True))
    assert len(read(f"webdataset:{shared}/cases/shards/one_of_three_cut#skip-broken")) == 4
