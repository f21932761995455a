"""Threads: the faster number is found, found again when the machine changes, and changes no number of a run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mplug_owl.train import threads
from mplug_owl.train.threads import SHARE, Choice, Threads, candidates, cores

CPU = torch.device("cpu")
POSITIONS = 1000
QUIET = {1: 0.4, 2: 0.25}  # seconds a pass
BUSY = {1: 0.4, 2: 4.0}  # the second core is another program's


def passes(choice: Choice, seconds: dict[int, float], count: int) -> list[int]:
    """Let so many passes take as long as this machine needs, and say with how many threads each was computed."""
    turns = []
    for _ in range(count):
        turns.append(choice.turn)
        choice.add(seconds[choice.turn], POSITIONS)
    return turns


# The faster number is found


def test_a_quiet_machine_gets_all_its_cores_within_ten_passes() -> None:
    choice = Choice(1, 2)
    passes(choice, QUIET, 10)
    assert choice.used == 2


def test_a_busy_core_is_tried_once_and_left_alone() -> None:
    choice = Choice(1, 2)
    assert passes(choice, BUSY, 10).count(2) == 1
    assert choice.used == 1


def test_trials_on_a_busy_machine_cost_a_small_share_of_the_time() -> None:
    choice = Choice(1, 2)
    turns = passes(choice, BUSY, 20_000)
    assert turns.count(2) > 1  # it goes on asking
    lost = turns.count(2) * (BUSY[2] - BUSY[1])
    assert lost < 2 * SHARE * turns.count(1) * BUSY[1]


def test_a_core_that_becomes_busy_is_noticed_within_three_passes() -> None:
    choice = Choice(1, 2)
    passes(choice, QUIET, 50)
    turns = passes(choice, BUSY, 10)
    assert turns.count(2) <= 3
    assert turns[-1] == choice.used == 1


def test_a_smaller_drop_is_noticed_as_well() -> None:
    choice = Choice(1, 2)
    passes(choice, QUIET, 50)
    passes(choice, {1: 0.4, 2: 0.5}, 20)
    assert choice.used == 1


def test_a_core_that_is_free_again_is_used_again() -> None:
    choice = Choice(1, 2)
    passes(choice, BUSY, 20)
    passes(choice, QUIET, 1000)
    assert choice.used == 2


def test_one_slow_pass_changes_nothing() -> None:
    choice = Choice(1, 2)
    passes(choice, QUIET, 50)
    passes(choice, {1: 0.4, 2: 1.5}, 1)
    passes(choice, QUIET, 10)
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


# What it sets


def test_torch_computes_with_the_chosen_number_and_gets_its_own_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock) / torch.get_num_threads())
    notes: list[str] = []
    before, seen = torch.get_num_threads(), set()
    with Threads((1, 2), notes.append) as chosen:
        for _ in range(12):
            with chosen.timed(POSITIONS):
                seen.add(torch.get_num_threads())
            assert torch.get_num_threads() == chosen.choice.used
    assert seen == {1, 2}
    assert torch.get_num_threads() == before
    assert notes[0] == "computing with 2 threads, now faster than 1 thread"


class Sums(nn.Module):
    """The layers whose sums torch splits among threads."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 16, 3, stride=2)
        self.norm, self.scores = nn.LayerNorm(50), nn.Linear(50, 50)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        rows = self.norm(self.convolution(pictures).flatten(2)[:, :, :50])
        return (self.scores(rows).softmax(-1) * rows).square().mean(-1).sum(-1).mean()


def gradients(count: int, backward: Callable[[torch.Tensor], None]) -> torch.Tensor:
    torch.manual_seed(0)
    model, pictures = Sums(), torch.randn(64, 8, 30, 30)
    with Threads((count,)):
        backward(model(pictures))
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_gradients_are_the_same_bits_with_every_number_of_threads() -> None:
    ordered = Threads().backward
    assert torch.equal(gradients(1, ordered), gradients(2, ordered))
    assert torch.equal(gradients(1, ordered), gradients(3, ordered))


def test_the_sums_left_to_one_thread_are_those_that_would_differ() -> None:
    plain = torch.Tensor.backward
    assert not torch.equal(gradients(1, plain), gradients(2, plain))
