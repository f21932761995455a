"""Pictures with words at scale: shards, parquet, COCO, folders and Hugging Face's data sets, small ones of the real layouts."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mplug_owl import Picture
from mplug_owl.conversation import caption
from mplug_owl.data.sources import files
from mplug_owl.data.sources.source import FileSource, Source, check, read
from tests.tiny import picture


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is kept in the home of who runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "mplug-owl"


def jpeg(seed: int = 0) -> bytes:
    picture(seed).save(file := io.BytesIO(), "JPEG")
    return file.getvalue()


def every(source: Source) -> list[Any]:
    return [source[index] for index in range(len(source))]


def broken(source: Source) -> dict[int, str]:
    """The conversations that cannot be had, and why."""
    problems = {}
    for index in range(len(source)):
        try:
            source[index]
        except ValueError as error:
            problems[index] = str(error)
    return problems


# Shards


def tar(members: Mapping[str, bytes], **how: Any) -> bytes:
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w", **how) as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return file.getvalue()


def sample(shard: int, number: int) -> dict[str, bytes]:
    """One sample as img2dataset writes it."""
    key, words = f"{shard:05d}{number:04d}", f"picture {number} of shard {shard}"
    about = {"caption": words, "url": "https://example.com/a.jpg", "key": key, "status": "success", "width": 40, "height": 30}
    return {f"{key}.jpg": jpeg(shard * 7 + number), f"{key}.json": json.dumps(about).encode(), f"{key}.txt": words.encode()}


def shard(number: int, count: int = 3) -> dict[str, bytes]:
    return {name: content for index in range(count) for name, content in sample(number, index).items()}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of 3, 1 and 2 samples, and what else img2dataset leaves beside them."""
    for number, count in enumerate((3, 1, 2)):
        (tmp_path / f"{number:05d}.tar").write_bytes(tar(shard(number, count)))
        (tmp_path / f"{number:05d}_stats.json").write_text("{}")
    return tmp_path


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


@given(first=st.integers(0, 120), count=st.integers(1, 12), width=st.integers(1, 5))
def test_a_range_counts_as_a_shell_does(first: int, count: int, width: int) -> None:
    names = [f"{number:0{width}}" for number in range(first, first + count)]
    spelled = list(files._spelled_out(f"a/{{{names[0]}..{names[-1]}}}.tar"))
    if len(names[0]) == len(names[-1]):
        assert spelled == [f"a/{name}.tar" for name in names]
    assert [int(name[2:-4]) for name in spelled] == list(range(first, first + count))
    assert list(files._spelled_out(f"a/{{{','.join(names)},}}.tar")) == [f"a/{name}.tar" for name in [*names, ""]]


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


def test_a_cache_that_cannot_be_written_is_said_to_be_so(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="set XDG_CACHE_HOME to a folder that can be written to"):
        read(f"{shards}/00000.tar")


# Shards and tables in stores


