"""The whole story in minutes, on one laptop: two foundation modules are joined, learn to see together, and learn to answer.

What it trains are runs like any other, under the demo's folder; what it tells ends in one page, story.html.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from rich.console import Console

from mplug_owl.chat import Decoding, OwlChatModel, load
from mplug_owl.conversation import Conversation, Picture
from mplug_owl.errors import UserError
from mplug_owl.eval import report
from mplug_owl.eval.answer import ask
from mplug_owl.eval.grade import Grade, evaluate
from mplug_owl.eval.statistics import Figures, figures
from mplug_owl.eval.task import Question
from mplug_owl.eval.tasks.scenes import DrawnWorld
from mplug_owl.experiments import story
from mplug_owl.experiments.minutes import Timetable, fitted, usual
from mplug_owl.model.build import build
from mplug_owl.model.load import Owl
from mplug_owl.recipes import tiny
from mplug_owl.scenes import Scene, write
from mplug_owl.train.exam import Exam
from mplug_owl.train.plan import plan
from mplug_owl.train.recipe import Recipe
from mplug_owl.train.reporter import Progress, Screen
from mplug_owl.train.run import train
from mplug_owl.writing import writing

SEED = 20230427  # scenes that no lesson has
DRAWN, SHOWN = 24, 2
# Questions an ability in each of the three exams, and those of them on the page.
EXAMINED, ON_PAGE = 25, 2
UNTRAINED = "before"


@dataclass(frozen=True)
class _Lesson:
    """A stage as the story tells it; `run` is its folder's name."""

    stage: str
    title: str
    words: str
    run: str
    recipe: Callable[[], Recipe]


LESSONS = (
    _Lesson(
        "stage 1",
        "Learning to see",
        "Encoder and abstractor learn from captions, against a language model that is frozen.",
        "pretrain",
        tiny.pretrain,
    ),
    _Lesson(
        "stage 2",
        "Learning to answer",
        "LoRA on the language model learns from questions; all that sees is frozen.",
        "instruct",
        tiny.instruct,
    ),
)


def demo(out: Path, share: float = 1.0, minutes: float | None = None, console: Console | None = None) -> None:
    """Tell the story into `out` and say what to type next.

    Args:
        out: a new folder, or that of an earlier demo, which is replaced.
        share: of the usual training steps.
        minutes: how long it may take in all; the steps are then fitted to the machine, and `share` is not used.
        console: where the story is printed.

    Raises:
        UserError: `out` holds something else.
    """
    console = console or Console(highlight=False)
    began = time.perf_counter()
    with writing(out):
        _empty(out)
        drawn = write(out / "data", DRAWN, SEED)
        sheet = contact_sheet(drawn)
        sheet.save(out / "world.png")
    _introduce(drawn[0], out, console)
    told = _Told(_one_of_each(), console)
    stages = [_untrained(told)]

    recipes = {lesson.run: lesson.recipe() for lesson in LESSONS}
    timetable = usual(share) if minutes is None else fitted(recipes, began + 60 * minutes, console.print)
    previous: Path | None = None
    for lesson in LESSONS:
        console.print(f"\n[bold]{lesson.stage} · {lesson.title.lower()}[/]\n{lesson.words}")
        recipe = _shortened(recipes[lesson.run], timetable.steps_of(lesson.run), previous)
        folder = out / lesson.run
        watched = Exam(recipe.save_every or 1, _captions(drawn[:SHOWN], console)) if previous is None else None
        train(recipe, folder, reporter=_Screen(console, timetable.later(lesson.run)), exam=watched)
        told.after(lesson.stage, load(folder))
        parts, losses = plan(recipe).parts, _losses(folder)
        stages.append(story.Stage(lesson.stage, lesson.title, lesson.words, parts, losses, told.exams[lesson.stage]))
        previous = folder

    seconds = time.perf_counter() - began
    page = story.write(_page(stages, told.exchanges(), sheet, timetable, seconds, out), out / "story.html")
    _say_what_next(out, page, seconds, console)


class _Screen(Screen):
    """A stage's screen whose time left is the whole demo's. `later` are steps of this stage that the later ones come to."""

    def __init__(self, console: Console, later: float) -> None:
        super().__init__(console)
        self.later, self.pace = later, 0.0

    def progress(self, progress: Progress) -> None:
        """Add what comes after this stage, at the stage's pace."""
        if progress.step < progress.steps:
            self.pace = progress.seconds_left / (progress.steps - progress.step)
        super().progress(replace(progress, seconds_left=progress.seconds_left + self.later * self.pace))


