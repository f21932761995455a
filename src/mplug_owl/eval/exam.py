"""`owl eval` from a name to a report: who answers, where the answers are kept, and what is shown at the end."""

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mplug_owl.chat import ChatModel, Decoding, arriving, find
from mplug_owl.conversation import Conversation
from mplug_owl.errors import UserError
from mplug_owl.eval import report, traces
from mplug_owl.eval.answer import Answer, answer_task
from mplug_owl.eval.answers_file import AnswersFile
from mplug_owl.eval.exam_folder import ANSWERS, ExamSettings, fingerprint, open_exam
from mplug_owl.eval.grade import Grader
from mplug_owl.eval.grades_file import key
from mplug_owl.eval.read_answers import read_answers
from mplug_owl.eval.task import Task
from mplug_owl.model.locate import bundled, locate
from mplug_owl.model.quantised import Quantisation

# A file of answers in a model's place.
FROM_FILE = "answers:"
# How long answers get where nothing is known of them; those of the drawn world are shorter.
MAX_NEW_TOKENS, MAX_NEW_TOKENS_SCENES = 512, 48


@dataclass(frozen=True)
class Examinee:
    """Whoever takes an exam and is known by more than a name of `chat.find`.

    Args:
        name: What tables and folders call it.
        weights: A digest of all that decides its answers; they resume only where it is the same.
        open: Makes it ready to answer.
    """

    name: str
    weights: str
    open: Callable[[], ChatModel]


def run_exam(
    model: str | Examinee,
    task: Task,
    data: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    max_new_tokens: int | None = None,
    out: Path | None = None,
    fresh: bool = False,
    device: str | None = None,
    graders: Sequence[Grader] = (),
    quantize: Quantisation | None = None,
) -> Path:
    """Let a model take an exam, or read its answers from a file; returns the folder with answers and report.

    Over 40 lines with its arguments.

    Args:
        model: A name that `chat.find` knows, answers:FILE, or whoever else takes the exam.
        task: What is asked.
        data: What the task reads.
        limit: How many questions, as the task counts them.
        seed: That of the questions.
        max_new_tokens: How long an answer gets.
        out: The folder; beside the model where None.
        fresh: Whether answers that are there are asked anew.
        device: Where a model that runs here answers.
        quantize: What the linear layers of its language model are rounded to; its name says so, and its folder.
        graders: Who grades, each in a column; the task's own where there is none.

    Raises:
        UserError: There is no such model, the folder holds another exam, or an endpoint is down. What was answered is kept.
    """
    for condition in task.conditions:
        task.questions(condition.split, limit, seed)  # what is wrong with the data is said before a model is loaded
    notes = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    length = max_new_tokens or (MAX_NEW_TOKENS_SCENES if task.name == "scenes" else MAX_NEW_TOKENS)
    entered: list[Answer] | None = None
    if isinstance(model, str) and model.startswith(FROM_FILE):
        given = {"--quantize": quantize, "--device": device, "--max-new-tokens": max_new_tokens}
        if useless := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{model}: its answers are given; leave {', '.join(useless)} out")
        entered = read_answers(Path(model.removeprefix(FROM_FILE)), task, limit, seed, notes.print)
        who = Examinee(entered[0].model, "", partial(find, model))
    else:
        who = _examinee(model, device, quantize) if isinstance(model, str) else model
    settings = ExamSettings(task.name, str(data.resolve()) if data else None, who.name, who.weights, limit, seed, length)
    beside = _beside(model) if isinstance(model, str) else Path("runs")
    folder = out or beside / re.sub(r"[^\w.+-]+", "-", f"eval-{task.name}-{who.name}")
    with open_exam(folder, settings, fresh) as kept:
        if kept.count:
            notes.print(f"{folder}: {kept.count} answers are there; only what is missing is asked (--fresh asks all anew)")
        if entered is None:
            answers = _asked(who.open(), task, settings, kept)
        else:
            answers = entered
            _enter(answers, folder, task, settings, kept)
    if chosen := graders or ((task.grader,) if task.grader is not None else ()):
        grades = [grade for grader in chosen for grade in grader.grades(answers)]
        report.show(grades, Console(markup=False, emoji=False))
        report.write(grades, folder, who.name)
    else:
        for line in _summary(answers, task, folder):
            Console(soft_wrap=True, emoji=False).print(line, highlight=False, markup=False)
    traces.show(answers, Console(markup=False, emoji=False))
    traces.write(answers, folder, who.name)
    return folder


