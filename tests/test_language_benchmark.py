"""The benchmark of an unspoilt language, a few questions long: both owls know the world in words."""

from benchmarks.language import SITTINGS, measure
from mplug_owl.chat import load
from mplug_owl.model.build import build
from mplug_owl.recipes import tiny


def test_the_language_model_knows_the_world_before_it_sees_it() -> None:
    for owl in (build(tiny.OWL_TINY, [], 0), load("owl-tiny", dtype="float32")):
        lines = measure(owl, 3, 0)
        assert len(lines) == len(SITTINGS)
        for line, sitting in zip(lines, SITTINGS, strict=True):
            assert line.startswith(f"{sitting.title} ")
            assert float(line.removeprefix(f"{sitting.title} ").split()[0]) >= 70  # of 18 questions; 94 of 100 by the whole
