"""A conversation in the terminal, typed by a script."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from mplug_owl import terminal
from mplug_owl.chat import Chat, Decoding
from mplug_owl.errors import UserError
from tests.school import SCENES, SEED, taught
from tests.world import scenes

SCENE = next(scenes(SCENES, SEED))
(QUESTION, RIGHT), (SECOND, SECOND_RIGHT), *_ = SCENE.questions()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    SCENE.draw().save(file := tmp_path / "a scene.png")
    return file


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Type lines, then end the input; what the terminal showed comes back as lines."""
    monkeypatch.setattr(terminal, "find", lambda model, device, dtype, quantize: taught())

    def session(*lines: str, images: list[Path] | None = None) -> list[str]:
        waiting = iter(lines)

        def read(console: Console, prompt: str) -> str:
            try:
                return next(waiting)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr(Console, "input", read)
        terminal.talk("an owl", None, images or [], Decoding(64))
        return [line for line in capsys.readouterr().out.splitlines()[2:] if line]

    return session


def test_a_question_on_the_command_line_gets_one_answer(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "find", lambda model, device, dtype, quantize: taught())
    terminal.talk("an owl", QUESTION, [picture], Decoding(64))
    assert capsys.readouterr().out == RIGHT + "\n"


def test_stats_are_said_beside_the_answer(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "find", lambda model, device, dtype, quantize: taught())
    terminal.talk("an owl", QUESTION, [picture], Decoding(64), stats=True)
    shown = capsys.readouterr()
    assert shown.out == RIGHT + "\n"  # whoever reads answers from a pipe gets nothing else
    assert re.fullmatch(
        r"first word after [\d.]+ s · \d+ words? \(\d+ tokens\) in [\d.]+ s · (.+ a second after the first · )?"
        r"pictures \d+% of the time · prompt \d+ tokens, \d+ known from before\n",
        shown.err,
    )


def test_a_picture_goes_with_the_next_question_and_stays_in_sight(typed, picture: Path) -> None:
    shown = typed(f"/image {picture}", QUESTION, SECOND, "/history", "/quit", "never read")
    assert shown == [
        "a scene.png, 112 x 112, goes with your next question",
        RIGHT,
        SECOND_RIGHT,
        f"you › ▣ {QUESTION}",
        f"owl › {RIGHT}",
        f"you › {SECOND}",
        f"owl › {SECOND_RIGHT}",
    ]


def test_pictures_of_the_command_line_wait_for_the_first_question(typed, picture: Path) -> None:
    assert typed(QUESTION, images=[picture])[:2] == ["a scene.png, 112 x 112, goes with your next question", RIGHT]


def test_a_new_conversation_knows_nothing_of_the_old(typed, picture: Path) -> None:
    shown = typed(f"/image {picture}", QUESTION, f"/image {picture}", "/new", "/history")
    assert shown[-2:] == ["a new conversation", "nothing was said yet"]


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("/imgae x.png", "no command /imgae; /image FILE adds a picture"),
        ("/[/bold]", "no command /[/bold]; "),
        ("/image absent.png", "absent.png: no such file"),
        ("/image", "/image needs a file"),
        ("/image [/bold].png", "[/bold].png: no such file"),
        ("/image {notes}", "notes.txt: "),
        ("/image caf\udce9.png", "caf\ufffd.png: no such file"),
        ("/caf\udce9", "no command /caf?; "),
        ("What is caf\udce9?", "the question holds bytes that are no UTF-8; type it again in UTF-8"),
    ],
)
def test_a_slip_is_reported_and_the_conversation_continues(
    typed, picture: Path, tmp_path: Path, line: str, reported: str
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    shown = typed(line.format(notes=tmp_path / "notes.txt"), f"/image {picture}", QUESTION)
    assert reported in shown[0]
    assert shown[-1] == RIGHT


def test_an_empty_line_is_no_question(typed) -> None:
    assert typed("", "   ", "/history") == ["nothing was said yet"]


def test_a_file_that_went_away_is_reported_and_nothing_is_said(typed, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = terminal._Session.add
    monkeypatch.setattr(terminal._Session, "add", lambda session, image: (add(session, image), image.unlink()))
    shown = typed(f"/image {picture}", QUESTION, "/history")
    assert "a scene.png: no such file" in shown[1]
    assert shown[2:] == ["nothing was said yet"]


def test_a_scene_is_drawn_when_asked_for(typed) -> None:
    shown = typed("/scene", QUESTION, "/history")
    assert shown[0].startswith("scene-")
    assert shown[0].endswith(".png, 112 x 112, goes with your next question")
    assert shown[2] == f"you › ▣ {QUESTION}"


def test_the_owl_that_is_shipped_gets_a_scene_and_no_photograph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "find", lambda model, device, dtype, quantize: taught())
    terminal.talk("owl-tiny", QUESTION, [], Decoding(64))
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1  # the answer alone, for a program to read
    drawn = Path(shown.err.replace("\n", "").removeprefix("a scene was drawn: "))
    assert drawn.is_file()


def test_a_picture_is_sketched_in_half_blocks() -> None:
    shown = terminal.sketch(Image.new("RGB", (4, 4), (255, 0, 0)), columns=4)
    assert shown.plain == "▀▀▀▀\n▀▀▀▀\n"
    assert str(shown.spans[0].style) == "#ff0000 on #ff0000"


def test_bytes_that_are_no_utf8_are_reported_and_the_conversation_continues(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed into a real standard input, one that escapes such bytes and one that refuses them."""
    monkeypatch.setattr(terminal, "find", lambda model, device, dtype, quantize: taught())
    for errors in ("surrogateescape", "strict"):
        lines = b"caf\xe9\n" + f"/image {picture}\n{QUESTION}\n".encode()
        monkeypatch.setattr("sys.stdin", Lines(lines, errors))
        terminal.talk("an owl", None, [], Decoding(64))
        shown = capsys.readouterr().out
        assert "the question holds bytes that are no UTF-8" in shown
        assert RIGHT in shown


class Lines(io.TextIOWrapper):
    """A standard input that decodes a line at a time, as a terminal's does."""

    def __init__(self, lines: bytes, errors: str) -> None:
        super().__init__(io.BytesIO(lines), "utf-8", errors)

    def readline(self, size: int = -1) -> str:
        return self.buffer.readline().decode("utf-8", self.errors)


def test_ctrl_c_stops_an_answer_and_the_conversation_continues(typed, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, interrupted = Chat.stream, []

    def once(chat: Chat, *arguments: object) -> Iterator[str]:
        words = stream(chat, *arguments)
        yield next(words)
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        yield from words

    monkeypatch.setattr(Chat, "stream", once)
    shown = typed(f"/image {picture}", QUESTION, "/history", QUESTION)
    assert shown[-3:] == [
        "stopped; question and answer are forgotten, pictures wait for your next question",
        "nothing was said yet",
        RIGHT,
    ]


def test_a_device_and_a_precision_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(model: str, device: str | None, dtype: str, quantize: str | None) -> None:
        asked.append((model, device, dtype, quantize))
        raise UserError("no such device")

    monkeypatch.setattr(terminal, "find", load)
    with pytest.raises(UserError, match="no such device"):
        terminal.talk("an owl", None, [], Decoding(), device="cuda:7", dtype="float32", quantize="nf4")
    assert asked == [("an owl", "cuda:7", "float32", "nf4")]
