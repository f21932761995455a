"""What a run writes down: a JSON line every few steps, and a curve."""

from pathlib import Path

from PIL import Image

from mplug_owl.train import metrics


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
