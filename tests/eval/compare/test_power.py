"""How many questions: the formula by hand and as it was published, the exact test by enumeration, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from mplug_owl.eval.compare.paired import mcnemar
from mplug_owl.eval.compare.power import exact_power, make_plan, questions_needed, smallest_shown

pytest.importorskip("scipy", reason="the extra `eval` is not installed")

shares = some.floats(0.02, 1).flatmap(lambda share: some.tuples(some.floats(0.02, share), some.just(share)))


@given(shares, some.floats(0.5, 0.99), some.floats(0.001, 0.2))
def test_the_formula_with_scipys_normal_quantiles(found: tuple[float, float], power: float, alpha: float) -> None:
    from scipy.stats import norm

    difference, share = found
    one, other = norm.ppf(1 - alpha / 2), norm.ppf(power)
    expected = (one * share**0.5 + other * max(share - difference**2, 0) ** 0.5) ** 2 / difference**2
    assert questions_needed(difference, share, power, alpha) == pytest.approx(expected, rel=1e-9)


def test_ten_points_with_three_in_ten_discordant() -> None:
    # (1.95996 * 0.54772 + 0.84162 * sqrt(0.29))^2 / 0.01
    assert questions_needed(0.1, 0.3) == pytest.approx(233.1, abs=0.2)


@given(shares)
def test_what_so_many_questions_show_needs_so_many(found: tuple[float, float]) -> None:
    difference, share = found
    needed = questions_needed(difference, share)
    assert smallest_shown(round(needed * 1e6), share) is not None
    shown = smallest_shown(max(round(needed), 1), share)
    if shown is not None:
        assert questions_needed(shown, share) == pytest.approx(max(round(needed), 1), rel=1e-9)


def test_an_exam_of_two_questions_shows_nothing() -> None:
    assert smallest_shown(2, 0.3) is None


@given(some.integers(1, 30), shares)
@settings(max_examples=20)
def test_exact_power_is_the_sum_over_all_that_can_happen(size: int, found: tuple[float, float]) -> None:
    pytest.importorskip("statsmodels")
    difference, share = found
    ahead, behind = (share + difference) / 2, (share - difference) / 2
    power = 0.0
    for one in range(size + 1):
        for other in range(size + 1 - one):
            if mcnemar(one, other) <= 0.05:
                even = size - one - other
                ways = math.factorial(size) // (math.factorial(one) * math.factorial(other) * math.factorial(even))
                power += ways * ahead**one * behind**other * (1 - share) ** even
    assert exact_power(size, difference, share) == pytest.approx(power, abs=1e-9)


def test_exams_drawn_at_random_find_it_as_often() -> None:
    random = np.random.default_rng(5)
    drawn = random.multinomial(155, [0.15, 0.05, 0.8], size=1500)
    found = np.mean([mcnemar(int(one), int(other)) <= 0.05 for one, other, _ in drawn])
    assert found == pytest.approx(exact_power(155, 0.1, 0.2), abs=0.03)


def test_a_plan_tries_what_is_not_known_and_what_was_seen() -> None:
    plan = make_plan(0.1, 82, [(0.25, "owl against llava")], ["a", "a", "b", "c"])
    assert [row.discordant for row in plan.rows] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.25]
    assert plan.rows[-1].note == "owl against llava"
    assert (plan.pictures, plan.effect) == (3, 1.5)
    assert all(row.questions >= questions_needed(0.1, row.discordant) for row in plan.rows)
    assert [row.discordant for row in make_plan(0.9).rows] == [0.9]


def test_what_is_no_difference_is_refused() -> None:
    for wrong in ((0.0, 0.3), (0.4, 0.3), (0.5, 1.2)):
        with pytest.raises(ValueError, match="expected 0 < difference"):
            questions_needed(*wrong)
