"""`owl chat` in the terminal: words as they come, pictures by /image or /scene, a new start by /new."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from mplug_owl.chat import Chat, Decoding
from mplug_owl.model.build import SHIPPED, load
from mplug_owl.model.images import open_image
from mplug_owl.scenes import scene

HELP = (
    "/image FILE adds a picture to your next question, /scene draws one of the small world, /new starts over, "
    "/history shows what was said, /quit leaves"
)


def talk(model: str, question: str | None, images: Sequence[Path], max_new_tokens: int, temperature: float) -> None:
    """One answer where a question is given, else a conversation until /quit. Raises ValueError for what cannot be opened."""
    decoding = Decoding(max_new_tokens, temperature)
    console = Console(highlight=False, soft_wrap=True)
    chat = Chat(load(model), decoding=decoding)
    if model in SHIPPED and not images:  # it knows no photographs, so it gets what it knows
        images = [_drawn(console)]
    if question is not None:
        _answer(chat, question, images, console)
        return
    _tell(console, model, "bold")
    _tell(console, HELP, "dim")
    waiting: list[Path] = []
    for image in images:
        _add(waiting, image, console)
    while True:
        try:
            line = console.input("[bold green]you[/] › ").strip()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        command, _, rest = line.partition(" ")
        if command in ("/quit", "/exit", "/q"):
            return
        if command == "/new":
            chat.forget()
            waiting.clear()
            _tell(console, "a new conversation", "dim")
        elif command == "/image":
            if rest.strip():
                _add(waiting, Path(rest.strip()).expanduser(), console)
            else:
                _tell(console, "/image needs a file: /image FILE", "yellow")
        elif command == "/scene":
            _add(waiting, _drawn(console), console)
        elif command == "/history":
            _history(chat, console)
        elif command.startswith("/"):
            _tell(console, f"no command {command}; {HELP}", "yellow")
        elif line:
            try:
                _answer(chat, line, waiting, console)
                waiting.clear()
            except ValueError as error:
                _tell(console, str(error), "red")


def _answer(chat: Chat, question: str, images: Sequence[Path], console: Console) -> None:
    if console.is_terminal and console.color_system in ("256", "truecolor"):
        console.print("[bold yellow]owl[/] › ", end="")
    for word in chat.stream(question, images):
        console.print(word, end="", markup=False, emoji=False)
    console.print()


def _add(waiting: list[Path], image: Path, console: Console) -> None:
    try:
        width, height = open_image(image).size
    except ValueError as error:
        _tell(console, str(error), "red")
        return
    waiting.append(image)
    _tell(console, f"{image.name}, {width} x {height}, goes with your next question", "dim")


def _drawn(console: Console) -> Path:
    """A scene of the small world in a file, shown where the screen can show it."""
    number = Random().randrange(2**31)
    file = Path(tempfile.mkdtemp(prefix="owl-")) / f"scene-{number}.png"
    picture = scene(number).draw()
    picture.save(file)
    if console.is_terminal and console.color_system in ("256", "truecolor"):
        console.print(sketch(picture))
    _tell(Console(stderr=True) if not console.is_terminal else console, f"a scene was drawn: {file}", "dim")
    return file


def sketch(picture: Image.Image, columns: int = 48) -> Text:
    """A picture as coloured half blocks, two pixels a character."""
    small = picture.convert("RGB").resize((columns, columns))
    drawn = Text(no_wrap=True)
    for row in range(0, columns - columns % 2, 2):
        for column in range(columns):
            upper, lower = (Color.from_rgb(*small.getpixel((column, line))) for line in (row, row + 1))
            drawn.append("▀", Style(color=upper, bgcolor=lower))
        drawn.append("\n")
    return drawn


def _history(chat: Chat, console: Console) -> None:
    if not chat.conversation.messages:
        _tell(console, "nothing was said yet", "dim")
    for message in chat.conversation.messages:
        pictures = sum(not isinstance(part, str) for part in message.parts)
        name = "you" if message.role == "user" else "owl"
        _tell(console, f"{name} › {'▣ ' * pictures}{message.text}", "dim")


def _tell(console: Console, words: str, style: str) -> None:
    """Words as they are: a name or a question may hold [brackets], which rich would read as colours."""
    console.print(words, style=style, markup=False, emoji=False)