class Streaming(MemoryFileSystem):
    """A store that reads from the start and no other way, as some web servers do."""

    protocol = "streaming"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("streaming://", "memory://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"streaming:/{name}"

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if start is not None:
            raise NotImplementedError("no ranges")
        return super().cat_file(path)


fsspec.register_implementation("streaming", Streaming, clobber=True)


@pytest.fixture
def store() -> Iterator[MemoryFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.mark.parametrize("names", ["", "*.tar", "{00000..00001}.tar"])
@pytest.mark.parametrize("protocol", ["memory", "streaming", "simplecache::memory"])
def test_shards_in_a_store(store: MemoryFileSystem, protocol: str, names: str) -> None:
    for number in range(2):
        store.pipe_file(f"/laion/{number:05d}.tar", tar(shard(number)))
    source = read(f"webdataset:{protocol}://laion/{names}")
    assert (len(source), check(source)) == (6, [])
    assert (source[4].name, source[4].answers) == ("00001.tar, 000010001.jpg", ("picture 1 of shard 1",))
    assert pickle.loads(pickle.dumps(source))[4] == source[4]


def test_a_sample_is_one_small_request(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe_file("/laion/00000.tar", tar(shard(0, 50)))
    source = read("webdataset:memory://laion/00000.tar")
    asked: list[int] = []
    whole = MemoryFileSystem.cat_file

    def counted(self: Any, path: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return whole(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    assert source[31].answers == ("picture 31 of shard 0",)
    assert len(asked) == 1
    assert asked[0] < len(jpeg()) + 3_000


def test_the_network_is_asked_again(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PAUSES", (0.0, 0.0))
    store.pipe_file("/laion/00000.tar", tar(shard(0)))
    source = read("webdataset:memory://laion/00000.tar")
    whole, failures = MemoryFileSystem.cat_file, [OSError("reset"), OSError("reset")]

    def flaky(self: Any, path: str, start: int, end: int) -> bytes:
        if failures:
            raise failures.pop()
        return whole(self, path, start, end)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
    assert source[0].answers == ("picture 0 of shard 0",)
    failures[:] = [OSError("reset")] * 3
    # No ValueError: the sample is not to blame.
    with pytest.raises(OSError, match="reset"):
        source[0]


def test_what_a_store_does_not_have(store: MemoryFileSystem) -> None:
    with pytest.raises(ValueError, match=r"^memory://laion/00000\.tar: no such file$"):
        read("webdataset:memory://laion/00000.tar")
    with pytest.raises(ValueError, match=r"laion/\*\.tar: no such file; nothing matches"):
        read("webdataset:memory://laion/")
    with pytest.raises(ValueError, match=r"nowhere://a\.tar: Protocol not known: nowhere"):
        read("nowhere://a.tar")
    with pytest.raises(ValueError, match=r"an address of neither \.tar nor \.parquet files; name the format"):
        read("memory://laion/readme.md")
    for spec in ("captions:memory://laion/photos.csv", "text:memory://laion/book.txt"):
        with pytest.raises(ValueError, match=r"from addresses only \.tar and \.parquet files are read; fetch it"):
            read(spec)


def test_shards_of_a_web_server(shards: Path) -> None:
    pytest.importorskip("aiohttp")
    import functools
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        """Knows no ranges, as Python's own server does not."""

        def log_message(self, *words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=shards))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        source = read(f"webdataset:http://127.0.0.1:{server.server_port}/{{00000..00002}}.tar")
        assert (len(source), check(source)) == (6, [])
    finally:
        server.shutdown()
        server.server_close()


# Parquet


ROWS = [{"image": {"bytes": jpeg(seed), "path": f"{seed}.jpg"}, "caption": f"picture {seed}"} for seed in range(7)]


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 3) -> Path:
    table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
    pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=group)
    return path


def test_parquet_with_pictures_in_it(tmp_path: Path) -> None:
    parquet(tmp_path / "train-0.parquet", ROWS[:5])
    parquet(tmp_path / "train-1.parquet", [{**row, "image": row["image"]["bytes"]} for row in ROWS[5:]])
    for spec in (f"{tmp_path}", f"parquet:{tmp_path}/train-*.parquet", f"captions:{tmp_path}"):
        source = read(spec)
        assert check(source) == []
        assert [talk.answers[0] for talk in every(source)] == [f"picture {seed}" for seed in range(7)]
        assert source[6].pictures == (Picture(jpeg(6)),)
        assert [source[4].name, source[5].name] == ["train-0.parquet, row 5", "train-1.parquet, row 1"]


def test_parquet_as_img2dataset_writes_it(tmp_path: Path) -> None:
    row = {"url": "https://example.com/a.jpg", "key": "000000000", "status": "success", "caption": "a cat", "jpg": jpeg()}
    assert read(str(parquet(tmp_path / "00000.parquet", [row])))[0] == caption(jpeg(), "a cat", "00000.parquet, row 1")


def test_parquet_with_pictures_beside_it(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(jpeg())
    path = parquet(tmp_path / "a.parquet", [{"image": "cat.jpg", "text": "a cat"}, {"image": "dog.jpg", "text": "a dog"}])
    source = read(str(path))
    assert source[0].pictures == (Picture(tmp_path / "cat.jpg"),)
    assert list(broken(source)) == [1]
    assert check(source)[0].startswith("a.parquet, row 2: no picture dog.jpg; looked for")


TURNS = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
CHAT = [
    {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
]
MARKED = [{"role": "user", "content": "<image>\nWhat is it?"}, {"role": "assistant", "content": "A cat."}]


@pytest.mark.parametrize(
    "row",
    [
        {"image": ROWS[0]["image"], "conversations": TURNS},
        {"images": [ROWS[0]["image"]], "conversations": TURNS},
        {"images": [ROWS[0]["image"]], "messages": CHAT},
        {"image": ROWS[0]["image"], "messages": MARKED},
    ],
)
def test_parquet_with_talks(tmp_path: Path, row: dict[str, Any]) -> None:
    talk = read(str(parquet(tmp_path / "a.parquet", [{**row, "embedding": [0.5, 0.25]}])))[0]
    assert talk.pictures == (Picture(jpeg()),)
    assert talk.prompt(reply=False).endswith("\nHuman: <image>\nHuman: What is it?\nAI: A cat.")


def test_parquet_of_words(tmp_path: Path) -> None:
    rows = [{"instruction": "Add.", "input": "1 1", "output": "2"}]
    assert read(str(parquet(tmp_path / "a.parquet", rows)))[0].prompt(reply=False).endswith("Human: Add.\n1 1\nAI: 2")
    assert read(f"text:{parquet(tmp_path / 'b.parquet', [{'text': 'One.'}])}")[0].answers == ("One.",)


def test_parquet_is_read_by_row_groups(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mplug_owl.data.sources import parquet as module

    source = read(str(parquet(tmp_path / "a.parquet", ROWS)))
    read_group, groups = module._read, list[int]()
    monkeypatch.setattr(
        module, "_read", lambda file, group, location: groups.append(group) or read_group(file, group, location)
    )
    source = pickle.loads(pickle.dumps(source))
    every(source)
    assert groups == [0, 1, 2]
    assert len(pickle.dumps(source)) < 2_000
    source, groups[:] = pickle.loads(pickle.dumps(source)), []
    monkeypatch.setattr(module, "HELD_BYTES", 1)
    assert [source[index].answers[0] for index in (6, 0, 5, 1)] == [f"picture {seed}" for seed in (6, 0, 5, 1)]
    assert groups == [2, 0, 1, 0]
    before, groups[:] = every(source), []
    for _ in range(3):  # what comes round again is mapped from the cache
        assert [source[index] for index in (6, 0, 5, 1, 3)] == [before[index] for index in (6, 0, 5, 1, 3)]
    assert groups == []
    assert len(list(cache.glob("*.arrow"))) == 3
    assert list(DataLoader(source, batch_size=None, sampler=[4, 2], num_workers=1)) == [source[4], source[2]]


def test_a_full_disk_makes_parquet_slow_and_not_wrong(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read(str(parquet(tmp_path / "a.parquet", ROWS)))
    before = every(source)

    def full(*how: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mplug_owl.data.sources.parquet.HELD_BYTES", 1)
    monkeypatch.setattr("pyarrow.OSFile", full)
    assert [source[index] for index in (6, 0, 6, 0, 5)] == [before[index] for index in (6, 0, 6, 0, 5)]
    assert list(cache.glob("*.part")) == list(cache.glob("*.arrow")) == []


def test_parquet_in_a_store(store: MemoryFileSystem, tmp_path: Path) -> None:
    store.pipe_file("/set/a.parquet", parquet(tmp_path / "a.parquet", ROWS).read_bytes())
    assert check(read("parquet:memory://set/*.parquet")) == []
    assert check(read("captions:memory://set/")) == []


def test_parquet_that_is_broken(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"a\.parquet: not a whole parquet file"):
        read(str(path))
    path.write_bytes(whole[:200] + bytes(400) + whole[600:])
    problems = check(read(str(path)))
    assert problems[0].startswith("a.parquet, row 1")
    with pytest.raises(ValueError, match="no records in the file"):
        read(str(parquet(path, ROWS[:1] * 0 or [{"image": "a", "text": "b"}][:0])))


def test_parquet_of_addresses_names_the_tool_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="addresses of pictures, not pictures; fetch them with img2dataset"):
        read(str(parquet(tmp_path / "laion.parquet", [{"URL": "https://example.com/a.jpg", "TEXT": "a cat"}])))
    with pytest.raises(ValueError, match="no known format has the fields 'a'"):
        read(str(parquet(tmp_path / "a.parquet", [{"a": 1}])))


@pytest.mark.parametrize(("module", "spec"), [("pyarrow", "parquet:a.parquet"), ("datasets", "hub:lmms-lab/flickr30k")])
def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, spec: str) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(ValueError, match=rf"needs {module}, which is not installed; pip install 'mplug-owl\[data\]'"):
        read(spec)


# COCO


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """COCO's folders, with two pictures and three captions."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    for number in (139, 285):
        (tmp_path / "val2017" / f"{number:012d}.jpg").write_bytes(jpeg(number))
    images = [{"id": number, "file_name": f"{number:012d}.jpg", "width": 40, "height": 30} for number in (139, 285)]
    notes = [{"image_id": image, "id": 7 + note, "caption": f"note {note}\n"} for note, image in enumerate((285, 139, 285))]
    whole = {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": notes}
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(whole))
    return tmp_path / "annotations" / "captions_val2017.json"


def test_coco_is_one_conversation_an_annotation(coco: Path) -> None:
    for spec in (str(coco), f"coco:{coco}"):
        source = read(spec)
        assert (source.name, check(source)) == (f"coco:{coco}", [])
        assert [talk.answers[0] for talk in every(source)] == ["note 0", "note 1", "note 2"]
        assert source[1] == caption(coco.parents[1] / "val2017" / "000000000139.jpg", "note 1", source[1].name)
        assert source[1].name == "captions_val2017.json, annotation 2"
    coco.write_text(json.dumps(json.loads(coco.read_text()), indent=2))
    assert len(read(str(coco))) == 3
    assert pickle.loads(pickle.dumps(source))[1] == source[1]


def test_coco_that_is_broken(coco: Path) -> None:
    whole = json.loads(coco.read_text())
    whole["annotations"][0]["image_id"] = 5
    whole["annotations"][1]["caption"] = None
    coco.write_text(json.dumps({**whole, "annotations": [*whole["annotations"], "?"]}))
    assert check(read(str(coco))) == [
        "captions_val2017.json, annotation 1: image_id 5 is not among the file's images",
        "captions_val2017.json, annotation 2: field 'caption' is null; expected text",
        "captions_val2017.json, annotation 4: image_id None is not among the file's images",
    ]
    coco.write_text(json.dumps({**whole, "annotations": [{"image_id": 139, "bbox": [0, 0, 1, 1]}]}))
    with pytest.raises(ValueError, match=r"without a caption; expected COCO's captions_\*\.json"):
        read(str(coco))
    coco.write_text(json.dumps({**whole, "images": []}))
    with pytest.raises(ValueError, match="expected images and annotations"):
        read(str(coco))
    coco.write_text(json.dumps(whole))
    (coco.parents[1] / "val2017").rename(coco.parents[1] / "elsewhere")
    with pytest.raises(ValueError, match=r"no picture 000000000139\.jpg; looked for it in .*val2017"):
        read(str(coco))


# Folders of pictures


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "more").mkdir()
    for seed, name in enumerate(("b.jpg", "a.JPG", "more/c.jpeg")):
        (tmp_path / name).write_bytes(jpeg(seed))
        (tmp_path / name).with_suffix(".txt").write_text(f"words of {name}\n")
    (tmp_path / "notes.md").write_text("no picture")
    return tmp_path


def test_a_folder_with_a_text_beside_each_picture(photos: Path) -> None:
    for spec in (str(photos), f"folder:{photos}"):
        source = read(spec)
        assert (source.name, check(source)) == (f"folder:{photos}", [])
        assert every(source) == [caption(photos / name, f"words of {name}", name) for name in ("a.JPG", "b.jpg", "more/c.jpeg")]
    assert pickle.loads(pickle.dumps(source))[1] == source[1]
    (photos / "a.txt").unlink()
    (photos / "b.txt").write_bytes(b"\xff")
    assert check(source) == ["a.JPG: no a.txt beside it", "b.txt: not UTF-8 text (byte 0xff at 0)"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.csv", "image,caption\nb.jpg,a cat\nmore/c.jpeg,a dog\n"),
        ("captions.txt", "image,caption\nb.jpg,a cat\nmore/c.jpeg,a dog\n"),
        ("captions.jsonl", '{"image": "b.jpg", "caption": "a cat"}\n{"image": "more/c.jpeg", "caption": "a dog"}\n'),
        ("metadata.csv", "file_name,text\nb.jpg,a cat\nmore/c.jpeg,a dog\n"),
        ("metadata.jsonl", '{"file_name": "b.jpg", "text": "a cat"}\n{"file_name": "more/c.jpeg", "text": "a dog"}\n'),
    ],
)
def test_a_folder_with_a_table(photos: Path, name: str, content: str) -> None:
    (photos / name).write_text(content)
    source = read(str(photos))
    assert [(talk.pictures[0].source, talk.answers[0]) for talk in every(source)] == [
        (photos / "b.jpg", "a cat"),
        (photos / "more" / "c.jpeg", "a dog"),
    ]
    assert source[0].name.startswith(f"{name}, line ")


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pictures in the folder"):
        read(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match="a folder; expected a file, or a folder of pictures"):
        read(str(tmp_path))
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match="a file; expected a folder of pictures"):
        read(f"folder:{tmp_path}/a.jpg")


# Hugging Face's data sets


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
        assert check(source) == ["photos, row 3: not a picture in a known format (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)"]
        assert source[5] == caption(jpeg(5), "picture 5", "photos, row 6")
    assert len(pickle.dumps(source)) < 5_000
    assert list(DataLoader(source, batch_size=None, sampler=[5, 1], num_workers=1)) == [source[5], source[1]]


def test_splits(tmp_path: Path, saved: Callable[..., Path]) -> None:
    path = saved(tmp_path / "photos", "test", "train")
    assert read(str(path))[0].name == "photos:train, row 1"
    assert read(f"hub:{path}:test")[0].name == "photos:test, row 1"
    with pytest.raises(ValueError, match="no split val; it has test, train"):
        read(f"hub:{path}:val")
    path = saved(tmp_path / "parts", "one", "two")
    with pytest.raises(ValueError, match=r"has the splits one, two; name one, hub:.*:one"):
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
    with pytest.raises(ValueError, match="no such file or folder, and no name on the hub"):
        read(f"hub:{tmp_path}/nothing")


def test_a_streamed_data_set_says_what_to_do(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from mplug_owl.data.sources.hub import HubRecords

    streamed = datasets.IterableDataset.from_generator(lambda: iter(ROWS))
    with pytest.raises(ValueError, match=r"photos: a streamed data set .* parquet:hf://datasets/USER/NAME/"):
        HubRecords(streamed, "photos")


def test_a_data_set_in_memory_fits_the_door() -> None:
    datasets = pytest.importorskip("datasets")
    from mplug_owl.data.sources import formats
    from mplug_owl.data.sources.hub import HubRecords

    made = datasets.Dataset.from_list(ROWS)
    source = FileSource("mine", HubRecords(made, "mine"), formats.captions)
    assert source[6] == caption(jpeg(6), "picture 6", "mine, row 7")
