"""An exam in the middle of a run: what it says is written down, and the run goes on as if there had been none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mplug_owl.errors import Interrupted, UserError
from mplug_owl.eval.during import small_exam
from mplug_owl.model.build import Modules
from mplug_owl.model.load import Owl
from mplug_owl.train import metrics
from mplug_owl.train.exam import Exam
from mplug_owl.train.recipe import LoRA
from mplug_owl.train.reporter import Progress
from tests.eval.quiz import Quiz
from tests.school import initial_model, lesson, lessons, quietly, small_with_dropout
from tests.tiny import tiny_config, tiny_owl, tiny_processor

FORGETFUL = lesson(
    language="lora",
    steps=7,
    log_every=2,
    save_every=3,
    lora=LoRA(rank=2, alpha=4, dropout=0.3),
    modules=Modules(small_with_dropout, vocabulary=300),
)
ABILITIES = ("reading", "talking", "overall")


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def exam(asked: list[str]) -> Exam:
    """A real one, that draws from the global random stream besides."""
    take = small_exam(Quiz(), pictures=True, report=asked.append, count=2)

    def disturbing(owl: Owl) -> dict[str, float]:
        assert not any(module.training for module in owl.model.modules())
        torch.rand(3)
        return take(owl)

    return Exam(3, disturbing)


def rows(run: Path) -> dict[int, dict[str, float]]:
    return {row["step"]: row for row in metrics.read(run / "metrics.jsonl")}


@pytest.mark.parametrize("change", [{}, {"precision": "bf16", "frozen_bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_it_changes_no_number_of_the_run(change: dict, exam: Exam, asked: list[str], data: Path, tmp_path: Path) -> None:
    recipe = replace(FORGETFUL, log_every=1, **change)
    sources = lessons(data)
    modes = []
    for name, given in (("with", exam), ("without", None)):
        owl = initial_model(recipe, sources)

        def watch(progress: Progress, owl: Owl = owl) -> None:
            modes.append([module.training for module in owl.model.modules()])

        quietly(recipe, owl, sources, tmp_path / name, exam=given, report=watch)
    for folder in ("with", "without"):
        assert len(rows(tmp_path / folder)) == 7
    examined, plain = rows(tmp_path / "with"), rows(tmp_path / "without")
    for step, row in plain.items():
        assert (examined[step]["loss"], examined[step]["grad_norm"]) == (row["loss"], row["grad_norm"])
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("with", "without"))
    assert all(torch.equal(one[weight], other[weight]) for weight in other)
    assert modes[:7] == modes[7:]
    names = {f"eval/{mode}/{ability}" for mode in ("picture", "none") for ability in ABILITIES}
    assert {step for step, row in examined.items() if names <= row.keys()} == {3, 6, 7}
    assert not any(name.startswith("eval/") for row in plain.values() for name in row)
    assert len(asked) == 3
    assert asked[0].startswith("exam of 4 questions, percent correct: ")


def test_a_run_that_was_stopped_has_the_same_exams(exam: Exam, data: Path, tmp_path: Path) -> None:
    sources = lessons(data)
    quietly(FORGETFUL, initial_model(FORGETFUL, sources), sources, tmp_path / "whole", exam=exam)

    def cut(progress: Progress) -> None:
        if progress.step == 4:
            raise Interrupted("the power went off")

    with pytest.raises(Interrupted):
        quietly(FORGETFUL, initial_model(FORGETFUL, sources), sources, tmp_path / "run", exam=exam, report=cut)
    quietly(FORGETFUL, initial_model(FORGETFUL, sources), sources, tmp_path / "run", exam=exam, resume=True)
    whole, resumed = rows(tmp_path / "whole"), rows(tmp_path / "run")
    timed = {"tokens_per_second", "samples_per_second", "data_wait", "mfu"}
    assert whole.keys() == resumed.keys()
    for step, row in whole.items():
        assert {name: value for name, value in resumed[step].items() if name not in timed} == {
            name: value for name, value in row.items() if name not in timed
        }
    metrics.draw([tmp_path / "run"], tmp_path / "curve.png")  # which exams leave as it was
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_one_that_sees_no_pictures_is_asked_about_descriptions(tmp_path: Path, data: Path) -> None:
    owl = initial_model(FORGETFUL, lessons(data))
    said = small_exam(Quiz(), pictures=False, count=1)(owl)
    assert said.keys() == {f"eval/description/{ability}" for ability in ABILITIES}


def test_it_is_due_every_so_many_steps_and_at_the_end() -> None:
    assert [step for step in range(1, 12) if Exam(4, lambda owl: {}).due(step, 11)] == [4, 8, 11]


def test_a_task_that_nobody_can_grade_at_once_is_refused() -> None:
    with pytest.raises(UserError, match="quiz: people or a judge grade it afterwards"):
        small_exam(Quiz(grader=None), pictures=True)


def test_a_task_without_descriptions_is_asked_as_it_is(asked: list[str]) -> None:
    quiz = Quiz(conditions=Quiz().conditions[3:])
    model = tiny_owl(tiny_config())
    owl = Owl(model, tiny_processor(model))
    assert set(small_exam(quiz, pictures=False, report=asked.append, count=2)(owl)) == {
        "eval/picture/reading",
        "eval/picture/overall",
    }


def test_never_and_a_name_that_is_taken_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^Exam: every is 0; it must be 1 or more$"):
        Exam(0, lambda owl: {})
    recipe, sources = lesson(steps=1), lessons(data)
    with pytest.raises(UserError, match=r"^exam: loss is the name of another figure in metrics\.jsonl; call it exam_loss$"):
        quietly(recipe, initial_model(recipe, sources), sources, tmp_path, exam=Exam(1, lambda owl: {"loss": 1.0}))
