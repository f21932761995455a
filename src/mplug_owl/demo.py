"""The whole story in minutes, on one laptop: a small owl is made from scratch, goes through its stages and is talked with."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.panel import Panel

from mplug_owl.chat import Chat, answer, load
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.data.scenes import Scene, asked, scenes, write
from mplug_owl.model.build import Owl
from mplug_owl.recipes import tiny
from mplug_owl.train.metrics import draw
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.run import run

PICTURES, SEED = 3000, 20230427
UNSEEN, UNSEEN_SEED = 100, 7
STORY = (
    ("stage 0 · the language model learns to write, from text alone", "chat:{data}/text.jsonl"),
    ("stage 1 · eyes and abstractor learn from captions, the language model frozen", "captions:{data}/captions.jsonl"),
    ("stage 2 · LoRA on the language model learns to answer, the rest frozen", "chat:{data}/chats.jsonl"),
)


def demo(out: Path, share: float = 1.0, console: Console | None = None) -> None:
    """Tell the story into `out`, with `share` of the usual training steps, and say what to type next."""
    console = console or Console(highlight=False)
    began = time.perf_counter()
    if out.exists():
        if any(out.iterdir()) and not (out / "data" / "captions.jsonl").exists():
            raise ValueError(f"{out}: holds something else than a demo; choose another --out")
        shutil.rmtree(out)
    data = out / "data"
    console.print(f"\n[bold]A small world.[/] Drawing {PICTURES:,} pictures of it into {data} …")
    drawn = write(data, PICTURES, SEED)
    _contact_sheet(drawn[:24], out / "pictures.png")
    console.print(f"Some of them: {out / 'pictures.png'}. The first is told as “{drawn[0].caption}”")

    unseen = list(scenes(UNSEEN, UNSEEN_SEED))
    previous: Path | None = None
    runs = []
    for (title, spec), recipe in zip(STORY, _recipes(share), strict=True):
        console.print(f"\n[bold]{title}[/]")
        folder = out / recipe.name.rsplit(".", 1)[-1]
        recipe = replace(recipe, data=(spec.format(data=data),), start=str(previous) if previous else None)
        run(recipe, folder, console=console)
        owl = load(folder)
        if recipe.name == "tiny.pretrain":
            _tell_captions(owl, unseen[:3], console)
        elif recipe.encoding.pictures:
            right, blind = score(owl, unseen), score(owl, unseen, exchanged=True)
            console.print(
                f"On {UNSEEN} pictures it has never seen: {right:.0%} of its answers are right "
                f"({blind:.0%} with the pictures exchanged among each other)."
            )
        runs.append(folder)
        previous = folder

    draw(runs, out / "curves.png")
    console.print(f"\nThe three losses: {out / 'curves.png'}\n\n[bold]A conversation[/] about {data / 'images' / '00000.png'}")
    _converse(owl, drawn[0], data / "images" / "00000.png", console)
    minutes = (time.perf_counter() - began) / 60
    console.print(
        Panel(
            f"{minutes:.1f} minutes. It knows this drawn world and nothing of photographs.\n\n"
            f"Talk with it     owl chat {runs[-1]} --image {data}/images/00001.png\n"
            f"See what it saw  owl inspect chat:{data}/chats.jsonl --model {runs[-1]}\n"
            f"A stage's cost   owl plan paper.pretrain",
            title="done",
            expand=False,
        )
    )


def score(owl: Owl, tested: Sequence[Scene], exchanged: bool = False) -> float:
    """The share of questions answered word for word, each on its own, with the picture or with another scene's."""
    questions, expected = [], []
    for number, scene in enumerate(tested):
        seen = tested[(number + 1) % len(tested)] if exchanged else scene
        picture = Picture(seen.draw())
        for question, right in asked(scene, 1)[:1]:
            questions.append(Conversation(()).said("user", picture, question))
            expected.append(right)
    said = answer(owl, questions, batch=50)
    return sum(one == other for one, other in zip(said, expected, strict=True)) / len(expected)


def _recipes(share: float) -> list[Recipe]:
    steps = {"language": 150, "pretrain": 600, "instruct": 200}
    return [
        replace(recipe, steps=max(2, round(steps[recipe.name.rsplit(".", 1)[-1]] * share)))
        for recipe in (tiny.language(), tiny.pretrain(), tiny.instruct())
    ]


def _tell_captions(owl: Owl, tested: Sequence[Scene], console: Console) -> None:
    """What it says of new pictures when nothing is asked: all that stage 1 teaches."""
    console.print("It can tell now what it sees, and answer nothing yet. Of pictures it has never seen it says:")
    shown = [Conversation((), system=None).said("user", Picture(scene.draw())) for scene in tested]
    for scene, said in zip(tested, answer(owl, shown), strict=True):
        console.print(f"  [yellow]owl[/] › {said}   [dim](it is: {scene.told})[/]")


def _converse(owl: Owl, scene: Scene, picture: Path, console: Console) -> None:
    chat = Chat(owl)
    for number, (question, right) in enumerate(asked(scene, 3)):
        said = chat.ask(question, [picture] if number == 0 else [])
        console.print(
            f"  [green]you[/] › {question}\n  [yellow]owl[/] › {said}" + ("" if said == right else f"   [dim]({right})[/]")
        )


def _contact_sheet(shown: Sequence[Scene], target: Path) -> None:
    side, columns = 112, 8
    sheet = Image.new("RGB", (columns * (side + 8) + 8, -(-len(shown) // columns) * (side + 8) + 8), "white")
    for number, scene in enumerate(shown):
        row, column = divmod(number, columns)
        sheet.paste(scene.draw(side), (8 + column * (side + 8), 8 + row * (side + 8)))
    sheet.save(target)
