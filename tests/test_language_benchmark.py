"""The benchmark of an unspoilt language, a few questions long: both owls know the world in words."""

from benchmarks.language import CONDITIONS, grades, owls
from mplug_owl.eval.statistics import share


def test_the_language_model_knows_the_world_before_it_sees_it() -> None:
    for owl in owls().values():
        graded = grades(owl, 3, 0)
        for condition in CONDITIONS:
            found = share([grade for grade in graded if grade.answer.condition is condition])
            assert found.total == 18
            assert found.value >= 0.7  # 94 of 100 by the whole
