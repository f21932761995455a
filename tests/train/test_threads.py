"""Threads: the faster number is found, found again when the machine changes, and changes no number of a run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mplug_owl.train import metrics, threads
from mplug_owl.train.threads import SHARE, Choice, Threads, cores, most_threads
from tests.school import initial_model, lesson, lessons, quietly

CPU = torch.device("cpu")
POSITIONS = 1000
QUIET = {1: 0.4, 2: 0.25}  # seconds a step
BUSY = {1: 0.4, 2: 4.0}  # the second core is another program's


def steps(choice: Choice, seconds: dict[int, float], count: int) -> list[int]:
    """Let so many steps take as long as this machine needs, and say with how many threads each was computed."""
    turns = []
    for _ in range(count):
        turns.append(choice.turn)
        choice.add(seconds[choice.turn], POSITIONS)
    return turns


# The faster number is found


def test_a_quiet_machine_gets_all_its_cores_within_ten_steps() -> None:
    choice = Choice(1, 2)
    steps(choice, QUIET, 10)
    assert choice.used == 2


def test_a_busy_core_is_tried_once_and_left_alone() -> None:
    choice = Choice(1, 2)
    assert steps(choice, BUSY, 10).count(2) == 1
    assert choice.used == 1


def test_trials_on_a_busy_machine_cost_a_small_share_of_the_time() -> None:
    choice = Choice(1, 2)
    turns = steps(choice, BUSY, 20_000)
    assert turns.count(2) > 1  # it goes on asking
    lost = turns.count(2) * (BUSY[2] - BUSY[1])
    assert lost < 2 * SHARE * turns.count(1) * BUSY[1]


def test_a_core_that_becomes_busy_is_noticed_within_three_steps() -> None:
    choice = Choice(1, 2)
    steps(choice, QUIET, 50)
    turns = steps(choice, BUSY, 10)
    assert turns.count(2) <= 3
    assert turns[-1] == choice.used == 1


def test_a_smaller_drop_is_noticed_as_well() -> None:
    choice = Choice(1, 2)
    steps(choice, QUIET, 50)
    steps(choice, {1: 0.4, 2: 0.5}, 20)
    assert choice.used == 1


def test_a_core_that_is_free_again_is_used_again() -> None:
    choice = Choice(1, 2)
    steps(choice, BUSY, 20)
    steps(choice, QUIET, 1000)
    assert choice.used == 2


def test_one_slow_step_changes_nothing() -> None:
    choice = Choice(1, 2)
    steps(choice, QUIET, 50)
    steps(choice, {1: 0.4, 2: 1.5}, 1)
    steps(choice, QUIET, 10)
    assert choice.used == 2


def test_rows_of_every_length_are_compared_by_position() -> None:
    choice = Choice(1, 2)
    for number in range(20):
        positions = POSITIONS * (1 + number % 3)
        choice.add(QUIET[choice.turn] * positions / POSITIONS, positions)
    assert choice.used == 2


# Who decides


def test_what_a_user_set_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert most_threads(CPU) == 4
    assert most_threads(torch.device("cuda")) == 1
    assert most_threads(CPU, processes=2) == 1
    assert most_threads(CPU, compiled=True) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert most_threads(CPU) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert most_threads(CPU) == 1


def test_cores_are_those_of_the_container_shared_among_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("450000 100000\n")
    assert cores(tmp_path) == 4
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cores(tmp_path) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    (tmp_path / "cpu.max").unlink()
    assert cores(tmp_path) == 2


def test_cores_by_the_first_version_of_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    assert cores(tmp_path) == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores(tmp_path) == 8


# What it computes


def test_a_pass_that_reaches_no_weight_adds_its_loss_alone() -> None:
    model = nn.Linear(2, 1)
    for chosen in (Threads(model, 1), Threads(model, most=2)):
        chosen.choice = Always(2)
        assert chosen.backward([lambda: torch.tensor(2.0), lambda: torch.tensor(3.0)], (0, 1), POSITIONS) == 5
        assert model.weight.grad is None


class Layers(nn.Module):
    """A layer of every kind whose sums torch splits among threads, and dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 16, 3, stride=2)
        self.norm, self.scores, self.unused = nn.LayerNorm(50), nn.Linear(50, 50), nn.Linear(2, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        rows = self.norm(self.convolution(pictures).flatten(2)[:, :, :50])
        return (self.dropout(self.scores(rows)).softmax(-1) * rows).square().mean(-1).sum(-1).mean()


class Always:
    """A choice of the same number for every step."""

    def __init__(self, turn: int) -> None:
        self.turn = self.used = turn

    def add(self, seconds: float, positions: int) -> None:
        """The pace changes nothing."""


def passes(model: nn.Module, count: int = 5) -> list[Callable[[], torch.Tensor]]:
    pictures = torch.randn(count, 16, 8, 30, 30, generator=torch.Generator().manual_seed(1))
    return [partial(model, batch) for batch in pictures]


def step(model: nn.Module, chosen: Threads, count: int = 5) -> tuple[torch.Tensor, float]:
    """The gradients of a step, and its loss."""
    model.zero_grad()
    loss = chosen.backward(passes(model, count), range(count), POSITIONS)
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]), float(loss)


