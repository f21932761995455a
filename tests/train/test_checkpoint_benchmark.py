"""The benchmark of checkpoints: steps beside a write are told from those alone, a share is of the save_every asked."""

from benchmarks.checkpoint import Costs, Taken, timed


def test_what_a_run_that_saves_pays() -> None:
    steps = [Taken(start, start + 1, 1) for start in (0, 1, 2, 4, 5)]
    costs = Costs(steps, [Taken(3, 3.5, 0.25)], [Taken(3.5, 4.5, 0.5)], 16_300_000)
    told = costs.lines(100)
    assert told[0] == "1 checkpoints of 16.3 MB; 3 steps alone, 1 beside one"
    assert "stalls for 500.0 ms, at worst 500.0; a step takes 1000 ms" in told[1]
    assert "1000 ms, 500 of them CPU" in told[2]
    assert told[4].startswith("stalled every 100 steps: 0.500% of the time (bar 1%); 1.000% where")


def test_what_is_timed_gives_what_it_gave() -> None:
    kept: list[Taken] = []
    assert timed(kept, max)(2, 5) == 5
    assert kept[0].seconds >= 0
