"""What `owl inspect` prints, on terminals and in pipes."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl import Conversation, MplugOwlProcessor, Picture
from mplug_owl.conversation import caption
from mplug_owl.data.encode import encode
from mplug_owl.data.inspect import as_sample, show
from mplug_owl.data.sources import Source, read
from mplug_owl.errors import BadSample
from mplug_owl.model.processor import Example
from tests.tiny import picture


@pytest.fixture
def photos(tmp_path: Path) -> Source:
    """Four captions and two broken records."""
    picture().save(tmp_path / "cat.png")
    records = [{"image": "cat.png", "caption": f"a cat on {count} mats"} for count in (1, 2, 30, 400)]
    broken = [{"image": "gone.png", "caption": "a dog"}, {"image": "cat.png"}]
    path = tmp_path / "photos.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records + broken))
    return read(f"captions:{path}")


def printed(
    source: Source, processor: MplugOwlProcessor | None, width: int = 80, colour: bool = False, **options: object
) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None)
    show(source, processor, console, **options)
    return console.file.getvalue()


def test_it_tells_what_the_model_will_see(photos: Source, processor: MplugOwlProcessor) -> None:
    text = printed(photos, processor, width=120, count=2)
    assert f"{photos.name}\n" in "\n".join(line.rstrip() for line in text.splitlines())
    assert "6 conversations, 4 of them read: 4 answers, 1 picture of 40x30" in text
    assert "photos.jsonl, line 1   34 tokens, 16 supervised" in text
    assert "     5  ▣ cat.png 40x30 → 5 positions" in text
    assert "⟦a c·a·t o·n 1 m·a·t·s</s>⟧" in text
    assert "photos.jsonl, line 3" in text
    assert "photos.jsonl, line 2" not in text
    assert "2 problems" in text
    assert "photos.jsonl, line 6: no field 'caption'; it has 'image'" in text


def test_lengths(photos: Source, processor: MplugOwlProcessor) -> None:
    lines = printed(photos, processor, max_tokens=35).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["length"] == ["34", "34", "36"]
    assert rows["tokens,"][:4] == ["in", "4", "of", "6"]
    assert any(line.startswith("1 longer than 35, 1 token lost") for line in lines)
    assert [line.split()[0] for line in lines if "█" in line] == ["34", "35", "36"]


def test_without_a_model_words_are_counted(photos: Source) -> None:
    text = printed(photos, None)
    assert "photos.jsonl, line 1   8 words, 5 supervised" in text
    assert "▣ cat.png 40x30\n" in "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    assert "⟦a cat on 1 mats⟧" in text
    assert "·" not in text


def test_words_too_are_cut(processor: MplugOwlProcessor) -> None:
    talk = caption("cat.png", "one two  three four")
    sample = as_sample(talk, None, 5)
    assert [stretch.cuts for stretch in sample.stretches] == [("Human: ",), (), ("\nAI: ",), ("one", " two")]
    assert (sample.length, sample.supervised, sample.cut) == (5, 2, 2)


def test_pictures_out_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: MplugOwlProcessor) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture().save(file := io.BytesIO(), "JPEG")
    with tarfile.open(tmp_path / "00003.tar", "w") as shard:
        members = {"0.jpg": file.getvalue(), "0.txt": b"a cat", "1.jpg": file.getvalue()[:-100], "1.txt": b"a dog"}
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            shard.addfile(about, io.BytesIO(content))
    text = printed(read(f"{tmp_path}/*.tar"), processor, width=120)
    assert "2 conversations: 2 answers, 2 pictures of 40x30" in text
    assert "00003.tar, 0.jpg   24 tokens, 6 supervised" in text
    assert "▣ picture 40x30 → 5 positions" in text
    assert "00003.tar, 1.jpg: the picture is damaged or cut short" in text


def test_of_a_large_source_a_part_is_checked(
    photos: Source, processor: MplugOwlProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mplug_owl.data.inspect.CHECKED", 3)
    text = printed(photos, processor)
    assert "1 problem in 3 of 6 conversations" in text
    assert "photos.jsonl, line 5" in text
    monkeypatch.setattr("mplug_owl.data.inspect.CHECKED", 1)
    assert "no problems in 1 of 6 conversations" in printed(photos, processor)


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_longer_than_the_screen_and_none_coloured_in_a_pipe(
    photos: Source, processor: MplugOwlProcessor, width: int
) -> None:
    text = printed(photos, processor, width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "\x1b[1;32m" in printed(photos, processor, width, colour=True)


def test_tokens_add_up_to_the_words(processor: MplugOwlProcessor) -> None:
    words = "Où est le café 🦉 图片? "
    talk = Conversation((), system=None).said("user", Picture("a.png"), Picture("b.png"), words).said("assistant", words)
    sample = as_sample(talk, processor, 1024)
    assert "".join("".join(stretch.cuts) for stretch in sample.stretches) == (
        f"<s>Human: \nHuman: \nHuman: {words}\nAI: {words}</s>"
    )
    assert [stretch.picture for stretch in sample.stretches if stretch.picture] == ["a.png", "b.png"]
    assert all(stretch.count == len(stretch.cuts) for stretch in sample.stretches if not stretch.picture)


def test_tokens_add_up_to_the_words_with_the_originals_tokenizer_too(shared: Path) -> None:
    if not (folder := shared / "parity" / "owl-llama-tiny").is_dir():
        pytest.skip(f"{folder} is not here")
    words = "Where is the café 🦉, and  who sits there?"
    sample = as_sample(caption("a.png", words), MplugOwlProcessor.from_pretrained(folder), 1024)
    assert "".join(sample.stretches[-1].cuts) == f"{words}</s>"


def test_adjacent_pictures_are_told_apart(processor: MplugOwlProcessor) -> None:
    talk = Conversation((), system=None).said("user", "", Picture("a.png"), Picture("b.png")).said("assistant", "yes")
    assert [stretch.picture for stretch in as_sample(talk, processor, 1024).stretches if stretch.picture] == ["a.png", "b.png"]


def test_data_cannot_steer_the_terminal(tmp_path: Path, processor: MplugOwlProcessor) -> None:
    path = tmp_path / "evil.jsonl"
    path.write_text(json.dumps({"text": "\x1b[2J\u202egone [red]"}))
    text = printed(read(f"text:{path}"), processor)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[2·J" in text


def test_a_picture_whose_name_is_no_text_is_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff owl.png")
    picture().save(tmp_path / name)
    (tmp_path / name).with_suffix(".txt").write_text("an owl")
    text = printed(read(f"folder:{tmp_path}"), None)
    assert "▣ \ufffd owl.png 40x30" in text
    assert text.encode()  # a half character would fail here, as on a terminal


def test_a_long_stretch_is_shown_by_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(" ".join(f"w{index}" for index in range(1000)))
    text = printed(read(str(path)), None)
    assert "w159 … 760 more words … w920" in " ".join(text.split())


def test_nothing_learned_is_told(tmp_path: Path, processor: MplugOwlProcessor) -> None:
    path = tmp_path / "owl.jsonl"
    path.write_text(json.dumps({"text": "Human: a rather long question\nAI: yes"}))
    assert "1 with nothing supervised" in printed(read(str(path)), processor, max_tokens=8)


def test_what_the_models_chat_format_refuses_is_a_problem(
    photos: Source, processor: MplugOwlProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(talk: Conversation, *how: object) -> Example:
        if "30 mats" in talk.answers[0]:
            raise BadSample(f"{talk.name}: the chat template refuses this conversation")
        return encode(talk, *how)

    monkeypatch.setattr("mplug_owl.data.inspect.encode", encoded)
    text = printed(photos, processor, width=120)
    assert "6 conversations, 3 of them read" in text
    assert "3 problems" in text
    assert "photos.jsonl, line 3: the chat template refuses" in text


def test_a_source_without_a_readable_record(tmp_path: Path, processor: MplugOwlProcessor) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(["{"] * 30))
    text = printed(read(f"captions:{path}"), processor)
    assert "30 conversations, 0 of them read: 0 answers, no pictures" in text
    assert "30 problems" in text
    assert "and 10 more" in text


def test_pictures_that_are_drawn_when_they_are_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHECKED", "SURVEYED"):
        monkeypatch.setattr(f"mplug_owl.data.inspect.{name}", 20)
    show(read("scenes:chats"), None, Console(width=100), count=1)
    shown = capsys.readouterr().out
    assert "1,000,000 conversations" in shown
    assert "pictures of 112x112" in shown
    assert "no problems" in shown