def same(one: tuple[torch.Tensor, float], other: tuple[torch.Tensor, float]) -> bool:
    return torch.equal(one[0], other[0]) and one[1] == other[1]


@pytest.fixture
def model() -> Layers:
    torch.manual_seed(0)
    return Layers()


def test_one_thread_computes_what_a_plain_loop_computes(model: Layers) -> None:
    found = step(model, Threads(model, 1))[0]
    model.zero_grad()
    for forward in passes(model):
        forward().backward()
    assert torch.equal(found, torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_passes_side_by_side_compute_the_same_bits(model: Layers, count: int) -> None:
    chosen = Threads(model, most=4)
    chosen.choice = Always(count)
    with chosen:
        assert same(step(model, chosen), step(model, Threads(model, 1)))
    assert chosen.shared is None


def test_side_by_side_is_at_the_same_time(model: Layers) -> None:
    together, waited = Barrier(2, timeout=60), []

    def forward(usual: Callable[[], torch.Tensor]) -> torch.Tensor:
        waited.append(together.wait())  # one alone would wait in vain
        assert torch.get_num_threads() == 1
        return usual()

    with Threads(model, most=2, begun=True) as chosen:
        chosen.choice = Always(2)
        chosen.backward([partial(forward, usual) for usual in passes(model, 4)], range(4), POSITIONS)
    assert sorted(waited) == [0, 0, 1, 1]


def test_passes_that_draw_dropout_are_computed_in_turn() -> None:
    model = Layers(dropout=0.5)
    expected = step(model, Threads(model, 1))
    assert not same(step(model.eval(), Threads(model, 1)), expected)
    with Threads(model.train(), most=2) as chosen:
        step(model, chosen)
        assert chosen.shared in (1, 2)
        assert not chosen.side_by_side


def test_dropout_that_is_drawn_later_is_noticed_and_drawn_as_ever(model: Layers) -> None:
    with Threads(model, most=2) as chosen:
        chosen.choice = Always(2)
        step(model, chosen)
        assert chosen.side_by_side
        model.dropout.p = 0.5
        assert same(step(model, chosen), step(model, Threads(model, 1)))
        assert not chosen.side_by_side
        assert chosen.shared == 1


@pytest.mark.parametrize(("count", "small"), [(1, 50_000_000), (5, 100)], ids=["one pass", "a large model"])
def test_where_passes_are_not_side_by_side_the_number_is_timed_once(
    model: Layers, monkeypatch: pytest.MonkeyPatch, count: int, small: int
) -> None:
    timed: list[int] = []
    monkeypatch.setattr(threads, "_faster", lambda forward, weights, most: timed.append(most) or 1)
    monkeypatch.setattr(threads, "SMALL", small)
    notes: list[str] = []
    with Threads(model, most=3, note=notes.append) as chosen:
        for _ in range(2):
            assert same(step(model, chosen, count), step(model, Threads(model, 1), count))
    assert timed == [3]
    assert chosen.shared == 1
    assert notes == ["computing with 1 thread, timed before the first step"]


def test_the_faster_number_is_timed_by_a_pass_and_given_up_at_once_if_slow(
    model: Layers, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, computed = [0.0], []

    def compute(seconds: dict[int, float], forward: object, weights: object, count: int) -> None:
        computed.append(count)
        now[0] += seconds[count]

    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(threads, "_gradients", partial(compute, QUIET))
    assert threads._faster(lambda: torch.zeros(()), [], 2) == 2
    assert computed == [1, 2, 1, 2]
    computed.clear()
    monkeypatch.setattr(threads, "_gradients", partial(compute, BUSY))
    assert threads._faster(lambda: torch.zeros(()), [], 2) == 1
    assert computed == [1, 2]


def test_a_resumed_run_keeps_what_it_chose(model: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_faster", lambda *given: pytest.fail("timed again"))
    with Threads(model, 2, most=4, begun=True) as chosen:
        step(model, chosen, 1)
        assert torch.get_num_threads() == chosen.shared == 2
    with Threads(model, most=4, begun=True) as chosen:
        step(model, chosen, 1)
        assert chosen.side_by_side


def test_what_a_pass_raises_is_raised_here(model: Layers) -> None:
    def broken() -> torch.Tensor:
        raise ZeroDivisionError("a mistake of ours")

    with Threads(model, most=2, begun=True) as chosen:
        chosen.choice = Always(2)
        with pytest.raises(ZeroDivisionError, match="a mistake of ours"):
            chosen.backward([broken, broken], range(2), POSITIONS)


def test_a_step_without_passes_has_no_loss(model: Layers) -> None:
    for count in (1, 2):
        with Threads(model, most=2) as chosen:
            chosen.choice = Always(count)
            assert chosen.backward([], [], 0) == 0


def test_a_new_choice_is_said_and_torch_gets_its_own_number_back(model: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    now, notes = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def forward(usual: Callable[[], torch.Tensor]) -> torch.Tensor:
        now[0] += QUIET[chosen.choice.turn]
        return usual()

    before = torch.get_num_threads()
    with Threads(model, 3) as fixed:
        step(model, fixed, 1)
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    with Threads(model, most=2, note=notes.append) as chosen:
        for _ in range(10):
            chosen.backward([partial(forward, usual) for usual in passes(model, 2)], range(2), POSITIONS)
    assert notes == ["computing with 2 threads, now faster than 1 thread"]


# Whole runs


@pytest.mark.parametrize(
    "fields",
    [{}, {"gradient_checkpointing": True}, {"language": "lora", "precision": "fp32"}],
    ids=["full", "recomputed", "fp32"],
)
def test_a_run_ends_with_the_same_weights_whatever_computed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr(threads, "most_threads", lambda *given: 2)
    sources = lessons(tmp_path / "data")
    runs = []
    for count in (1, 2):
        monkeypatch.setattr(threads, "Choice", lambda *numbers, count=count: Always(count))
        recipe = lesson(**{"precision": "bf16", "steps": 4, **fields})
        folder = tmp_path / str(count)
        quietly(recipe, initial_model(recipe, sources), sources, folder)
        rows = [(row["loss"], row["grad_norm"]) for row in metrics.read(folder / "metrics.jsonl")]
        runs.append((load_file(folder / "model" / "model.safetensors"), rows))
    (weights, rows), (others, other_rows) = runs
    assert rows == other_rows
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_checkpoint_knows_how_many_threads_shared_the_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "most_threads", lambda *given: 2)
    monkeypatch.setattr(threads, "_faster", lambda forward, weights, most: 2)
    sources, recipe = lessons(tmp_path / "data"), lesson(batch=2, steps=4, save_every=2)
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run")
    monkeypatch.setattr(threads, "_faster", lambda *given: pytest.fail("timed again"))
    whole = load_file(tmp_path / "run" / "model" / "model.safetensors")
    quietly(recipe, initial_model(recipe, sources), sources, tmp_path / "run", resume=True)
    resumed = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