class Watched:
    """A ChatModel that reports how many conversations it is given, and each answer as it arrives."""

    def __init__(self, model: ChatModel, begin: Callable[[int], None], arrived: Callable[[], None]) -> None:
        self.model, self.begin, self.arrived = model, begin, arrived

    def answers(self, conversations: Sequence[Conversation], decoding: Decoding) -> list[str]:
        """The model's own."""
        return self.model.answers(conversations, decoding)

    def stream(self, conversation: Conversation, decoding: Decoding) -> Generator[str, None, None]:
        """The model's own."""
        return self.model.stream(conversation, decoding)

    def arriving(self, conversations: Sequence[Conversation], decoding: Decoding) -> Iterator[tuple[int, str]]:
        """The model's own, counted."""
        self.begin(len(conversations))
        for answer in arriving(self.model, conversations, decoding):
            self.arrived()
            yield answer


def _asked(model: ChatModel, task: Task, settings: ExamSettings, kept: AnswersFile) -> list[Answer]:
    """The answers to a task, those that are known and those that are missing, with a bar of the latter."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)
        return answer_task(
            Watched(model, lambda count: progress.reset(bar, total=count), lambda: progress.advance(bar)),
            task,
            settings.limit,
            settings.seed,
            on_condition=lambda one: progress.update(bar, description=f"{one.table}, {one.title}"),
            answers_file=kept,
            decoding=Decoding(max_new_tokens=settings.max_new_tokens),
        )


def _enter(answers: Sequence[Answer], folder: Path, task: Task, settings: ExamSettings, kept: AnswersFile) -> None:
    """Write answers from a file down. Raises UserError where the folder has another answer to one of their questions."""
    there = read_answers(folder / ANSWERS, task, settings.limit, settings.seed) if kept.count else []
    known = {key(answer): answer.turns for answer in there}
    for answer in answers:
        if known.get(key(answer), answer.turns) != answer.turns:
            raise UserError(
                f"{folder}: has another answer of {answer.model} to question {answer.question.id} than the file; "
                "give another --out, or --fresh"
            )
    for answer in answers:
        kept.add(answer.question, answer.condition, answer.turns)


def _summary(answers: Sequence[Answer], task: Task, folder: Path) -> Iterator[str]:
    """What is known of answers that nobody has graded: how many there are, and who can grade them."""
    for condition in task.conditions:
        here = [answer for answer in answers if answer.condition == condition]
        words = [len(answer.text.split()) for answer in here if answer.text]
        if here:
            length = f", {mean(words):.1f} words in the mean" if words else ""
            yield f"{condition.title}: {len(words)} of {len(here)} questions answered{length}"
    yield "Not graded yet. People grade with"
    yield f"  owl rate {folder}"
    yield "a judge that sees the pictures with" if answers[0].question.picture else "a judge with"
    yield f"  owl judge JUDGE {folder}"
    yield "and the table is made by"
    yield f"  owl report {folder}"


def _examinee(model: str, device: str | None, quantize: Quantisation | None) -> Examinee:
    """Whoever `chat.find` knows under a name."""
    name = model_name(model) + (f"-{quantize}" if quantize else "")
    return Examinee(name, weights_digest(model), partial(find, model, device, quantize=quantize))


def model_name(model: str) -> str:
    """What tables call a model: its folder's name, a run's for the model in it, or what an address ends with."""
    if "#" in model and "://" in model:
        return model.rpartition("#")[2]
    bare = model.removeprefix("hf:").removeprefix("language:")
    folder = Path(bare)
    if not folder.exists():
        return model.removeprefix("hf:")
    folder = folder.resolve()
    return folder.parent.name if folder.name == "model" else folder.name


def weights_digest(model: str) -> str:
    """A digest of a model's files where they are here."""
    if "://" in model:
        return ""
    if model.startswith(("hf:", "language:")):
        return fingerprint(bundled(model.partition(":")[2]))
    return fingerprint(locate(model))


def _beside(model: str) -> Path:
    """Where an exam's folder goes: beside the model's or the run's folder, else in runs/."""
    folder = Path(model.removeprefix("hf:").removeprefix("language:")).resolve()
    if not folder.is_dir():
        return Path("runs")
    return (folder.parent if folder.name == "model" else folder).parent
