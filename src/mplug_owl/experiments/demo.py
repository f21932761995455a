"""The whole story in minutes, on one laptop: two foundation modules are joined, learn to see together, and learn to answer.

What it trains are runs like any other, under the demo's folder; what it tells ends in one page, story.html.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console

from mplug_owl.chat import Decoding, OwlChatModel, load
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.eval import report
from mplug_owl.eval.answer import ask
from mplug_owl.eval.grade import Grade, evaluate
from mplug_owl.eval.statistics import Figures, figures
from mplug_owl.eval.task import Question
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.experiments import story
from mplug_owl.model.build import build
from mplug_owl.model.load import Owl
from mplug_owl.recipes import tiny
from mplug_owl.scenes import Scene, write
from mplug_owl.train.exam import Exam
from mplug_owl.train.plan import plan
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.reporter import Screen
from mplug_owl.train.run import train

SEED = 20230427  # scenes that no lesson has
DRAWN, SHOWN = 24, 2
# Questions an ability in each of the three exams.
EXAMINED = 25
STEPS = {"pretrain": 540, "instruct": 60}
UNTRAINED = "before"


def demo(out: Path, share: float = 1.0, console: Console | None = None) -> None:
    """Tell the story into `out`, with `share` of the usual training steps, and say what to type next."""
    console = console or Console(highlight=False)
    began = time.perf_counter()
    _empty(out)
    drawn = write(out / "data", DRAWN, SEED)
    sheet = contact_sheet(drawn)
    sheet.save(out / "world.png")
    console.print(
        f"\n[bold]A small world[/], drawn as it is needed: {out / 'world.png'} has {DRAWN} scenes of it. The first is told as\n"
        f"  “{drawn[0].caption}”\n"
        "Two modules come with the package: a language model that has read about this world and never seen it, and an encoder "
        "that has seen it and never spoken. The abstractor between them is new and has learned nothing.\n"
        "Six questions first, each about a scene of its own; behind a wrong answer stands the right one."
    )
    recipes = [_scaled(recipe, share) for recipe in (tiny.pretrain(), tiny.instruct())]
    questions = _one_of_each()
    told = _Told(questions, console)
    owl = build(recipes[0].modules, [], recipes[0].seed)
    owl.model.eval()
    told.after(UNTRAINED, owl)
    stages = [
        story.Stage(
            UNTRAINED,
            "Two strangers",
            "An encoder, a language model, and between them an abstractor that has learned nothing.",
            (),
            (),
            told.exams[UNTRAINED],
        )
    ]

    telling = (
        ("stage 1", "Learning to see", "Encoder and abstractor learn from captions, against a language model that is frozen."),
        ("stage 2", "Learning to answer", "LoRA on the language model learns from questions; all that sees is frozen."),
    )
    previous: Path | None = None
    for (name, title, words), recipe in zip(telling, recipes, strict=True):
        console.print(f"\n[bold]{name} · {title.lower()}[/]\n{words}")
        recipe = replace(recipe, init_from=str(previous) if previous else None)
        folder = out / recipe.name.rsplit(".", 1)[-1]
        watched = Exam(recipe.save_every or 1, _captions(drawn[:SHOWN], console)) if name == "stage 1" else None
        train(recipe, folder, reporter=Screen(console), exam=watched)
        told.after(name, load(folder))
        stages.append(story.Stage(name, title, words, plan(recipe).parts, _losses(folder), told.exams[name]))
        previous = folder

    page = story.write(_page(stages, told.exchanges(), sheet, time.perf_counter() - began, out), out / "story.html")
    minutes = (time.perf_counter() - began) / 60
    console.rule(f"done in {minutes:.1f} minutes", align="left")
    console.print("It knows this drawn world and nothing of photographs.\n")
    console.print(
        f"The whole story  {page}\n"
        f"Talk with it     owl chat {previous} --image {out}/data/images/00001.png\n"
        f"Longer lessons   owl chat owl-tiny\n"
        f"A full exam      owl eval {previous} scenes\n"
        f"A stage's cost   owl plan paper.pretrain",
        soft_wrap=True,  # a command in one line, to be copied
    )


class _Told:
    """Asks the same questions after every stage, and keeps the graded answers and how the exams went."""

    def __init__(self, questions: Sequence[Question], console: Console) -> None:
        self.questions, self.console = questions, console
        self.grades: dict[str, list[Grade]] = {}
        self.exams: dict[str, Figures] = {}

    def after(self, stage: str, owl: Owl) -> None:
        """Ask, show the answers, and hold a small exam with the pictures and without them."""
        world, model = DrawnWorld(), OwlChatModel(owl)
        self.grades[stage] = world.grader.grades(ask(model, self.questions, world.conditions[0]))
        for grade in self.grades[stage]:
            question, answer = grade.answer.question, grade.answer
            for words, _, earlier in answer.earlier:
                self.console.print(f"  [dim]you › {words}\n  owl › {earlier or '…'}[/]")
            mark = "[green]✓[/]" if grade.correct else f"[dim]({question.target})[/]"
            self.console.print(f"  [green]you[/] › {question.text}\n  [yellow]owl[/] › {answer.text or '…'}  {mark}")
        exam = evaluate(model, world, EXAMINED, SEED, world.conditions[:2])
        self.exams[stage] = figures(exam)[0]
        report.show(exam, self.console)

    def exchanges(self) -> list[story.Exchange]:
        """The questions with all the answers to them."""
        return [
            story.Exchange(
                question.ability,
                question.picture(),
                question.text,
                question.target,
                [
                    story.StageAnswer(stage, grades[number].answer.text, grades[number].correct)
                    for stage, grades in self.grades.items()
                ],
                [words for words, _ in question.turns[:-1]],
            )
            for number, question in enumerate(self.questions)
        ]


def contact_sheet(shown: Sequence[Scene], columns: int = 8) -> Image.Image:
    """Scenes side by side on white."""
    side = 112
    sheet = Image.new("RGB", (columns * (side + 8) + 8, -(-len(shown) // columns) * (side + 8) + 8), "white")
    for number, scene in enumerate(shown):
        row, column = divmod(number, columns)
        sheet.paste(scene.draw(side), (8 + column * (side + 8), 8 + row * (side + 8)))
    return sheet


def _empty(out: Path) -> None:
    """A folder for the story; an earlier demo in it goes. Raises ValueError where something else is in it."""
    if out.exists():
        if any(out.iterdir()) and not (out / "data" / "captions.jsonl").exists():
            raise ValueError(f"{out}: holds something else than a demo; choose another --out")
        shutil.rmtree(out)


def _scaled(recipe: Recipe, share: float) -> Recipe:
    steps = max(2, round(STEPS[recipe.name.rsplit(".", 1)[-1]] * share))
    return replace(recipe, steps=steps, log_every=max(1, steps // 20), save_every=max(1, steps // 4))


def _one_of_each() -> list[Question]:
    """A question of every ability, each about a scene of its own."""
    return DrawnWorld().questions("seen", 1, SEED)


def _captions(shown: Sequence[Scene], console: Console):  # type: ignore[no-untyped-def]
    """What the owl says of the same scenes every time it is asked: something for a run to call as it learns."""

    def tell(owl: Owl) -> dict[str, float]:
        pictures = [Conversation((), system=None).said("user", Picture(scene.draw())) for scene in shown]
        for answer in OwlChatModel(owl).answers(pictures, Decoding()):
            console.print(f"  [yellow]owl[/] › {answer}", highlight=False)
        return {}

    return tell


def _losses(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def _page(
    stages: Sequence[story.Stage], exchanges: Sequence[story.Exchange], sheet: Image.Image, seconds: float, out: Path
) -> story.Story:
    parts = stages[-1].trainable
    return story.Story(
        title="The little owl",
        lede="A vision encoder and a language model that had never met, joined by an abstractor and taught in two stages, "
        "as mPLUG-Owl was: first to see, against a frozen language model, then to answer.",
        stages=stages,
        exchanges=exchanges,
        facts=(
            (f"{sum(part.parameters for part in parts) / 1e6:.1f} M", "parameters"),
            (f"{seconds / 60:.1f}", "minutes on this machine"),
            (f"{sum(STEPS.values()):,}", "steps, unless shortened"),
        ),
        pictures=sheet,
        about_pictures="Scenes are drawn when they are needed: four things at most, two writings, noise, and no two alike.",
        commands=(
            story.Command("Talk with it", f"owl chat {out}/instruct --image {out}/data/images/00001.png"),
            story.Command("Talk with one that had longer lessons", "owl chat owl-tiny"),
            story.Command("Examine it in full", f"owl eval {out}/instruct scenes"),
            story.Command("Train the second stage again", f"owl train tiny.instruct --from {out}/pretrain --out runs/mine"),
        ),
    )
