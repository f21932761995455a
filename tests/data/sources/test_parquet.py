"""Parquet: rows by their groups, with pictures in them or beside them."""

import contextlib
import decimal
import pickle
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mplug_owl import Picture
from mplug_owl.conversation import caption
from mplug_owl.data.sources import check, read
from mplug_owl.errors import BadSample, UserError
from tests.data.sources.layouts import ROWS, broken, every, jpeg, parquet


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


def test_row_groups_are_blocks(tmp_path: Path) -> None:
    parquet(tmp_path / "train-0.parquet", ROWS[:5], group=2)
    parquet(tmp_path / "train-1.parquet", ROWS[5:], group=2)
    assert read(str(tmp_path)).blocks.tolist() == [2, 2, 1, 2]


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
    with pytest.raises(UserError, match=r"a\.parquet: not a whole parquet file"):
        read(str(path))
    path.write_bytes(whole[:200] + bytes(400) + whole[600:])
    problems = check(read(str(path)))
    assert problems[0].startswith("a.parquet, row 1")
    with pytest.raises(UserError, match="no records in the file"):
        read(str(parquet(path, ROWS[:1] * 0 or [{"image": "a", "text": "b"}][:0])))


def test_parquet_of_addresses_names_the_tool_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="addresses of pictures, not pictures; fetch them with img2dataset"):
        read(str(parquet(tmp_path / "laion.parquet", [{"URL": "https://example.com/a.jpg", "TEXT": "a cat"}])))
    with pytest.raises(UserError, match="no known format has the fields 'a'"):
        read(str(parquet(tmp_path / "a.parquet", [{"a": 1}])))


@pytest.mark.parametrize(("module", "spec"), [("pyarrow", "parquet:a.parquet"), ("datasets", "hub:lmms-lab/flickr30k")])
def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, spec: str) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(UserError, match=rf"needs {module}, which is not installed; pip install 'mplug-owl\[data\]'"):
        read(spec)


def test_broken_files_are_left_out_when_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        parquet(tmp_path / f"{number}.parquet", ROWS[:2])
    (tmp_path / "1.parquet").write_bytes((tmp_path / "0.parquet").read_bytes()[:-20])
    with pytest.raises(
        UserError, match=r"1\.parquet: not a whole parquet file .*\n#skip-broken after the path reads the other files$"
    ):
        read(f"parquet:{tmp_path}")
    for spec in (f"parquet:{tmp_path}#skip-broken", f"{tmp_path}/*.parquet#skip-broken", f"captions:{tmp_path}#skip-broken"):
        assert [talk.name for talk in every(read(spec))] == [
            f"{number}.parquet, row {row}" for number in (0, 2) for row in (1, 2)
        ]
    assert capsys.readouterr().err.count("left out: ") == 1
    with pytest.raises(UserError, match=r"1\.parquet: not a whole parquet file \([^\n]*$"):
        read(f"{tmp_path}/1.parquet#skip-broken")


@given(st.data())
def test_a_file_cut_or_flipped_anywhere_gives_bad_samples_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = parquet(tmp_path_factory.getbasetemp() / "a.parquet", [{"image": "owl.png", "caption": "owl"}] * 4, group=2)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 2))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged[: data.draw(st.just(len(damaged)) | st.integers(1, len(damaged)))])
    with contextlib.suppress(UserError):
        source = read(f"captions:{path}")
        for index in range(min(len(source), 4)):
            with contextlib.suppress(BadSample):
                source[index]


def test_the_columns_that_are_there_are_named(tmp_path: Path) -> None:
    row = {"image": ROWS[0]["image"], "vraag": "Wat?", "antwoord": "Een uil."}
    with pytest.raises(UserError, match=r"row 1: no known format has the fields 'vraag', 'antwoord', 'image'"):
        read(str(parquet(tmp_path / "a.parquet", [row])))


