"""The benchmark of an unspoilt language, a few questions long: both owls know the world in words."""

from benchmarks.language import SITTINGS, answers, owls
from mplug_owl.eval.report import share


def test_the_language_model_knows_the_world_before_it_sees_it() -> None:
    for owl in owls().values():
        answered = answers(owl, 3, 0)
        for sitting in SITTINGS:
            told = share([one for one in answered if one.sitting is sitting])
            assert told.asked == 18
            assert told.right >= 0.7 * told.asked  # 94 of 100 by the whole
