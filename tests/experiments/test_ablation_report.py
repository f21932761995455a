"""A study's tables, figure and page with whatever a study of one's own is called and says."""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from mplug_owl.errors import UserError
from mplug_owl.eval.answer import Answer
from mplug_owl.eval.grade import Grade
from mplug_owl.experiments import ablation_report
from mplug_owl.experiments.ablation import ablate, report
from mplug_owl.experiments.study import Study
from tests.experiments.test_ablation import Colours, guesses

pytest.importorskip("scipy")
QUIET = Console(quiet=True)


def test_words_of_a_study_are_text_and_neither_markup_nor_formulas(tmp_path: Path) -> None:
    study = guesses(none=0.0, much=1.0)
    words = "Is [/red] worth $5 and $6^?"
    claim = replace(study.claims[0], words="More [b]is[/i] more.")
    console = Console(file=io.StringIO(), width=100)
    ablate(replace(study, words=words, claims=(claim,), notes=("A note [/x].",)), tmp_path, seeds=1, console=console)
    told = console.file.getvalue()
    for said in (words, "More [b]is[/i] more.", "A note [/x]."):
        assert said in told


def told(study: Study, out: Path) -> tuple[str, str]:
    report(study, out, console=QUIET)
    return (out / "table.txt").read_text("utf-8"), (out / "study.html").read_text("utf-8")


def test_what_is_missing_of_an_arm_is_said_in_its_row(tmp_path: Path) -> None:
    """Else a mean of one seed stands beside means of three, and an arm without a reference looks like the reference."""
    study = replace(guesses(none=0.2, some=0.5, much=0.9), claims=())
    ablate(study, tmp_path, seeds=1, console=QUIET, arms=("none",))
    for text in told(study, tmp_path):
        assert "no seed in common" in text
        assert "– of 1" in text
        assert "No intervals of differences: they need 3 seeds." in text
    ablate(study, tmp_path, console=QUIET, arms=("much",))
    for text in told(study, tmp_path):
        assert "no seed in common" not in text
        assert "too few seeds" in text
        assert text.count("not run yet") == 2  # the middle arm, and how many cells


def test_the_share_of_steps_is_said_where_it_is_not_all(tmp_path: Path) -> None:
    study = guesses(none=0.0, much=1.0)
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(UserError, match="has no arm most"):
        ablate(study, tmp_path, share=0.01, console=console, arms=("most",))
    assert not list(tmp_path.iterdir())  # so that the next run is not a short one
    ablate(study, tmp_path, share=0.01, seeds=1, console=console)
    assert "as it began" not in console.file.getvalue()
    ablate(study, tmp_path, seeds=1, console=console)
    assert f"{tmp_path} has 0.01 of the usual steps, as it began" in console.file.getvalue()
    for text in told(study, tmp_path):
        assert "Each stage has 0.01 of its usual steps." in text


@dataclass(frozen=True)
class Mute:
    """Grades nothing, as a judge that nobody could read."""

    def grades(self, answers: Sequence[Answer]) -> list[Grade]:
        return [Grade(one, None) for one in answers]


def test_what_has_no_score_is_a_dash(tmp_path: Path) -> None:
    study = replace(guesses(none=0.0, much=1.0), task=Colours(grader=Mute()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ablate(study, tmp_path, console=QUIET)
    assert (found.noise, found.of("asked")[0].by_seed) == (None, ())
    for text in told(study, tmp_path):
        assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", text))


def test_before_anything_is_run_there_is_a_figure_without_rows(tmp_path: Path) -> None:
    study = guesses(none=0.0, much=1.0)
    ablate(study, tmp_path, seeds=1, console=QUIET)
    for folder in tmp_path.glob("*-seed0"):
        (next(folder.glob("exam-*")) / "scores.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert report(study, tmp_path, console=QUIET).missing == 6


def test_a_page_is_made_while_another_process_writes_its_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, saved = guesses(none=0.0, much=1.0), ablation_report.save

    def torn(*figure: object) -> None:
        saved(*figure)
        (tmp_path / "figure.png").write_bytes(b"half")  # the other process has begun

    monkeypatch.setattr(ablation_report, "save", torn)
    ablate(study, tmp_path, console=QUIET)
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert "data:image/png" in (tmp_path / "study.html").read_text("utf-8")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file() and path.suffix in (".png", ".svg")) == [
        "figure.png",
        "figure.svg",
    ]


def test_titles_of_conditions_keep_their_capitals_and_claims_say_where_they_are_asked(tmp_path: Path) -> None:
    study = guesses(none=0.0, much=1.0)
    titled = Colours(conditions=(replace(study.task.conditions[0], title="told by OCR"),))
    claims = tuple(replace(claim, condition="told by OCR", abilities=("warm",)) for claim in study.claims)
    ablate(replace(study, task=titled, claims=claims), tmp_path, seeds=1, console=QUIET)
    assert "<h2>Told by OCR</h2>" in (tmp_path / "study.html").read_text("utf-8")
    assert "told by OCR: warm" in (tmp_path / "table.txt").read_text("utf-8")


def test_a_long_question_is_broken_over_lines_in_the_figure(tmp_path: Path) -> None:
    study = replace(guesses(none=0.0, much=1.0), words="Which of these two knows more, " * 8)
    figure = ablation_report.draw(ablate(study, tmp_path, console=QUIET))
    figure.draw_without_rendering()
    box = figure._suptitle.get_window_extent()
    assert box.width <= figure.bbox.width
