"""The benchmark of an exam, at a small size: both ways are timed in turn and answer alike."""

from benchmarks.exam import compare
from mplug_owl import load
from mplug_owl.eval.tasks.scenes import DrawnWorld


def test_both_ways_answer_alike() -> None:
    costs, different = compare(load("owl-tiny", device="cpu"), DrawnWorld().questions("seen", 1, 0), repeats=2)
    assert different == 0
    assert {way: len(several) for way, several in costs.items()} == {"before": 2, "now": 2}
    assert all(cost.wall > 0 and cost.cpu > cost.answers > 0 for several in costs.values() for cost in several)
