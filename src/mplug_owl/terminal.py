"""`owl chat` in the terminal: words as they come, pictures by /image or /scene, a new start by /new."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from mplug_owl.chat import Chat, Decoding, find
from mplug_owl.chat.stats import Stopwatch
from mplug_owl.errors import BadSample, UserError
from mplug_owl.model.images import open_image
from mplug_owl.model.locate import BUNDLED
from mplug_owl.model.quantised import Quantisation

HELP = (
    "/image FILE adds a picture to your next question, /scene draws one of the small world, /new starts over, "
    "/history shows the conversation, /quit leaves; Ctrl-C stops an answer"
)


def talk(
    model: str,
    question: str | None,
    images: Sequence[Path],
    decoding: Decoding,
    device: str | None = None,
    stats: bool = False,
    dtype: str = "auto",
    quantize: Quantisation | None = None,
) -> None:
    """One answer where a question is given, else a conversation until /quit. `stats` says after each what it took.

    Raises:
        UserError: The model cannot be opened, or the one question cannot be asked.
        BadSample: A picture of the one question cannot be opened.
    """
    console = Console(highlight=False, soft_wrap=True)
    session = _Session(Chat(find(model, device, dtype, quantize), decoding=decoding), console, stats)
    if model in BUNDLED and not images:  # it knows no photographs, so it gets what it knows
        images = [session.draw()]
    if question is not None:
        session.waiting = list(images)
        session.answer(question)
        return
    session.tell(model, "bold")
    session.tell(HELP, "dim")
    for image in images:
        session.add(image)
    while session.take(_line(console)):
        pass


class _Session:
    """A conversation in a terminal, and the pictures that wait for its next question."""

    def __init__(self, chat: Chat, console: Console, stats: bool = False) -> None:
        self.chat, self.console, self.stats = chat, console, stats
        self.waiting: list[Path] = []

    def take(self, line: str) -> bool:
        """Do what a line says: a command or a question. False where the conversation ends."""
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit", "/q"):
            return False
        if command == "/new":
            self.chat.forget()
            self.waiting.clear()
            self.tell("a new conversation", "dim")
        elif command == "/image" and rest.strip():
            self.add(Path(rest.strip()).expanduser())
        elif command == "/image":
            self.tell("/image needs a file: /image FILE", "yellow")
        elif command == "/scene":
            self.add(self.draw())
        elif command == "/history":
            self.history()
        elif command.startswith("/"):
            self.tell(f"no command {command}; {HELP}", "yellow")
        elif line:
            self.ask(line)
        return True

    def ask(self, question: str) -> None:
        """Show the answer to a question, or what is wrong with it. The history takes in what was answered to the end."""
        try:
            self.answer(question)
            self.waiting.clear()
        except KeyboardInterrupt:
            self.console.print()
            self.tell("stopped; question and answer are forgotten, pictures wait for your next question", "dim")
        except (UserError, BadSample) as error:
            self.tell(str(error), "red")

    def answer(self, question: str) -> None:
        """Show the answer to a question about the pictures that wait, as it comes."""
        if self._has_colours:
            self.console.print("[bold yellow]owl[/] › ", end="")
        watch = Stopwatch()
        for part in watch.watch(self.chat.stream(question, self.waiting)):
            self.console.print(part, end="", markup=False, emoji=False)
        self.console.print()
        if self.stats:
            self.tell(watch.line(getattr(self.chat.model, "work", None)), "dim", self._aside)

    def add(self, image: Path) -> None:
        """Let a picture wait for the next question."""
        try:
            width, height = open_image(image).size
        except (UserError, BadSample) as error:
            self.tell(str(error), "red")
            return
        self.waiting.append(image)
        self.tell(f"{image.name}, {width} x {height}, goes with your next question", "dim")

    def draw(self) -> Path:
        """A scene of the small world in a file, shown where the screen can show it."""
        number = Random().randrange(2**31)
        from mplug_owl.scenes import scene  # not above: who has a picture need not wait for the world's questions

        file = Path(tempfile.mkdtemp(prefix="owl-")) / f"scene-{number}.png"
        picture = scene(number).draw()
        picture.save(file)
        if self._has_colours:
            self.console.print(sketch(picture))
        self.tell(f"a scene was drawn: {file}", "dim", self._aside)
        return file

    def history(self) -> None:
        """Show the conversation, a line a message."""
        if not self.chat.conversation.messages:
            self.tell("nothing was said yet", "dim")
        for message in self.chat.conversation.messages:
            pictures = sum(not isinstance(part, str) for part in message.parts)
            name = "you" if message.role == "user" else "owl"
            self.tell(f"{name} › {'▣ ' * pictures}{message.text}", "dim")

    def tell(self, words: str, style: str, console: Console | None = None) -> None:
        """Words as they are: a name or a question may hold [brackets], which rich would read as colours.

        A file's name may hold bytes that are no UTF-8, which no terminal can show.
        """
        shown = words.encode("utf-8", "replace").decode("utf-8")
        (console or self.console).print(shown, style=style, markup=False, emoji=False)

    @property
    def _aside(self) -> Console | None:
        """Where words go that are no answer: beside it where answers go to a file or another program."""
        return None if self.console.is_terminal else Console(stderr=True, highlight=False, soft_wrap=True)

    @property
    def _has_colours(self) -> bool:
        return self.console.is_terminal and self.console.color_system in ("256", "truecolor")


def _line(console: Console) -> str:
    """What is typed next, /quit where nothing more will be. Bytes that are no UTF-8 are kept as `surrogateescape` does."""
    try:
        return console.input("[bold green]you[/] › ").strip()
    except UnicodeDecodeError as error:  # a strict standard input
        return error.object.decode("utf-8", "surrogateescape").strip()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return "/quit"


def sketch(picture: Image.Image, columns: int = 48) -> Text:
    """A picture as coloured half blocks, two pixels a character."""
    pixels_HW3 = np.asarray(picture.convert("RGB").resize((columns, columns)))
    drawn = Text(no_wrap=True)
    for row in range(0, columns - columns % 2, 2):
        for column in range(columns):
            upper, lower = (Color.from_rgb(*pixels_HW3[line, column].tolist()) for line in (row, row + 1))
            drawn.append("▀", Style(color=upper, bgcolor=lower))
        drawn.append("\n")
    return drawn