class _Told:
    """Asks the same questions after every stage, and keeps how the exams went and the first answers in them."""

    def __init__(self, questions: Sequence[Question], console: Console) -> None:
        self.questions, self.console = questions, console
        self.grades: dict[str, list[Grade]] = {}
        self.exams: dict[str, Figures] = {}

    def after(self, stage: str, owl: Owl) -> None:
        """Ask, show the answers, and hold a small exam with the pictures and without them."""
        with one_thread():
            self._examine(stage, owl)

    def _examine(self, stage: str, owl: Owl) -> None:
        world, model = DrawnWorld(), OwlChatModel(owl)
        for grade in world.grader.grades(ask(model, self.questions, world.conditions[0])):
            question, answer = grade.answer.question, grade.answer
            for words, _, earlier in answer.earlier:
                self.console.print(f"  [dim]you › {words}\n  owl › {earlier or '…'}[/]")
            mark = "[green]✓[/]" if grade.correct else f"[dim]({question.target})[/]"
            self.console.print(f"  [green]you[/] › {question.text}\n  [yellow]owl[/] › {answer.text or '…'}  {mark}")
        exam = evaluate(model, world, EXAMINED, SEED, world.conditions[:2])
        self.exams[stage], self.grades[stage] = figures(exam)[0], _first_of_each(exam)
        report.show(exam, self.console)

    def exchanges(self) -> list[story.Exchange]:
        """The first questions of the exam with all the answers to them."""
        return [self._exchange(same) for same in zip(*self.grades.values(), strict=True)]

    def _exchange(self, same: Sequence[Grade]) -> story.Exchange:
        """One question with each stage's grade of it."""
        question = same[0].answer.question
        return story.Exchange(
            question.ability,
            cast(Callable[[], Image.Image], question.picture)(),  # the drawn world draws one for each
            question.text,
            question.target,
            [story.StageAnswer(stage, one.answer.text, one.correct) for stage, one in zip(self.grades, same, strict=True)],
            [words for words, _ in question.turns[:-1]],
        )


def _first_of_each(exam: Sequence[Grade]) -> list[Grade]:
    """Of each ability the first questions that were asked with their pictures."""
    seen: dict[str, list[Grade]] = {}
    for grade in exam:
        if grade.answer.condition == exam[0].answer.condition:
            seen.setdefault(grade.answer.question.ability, []).append(grade)
    return [grade for grades in seen.values() for grade in grades[:ON_PAGE]]


def contact_sheet(shown: Sequence[Scene], columns: int = 8) -> Image.Image:
    """Scenes side by side on white."""
    side = 112
    sheet = Image.new("RGB", (columns * (side + 8) + 8, -(-len(shown) // columns) * (side + 8) + 8), "white")
    for number, scene in enumerate(shown):
        row, column = divmod(number, columns)
        sheet.paste(scene.draw(side), (8 + column * (side + 8), 8 + row * (side + 8)))
    return sheet


@contextmanager
def one_thread() -> Iterator[None]:
    """Answers are made word by word: products too small to share, and slow to share where another program runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _empty(out: Path) -> None:
    """A folder for the story; an earlier demo in it goes. Raises UserError where anything else is in it, and leaves it all."""
    if not out.exists():
        return
    ours = {"data", "world.png", "story.html", *(lesson.run for lesson in LESSONS)}
    there = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    drawn = {path.name for path in (out / "data").iterdir()} if "data" in there else set()
    strange = {name for name in there - ours if not name.startswith("eval-")}  # exams stand beside the run
    strange |= drawn - {"images", "captions.jsonl", "chats.jsonl", "text.jsonl"}
    if strange or (there and not (drawn and "world.png" in there)):
        raise UserError(f"{out}: holds something else than a demo; choose another --out")
    shutil.rmtree(out)


def _introduce(first: Scene, out: Path, console: Console) -> None:
    console.print(
        f"\n[bold]A small world[/], drawn as it is needed: {out / 'world.png'} has {DRAWN} scenes of it. The first one:\n"
        f"  “{first.caption}”\n"
        "Two modules come with the package: a language model that has read about this world and never seen it, and an encoder "
        "that has seen it and never spoken. The abstractor between them is new and has learned nothing.\n"
        "Six questions first, each about a scene of its own; the right answer follows a wrong one."
    )


def _untrained(told: "_Told") -> story.Stage:
    """The story's first stage: the modules joined, and nothing learned."""
    recipe = LESSONS[0].recipe()
    owl = build(recipe.modules, [], recipe.seed)
    owl.model.eval()
    told.after(UNTRAINED, owl)
    words = "An encoder, a language model, and between them an abstractor that has learned nothing."
    return story.Stage(UNTRAINED, "Two strangers", words, (), (), told.exams[UNTRAINED])


def _shortened(recipe: Recipe, steps: int, previous: Path | None) -> Recipe:
    """The recipe with so many steps, from the stage before, reported often enough to see it move."""
    start = None if previous is None else str(previous)
    return replace(
        recipe,
        steps=steps,
        init_from=start,
        log_every=max(1, min(10, steps // 20)),
        save_every=max(1, steps // 4),
        workers=1,  # scenes are drawn while the optimiser leaves a core free
    )


def _say_what_next(out: Path, page: Path, seconds: float, console: Console) -> None:
    console.rule(f"done in {seconds / 60:.1f} minutes", align="left")
    console.print("It knows this drawn world and nothing of photographs.\n")
    owl = out / LESSONS[-1].run
    console.print(
        f"The whole story  {page}\n"
        f"Talk with it     owl chat {owl} --image {out}/data/images/00001.png\n"
        f"Longer lessons   owl chat owl-tiny\n"
        f"A full exam      owl eval {owl} scenes\n"
        f"A stage's cost   owl plan paper.pretrain",
        soft_wrap=True,  # a command in one line, to be copied
    )


def _one_of_each() -> list[Question]:
    """A question of every ability, each about a scene of its own."""
    return DrawnWorld().questions("seen", 1, SEED)


def _captions(shown: Sequence[Scene], console: Console) -> Callable[[Owl], dict[str, float]]:
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
    stages: Sequence[story.Stage],
    exchanges: Sequence[story.Exchange],
    sheet: Image.Image,
    timetable: Timetable,
    seconds: float,
    out: Path,
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
            (f"{sum(timetable.steps.values()):,}", "steps"),
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
