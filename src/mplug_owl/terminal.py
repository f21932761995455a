"""`owl chat` in the terminal: words as they come, pictures by /image, a new start by /new."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mplug_owl.chat import Chat, Decoding
from mplug_owl.model.build import load
from mplug_owl.model.images import open_image

HELP = "/image FILE adds a picture to your next question, /new starts over, /history shows what was said, /quit leaves"


def talk(model: str, question: str | None, images: Sequence[Path], max_new_tokens: int, temperature: float) -> None:
    """One answer where a question is given, else a conversation until /quit. Raises ValueError for what cannot be opened."""
    decoding = Decoding(max_new_tokens, temperature)
    console = Console(highlight=False, soft_wrap=True)
    chat = Chat(load(model), decoding=decoding)
    if question is not None:
        _answer(chat, question, images, console)
        return
    console.print(f"[bold]{model}[/]  [dim]{HELP}[/]")
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
            console.print("[dim]a new conversation[/]")
        elif command == "/image":
            _add(waiting, Path(rest.strip()).expanduser(), console)
        elif command == "/history":
            _history(chat, console)
        elif command.startswith("/"):
            console.print(f"[yellow]no command {command}; {HELP}[/]")
        elif line:
            try:
                _answer(chat, line, waiting, console)
                waiting.clear()
            except ValueError as error:
                console.print(f"[red]{error}[/]")


def _answer(chat: Chat, question: str, images: Sequence[Path], console: Console) -> None:
    if console.is_terminal:
        console.print("[bold yellow]owl[/] › ", end="")
    for word in chat.stream(question, images):
        console.print(word, end="", markup=False)
    console.print()


def _add(waiting: list[Path], image: Path, console: Console) -> None:
    try:
        width, height = open_image(image).size
    except ValueError as error:
        console.print(f"[red]{error}[/]")
        return
    waiting.append(image)
    console.print(f"[dim]{image.name}, {width} x {height}, goes with your next question[/]")


def _history(chat: Chat, console: Console) -> None:
    if not chat.conversation.messages:
        console.print("[dim]nothing was said yet[/]")
    for message in chat.conversation.messages:
        pictures = sum(not isinstance(part, str) for part in message.parts)
        name = "you" if message.role == "user" else "owl"
        console.print(f"{name} › {'▣ ' * pictures}{message.text}", style="dim", markup=False)
