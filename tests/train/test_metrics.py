"""What a run writes down: a JSON line every few steps, trackers where asked for, and a curve."""

from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image

from mplug_owl.errors import Interrupted
from mplug_owl.recipes import paper
from mplug_owl.train import metrics, processes
from mplug_owl.train.recipe import as_json
from mplug_owl.train.reporter import Progress
from mplug_owl.train.run import train
from tests.school import initial_model, lesson, lessons, quietly


def filled(path: Path, steps: range, start: int = 0) -> None:
    log = metrics.Metrics(path, start)
    for step in steps:
        log.write(step=step, loss=1 / step)


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    filled(tmp_path / "metrics.jsonl", range(1, 4))
    assert metrics.read(tmp_path / "metrics.jsonl") == [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]


def test_resumed_it_has_every_step_once(tmp_path: Path) -> None:
    filled(tmp_path / "metrics.jsonl", range(1, 9))
    filled(tmp_path / "metrics.jsonl", range(7, 11), start=6)
    assert [row["step"] for row in metrics.read(tmp_path / "metrics.jsonl")] == list(range(1, 11))


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    filled(file, range(1, 4))
    file.write_text(file.read_text()[:-5])
    assert [row["step"] for row in metrics.read(file)] == [1, 2]
    filled(file, range(3, 4), start=2)
    assert [row["step"] for row in metrics.read(file)] == [1, 2, 3]


def test_a_run_without_metrics_has_none(tmp_path: Path) -> None:
    assert metrics.read(tmp_path / "metrics.jsonl") == []


def test_the_curve_is_a_picture_with_a_panel_for_each_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        filled(tmp_path / name / "metrics.jsonl", range(1, 30))
    sizes = []
    for runs in (["one"], ["one", "two"]):
        with Image.open(metrics.draw([tmp_path / name for name in runs], tmp_path / "curve.png")) as drawn:
            drawn.load()
            assert drawn.format == "PNG"
            sizes.append(drawn.size)
            assert len(drawn.convert("RGB").getcolors(1 << 24)) > 10  # there is something on it
    assert sizes[1] == (2 * sizes[0][0], sizes[0][1])


class Notebook(GeneralTracker):
    """A tracker that only remembers."""

    name, requires_logging_directory = "notebook", False

    def __init__(self) -> None:
        super().__init__()
        self.recipe, self.lines, self.finished = {}, [], False

    @property
    def tracker(self) -> "Notebook":
        return self

    def store_init_configuration(self, values: dict) -> None:
        self.recipe = values

    def log(self, values: dict, step: int | None = None, **kwargs) -> None:
        self.lines.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_a_tracker_gets_the_recipe_and_the_same_lines(tmp_path: Path) -> None:
    notebook = Notebook()
    (tracker,) = metrics.follow(Accelerator(log_with=[notebook]), "one", as_json(paper.instruct()))
    log = metrics.Metrics(tmp_path / "metrics.jsonl", trackers=[tracker])
    log.write(step=3, loss=0.5, lr=1e-3)
    log.close()
    assert notebook.lines == [(3, {"loss": 0.5, "lr": 1e-3})]
    assert metrics.read(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5, "lr": 1e-3}]
    assert notebook.finished
    assert notebook.recipe["optimizer.lr"] == 2e-5
    assert notebook.recipe["optimizer.betas"] == "[0.9, 0.999]"
    assert notebook.recipe["modules.config.text_config.hidden_size"] == 4096
    assert all(isinstance(value, bool | int | float | str) for value in notebook.recipe.values())  # what they all take


@pytest.mark.parametrize("end", [Interrupted("asked"), ValueError("damaged")], ids=["stopped", "raised"])
def test_trackers_are_closed_however_a_run_ends(end: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook, recipe, sources = Notebook(), lesson(steps=3, trackers=("tensorboard",)), lessons(tmp_path / "data")
    monkeypatch.setattr(metrics, "check", lambda trackers: None)
    monkeypatch.setattr(processes, "Accelerator", lambda **options: Accelerator())
    monkeypatch.setattr(metrics, "follow", lambda *_: [notebook])

    def stop(progress: Progress) -> None:
        raise end

    with pytest.raises(type(end)):
        quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run", report=stop)
    assert [step for step, _ in notebook.lines] == [1]
    assert notebook.finished


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_is_told_before_anything_else(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    recipe, told = lesson(trackers=(tracker,)), rf"trackers={tracker}: its package is not installed; pip install {tracker}"
    with pytest.raises(ValueError, match=told):
        train(recipe, tmp_path / "run")
    with pytest.raises(ValueError, match=told):
        quietly(recipe, None, [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_what_a_run_wrote(tmp_path: Path) -> None:
    """Seen with tensorboard 2.21; skipped where it is not installed."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe, sources = lesson(steps=3, trackers=("tensorboard",)), lessons(tmp_path / "data")
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "mplug-owl"))
    events.Reload()
    rows = metrics.read(tmp_path / "run" / "metrics.jsonl")
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (row["step"], pytest.approx(row["loss"])) for row in rows
    ]


def test_mfu_is_told_where_the_rate_is_known_and_never_made_up(tmp_path: Path) -> None:
    sources = lessons(tmp_path / "data")
    for name, recipe in (("cpu", lesson(steps=2)), ("known", lesson(steps=2, tflops=1e-3))):
        quietly(recipe, initial_model(recipe, sources), sources, tmp_path / name)
    assert all("mfu" not in row for row in metrics.read(tmp_path / "cpu" / "metrics.jsonl"))
    assert all(row["mfu"] > 0 for row in metrics.read(tmp_path / "known" / "metrics.jsonl"))
