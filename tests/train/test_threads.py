"""Threads: the faster number is found, found again when the machine changes, and changes no number of a run."""

from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
import torch
from torch import nn

from mplug_owl.train import threads
from mplug_owl.train.threads import SHARE, Choice, Threads, candidates, cores

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

    assert candidates(None, CPU, "bf16") == (1, 4)
    assert candidates(3, CPU, "bf16") == (3,)
    assert candidates(None, torch.device("cuda"), "bf16") == ()
    assert candidates(None, CPU, "fp32") == ()
    assert candidates(None, CPU, "bf16", compiled=True) == ()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert candidates(None, CPU, "bf16") == ()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert candidates(None, CPU, "bf16") == ()


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


class Sums(nn.Module):
    """The layers whose sums torch splits among threads, and dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 16, 3, stride=2)
        self.norm, self.scores, self.unused = nn.LayerNorm(50), nn.Linear(50, 50), nn.Linear(2, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        rows = self.norm(self.convolution(pictures).flatten(2)[:, :, :50])
        return (self.dropout(self.scores(rows)).softmax(-1) * rows).square().mean(-1).sum(-1).mean()


def step(model: Sums, chosen: Threads, size: int = 64) -> tuple[torch.Tensor, float]:
    """The gradients of four passes, and the loss."""
    model.zero_grad()
    pictures = torch.randn(4, size, 8, 30, 30, generator=torch.Generator().manual_seed(1))
    with chosen:
        loss = chosen.backward([partial(model, batch) for batch in pictures], range(4), POSITIONS)
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]), float(loss)


def same(one: tuple[torch.Tensor, float], other: tuple[torch.Tensor, float]) -> bool:
    return torch.equal(one[0], other[0]) and one[1] == other[1]


@pytest.fixture
def model() -> Sums:
    torch.manual_seed(0)
    return Sums(dropout=0.0)


@pytest.fixture
def in_turn(model: Sums) -> tuple[torch.Tensor, float]:
    """What one thread computes, as a loop over the passes would."""
    torch.set_num_threads(1)
    return step(model, Threads(model))


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("at_once", [1, 2])
def test_every_number_of_threads_computes_the_same_bits(
    model: Sums, in_turn: tuple[torch.Tensor, float], count: int, at_once: int
) -> None:
    assert same(step(model, Threads(model, (count,), at_once)), in_turn)


def test_one_thread_computes_what_a_plain_loop_computes(model: Sums, in_turn: tuple[torch.Tensor, float]) -> None:
    model.zero_grad()
    pictures = torch.randn(4, 64, 8, 30, 30, generator=torch.Generator().manual_seed(1))
    for batch in pictures:
        model(batch).backward()
    plain = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    assert torch.equal(plain, in_turn[0])


def test_sums_that_are_not_kept_whole_differ(
    model: Sums, in_turn: tuple[torch.Tensor, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "SPLIT_SUMS", ())
    assert not same(step(model, Threads(model, (2,), at_once=1)), in_turn)


def test_passes_that_draw_dropout_are_computed_in_turn_and_draw_the_same() -> None:
    model = Sums(dropout=0.5)
    torch.set_num_threads(1)
    expected = step(model, Threads(model), size=2)
    assert not same(step(model.eval(), Threads(model), size=2), expected)
    chosen = Threads(model.train(), (2,))
    assert same(step(model, chosen, size=2), expected)
    assert chosen.at_once == 1


def test_two_passes_are_computed_at_once_and_no_more(model: Sums) -> None:
    began, most = Barrier(2, timeout=60), []

    def forward(batch: torch.Tensor) -> torch.Tensor:
        most.append(began.wait())  # one alone would wait in vain
        assert torch.get_num_threads() == 2
        return model(batch)

    chosen = Threads(model, (4,))
    with chosen:
        chosen.backward([partial(forward, torch.ones(1, 8, 30, 30))] * 4, range(4), POSITIONS)
    assert sorted(most) == [0, 0, 1, 1]


def test_a_large_model_has_one_pass_at_a_time(model: Sums, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Threads(model, (2,)).at_once == 2
    monkeypatch.setattr(threads, "SMALL", 100)
    assert Threads(model, (2,)).at_once == 1


def test_what_a_pass_raises_is_raised_here(model: Sums) -> None:
    def broken() -> torch.Tensor:
        raise ZeroDivisionError("a mistake of ours")

    with Threads(model, (2,)) as chosen, pytest.raises(ZeroDivisionError, match="a mistake of ours"):
        chosen.backward([broken, broken], range(2), POSITIONS)


class ThreeNow:
    """A choice that finds three threads to be faster than one."""

    used = turn = 1

    def add(self, seconds: float, positions: int) -> None:
        self.used = self.turn = 3


def test_a_choice_is_said_and_torch_gets_its_own_number_back(model: Sums) -> None:
    torch.set_num_threads(1)
    notes: list[str] = []
    with Threads(model, (1, 3), note=notes.append) as chosen:
        chosen.choice = ThreeNow()
        for _ in range(2):
            chosen.backward([partial(model, torch.ones(1, 8, 30, 30))], [0], POSITIONS)
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 1
    assert notes == ["computing with 3 threads, now faster than 1 thread"]
