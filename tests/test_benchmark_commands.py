"""The benchmarks' commands: those that pages name are there, and a wrong option is a sentence and no traceback."""

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import blip2, packing, short
from benchmarks.beside import Beside
from benchmarks.command import checkout, run
from benchmarks.short import Short
from mplug_owl.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"`((?:\w+=\S+ )*python (?:-m benchmarks\.|benchmarks/)[^`]+)`")
ON_PAGES = {" ".join(found.split()) for page in PAGES for found in NAMED.findall(page.read_text("utf-8"))}
COMMANDS = sorted(ON_PAGES | {f"python -m {shlex.join(one.command)}" for one in short.SHORT})


class ParsedError(Exception):
    """A benchmark has read its options."""


def start(name: str, *options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a benchmark as a command."""
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks end once they have read their options."""
    parse = argparse.ArgumentParser.parse_args

    def parse_alone(self: argparse.ArgumentParser, *given: object) -> None:
        parse(self, *given)  # type: ignore[call-overload]
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_page_or_of_make_bench_is_one_that_there_is(
    command: str, only_parsed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.command.checkout", Path)  # CHECKOUT stands for one
    words = shlex.split(command[command.index("python ") :])[1:]
    as_module = words[0] == "-m"
    name = words[1].removeprefix("benchmarks.") if as_module else Path(words[0]).stem
    options = words[2 if as_module else 1 :]
    if not as_module:
        # Python then looks beside the file, where no `benchmarks` is.
        assert "from benchmarks" not in (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")
    if name == "parity":
        assert options == []  # which takes a folder and no options
        return
    with pytest.raises(ParsedError):
        start(name, *options, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("start", ["--repeats", "0"], "argument --repeats: 0, expected at least 1"),
        ("words", ["--rows", "0"], "argument --rows: 0, expected at least 1"),
        ("tiny", ["--against", "docs"], "docs is no checkout, expected a folder with src/mplug_owl"),
        ("tiny", ["--against", ".", "--set", "stpes=1"], "stpes"),
        ("data", ["--pictures", "64"], "expected --pictures 128 or more"),
        ("checkpoint", ["--steps", "3", "--every", "9"], "--every 9, expected 2 to 3"),
        ("precision", ["--steps", "5"], "--steps 5, expected at least 10"),
        ("short", ["ordre"], "no short benchmark ordre"),
        ("smol", ["--sections", "exams"], "invalid choice: 'exams'"),
        ("smol", ["--model", "nowhere", "--sections", "exam"], "nowhere"),
        ("smol", ["--questions", "nowhere"], "--questions nowhere: there is no question.jsonl"),
        ("smol", ["--out", "nowhere/all.json"], "nowhere/all.json: there is no folder nowhere"),
        ("order", ["--picture", "nowhere/order.png"], "nowhere/order.png: there is no folder nowhere"),
        ("owleval_memory", ["--data", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_option_is_a_sentence(
    name: str,
    options: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(ROOT if "--against" in options else tmp_path)
    with pytest.raises(SystemExit) as left:
        start(name, *options, monkeypatch=monkeypatch)
    assert left.value.code == 2
    assert told in capsys.readouterr().err


def test_a_crash_of_ours_keeps_its_traceback() -> None:
    def crash() -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        run(crash)


def test_this_checkout_is_one() -> None:
    assert checkout(str(ROOT)) == ROOT


def test_a_process_beside_that_ends_is_a_sentence() -> None:
    answers = "for line in open(0):\n if 'end' in line: break\n print(len(line), flush=True)"
    with Beside([sys.executable, "-c", answers]) as other:
        assert other.ask("four") == 5
        for _ in range(2):
            with pytest.raises(SystemExit, match="ended before it answered"):
                other.ask("end")


def test_a_run_of_other_steps_is_not_measured_in_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipe.json").write_text('{"steps": 10}')
    monkeypatch.setattr(sys, "argv", ["blip2", "--steps", "500", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="a run of 10 steps"):
        blip2.main()


def test_padded_and_packed_rows_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list[int]()

    def learn(learner: object, batches: list[packing.Batch]) -> tuple[float, float]:
        rows.append(sum(len(batch.input_ids) for batch in batches))
        return 1.0, 1.0

    monkeypatch.setattr(packing, "learn", learn)
    packing.main(limit=128, samples=8, repeats=3)
    assert rows == rows[:2] * 3
    assert rows[0] == 8 > rows[1]


@pytest.mark.parametrize(
    ("printed", "code", "told"), [("figure: 1", 0, "a: 1, at most 2: reached"), ("nothing", 1, "a: no figure like")]
)
def test_a_benchmark_without_its_figure_has_failed_and_the_next_one_runs(
    printed: str, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say: Callable[[str], tuple[str, ...]] = lambda words: ("timeit", "-n1", "-r1", f"print({words!r})")  # noqa: E731
    found = (Short("a", say(printed), r"^figure: (\d)", 2), Short("b", say("figure: 2"), r"^figure: (\d)", 2))
    monkeypatch.setattr(short, "SHORT", found)
    assert short.main([]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(told)
    assert lines[1].startswith("b: 2, at most 2: reached")