def test_one_name_for_two_columns_is_refused(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_arrays(
        [arrow.array(["owl.png"]), arrow.array(["a"]), arrow.array(["b"])], ["image", "text", "text"]
    )
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: more than one column is called 'text'; rename or drop the others"):
        read(f"{tmp_path}/a.parquet")


def test_values_that_python_has_no_type_for_are_bad_samples(tmp_path: Path) -> None:
    arrow, write = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet").write_table
    odd = {
        "a date after the year 9999": arrow.array([2**30], arrow.int32()).cast(arrow.date32()),
        "a duration of ages": arrow.array([2**62], arrow.duration("s")),
        "a time nowhere": arrow.array([0], arrow.timestamp("us", "Nowhere/Land")),
        "text that is none": arrow.StringArray.from_buffers(
            1, arrow.py_buffer(bytes(4) + b"\2\0\0\0"), arrow.py_buffer(b"\xff\xfe")
        ),
        "a decimal number": arrow.array([decimal.Decimal("1.20")]),
        "a map": arrow.array([[("a", 1)]], arrow.map_(arrow.string(), arrow.int32())),
    }
    for case, column in odd.items():
        write(arrow.table({"image": [jpeg()], "caption": column}), tmp_path / "a.parquet")
        source = read(f"captions:{tmp_path}/a.parquet")
        with pytest.raises(BadSample, match=r"^a\.parquet, row 1: "):
            pytest.fail(f"{case}: {source[0]}")


def test_a_kept_group_that_is_damaged_is_unpacked_anew(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mplug_owl.data.sources.parquet.HELD_BYTES", 1)
    path = parquet(tmp_path / "a.parquet", ROWS)
    for damage in (None, b"", b"ARROW1\0\0owl", b"owl"):
        if damage is not None:
            files = list(cache.glob("*.arrow"))
            assert files
            for kept in files:
                kept.unlink()  # never written to: it is mapped
                kept.write_bytes(damage)
        source = read(str(path))
        for index in (6, 0, 6, 0, 6):
            assert source[index].answers == (f"picture {index}",)


def test_every_file_of_the_cases_is_right_or_refused(shared: Path) -> None:
    refused = {
        "captions_other_names": "no known format has the fields 'description', 'img'",
        "cut": "not a whole parquet file",
        "empty": "no records",
        "laion": "addresses",
    }
    bad = {"img2dataset_meta": [1], "path_struct": [1, 2]}
    for path in sorted((shared / "cases" / "parquet").glob("*.parquet")):
        if (reason := refused.get(path.stem)) is not None:
            with pytest.raises(UserError, match=reason):
                read(str(path))
        else:
            source = read(str(path))
            problems = check(source)
            assert len(problems) == len(bad.get(path.stem, [])), problems


def test_pictures_stand_beside_their_own_file(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cat.jpg").write_bytes(jpeg(number))
        parquet(tmp_path / name / f"{name}.parquet", [{"image": "cat.jpg", "caption": name}])
    found = [talk.pictures for talk in every(read(f"parquet:{tmp_path}"))]
    assert found == [(Picture(tmp_path / name / "cat.jpg"),) for name in "ab"]


def test_a_link_has_its_own_name_and_folder(tmp_path: Path) -> None:
    """In the hub's cache it leads to a file that is called by a number."""
    for folder in ("blobs", "snapshot"):
        (tmp_path / folder).mkdir()
    parquet(tmp_path / "blobs" / "0f1e", [{"image": "cat.jpg", "caption": "a cat"}])
    (tmp_path / "snapshot" / "a.parquet").symlink_to("../blobs/0f1e")
    (tmp_path / "snapshot" / "cat.jpg").write_bytes(jpeg())
    talk = read(f"{tmp_path}/snapshot")[0]
    assert (talk.name, talk.pictures) == ("a.parquet, row 1", (Picture(tmp_path / "snapshot" / "cat.jpg"),))


def test_words_in_a_row_of_text_make_it_no_talk(tmp_path: Path) -> None:
    said = ["Plain words.", "A talk.\nHuman: hi\nAI: yo\nand more", "An <image> tag."]
    source = read(str(parquet(tmp_path / "a.parquet", [{"text": words} for words in said])))
    assert [talk.answers for talk in every(source)] == [(words,) for words in said]
