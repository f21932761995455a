"""Intervals over seeds and questions: what they cover, what widens them, and what cannot be told."""

import numpy as np
import pytest

from mplug_owl.experiments.effects import detectable, estimate, noise_floor, student, two_way_interval

pytest.importorskip("scipy")


def drawn(random: np.random.Generator, seeds: int, questions: int, of_seeds: float, of_questions: float) -> np.ndarray:
    """Scores around 0 with these standard deviations, and 0.3 of what is left."""
    noise = random.normal(0, 0.3, (seeds, questions))
    return noise + random.normal(0, of_seeds, (seeds, 1)) + random.normal(0, of_questions, (1, questions))


@pytest.mark.parametrize(("of_seeds", "of_questions"), [(0.05, 0.2), (0.02, 0.4), (0.1, 0.2)])
def test_three_seeds_cover_the_truth_as_often_as_said(of_seeds: float, of_questions: float) -> None:
    random = np.random.default_rng(3)
    intervals = [two_way_interval(drawn(random, 3, 150, of_seeds, of_questions)) for _ in range(1000)]
    covered = sum(low <= 0 <= high for low, high in intervals) / len(intervals)
    assert 0.92 <= covered <= 0.985  # 93.4 to 98.6 in benchmarks.ablation; 1,000 tries have a standard error of 0.7


def test_questions_alone_give_the_interval_of_students_t() -> None:
    by_question = np.random.default_rng(0).normal(0, 1, 40)
    scores = np.tile(by_question, (3, 1))
    reach = student(39) * by_question.std(ddof=1) / np.sqrt(40)
    low, high = two_way_interval(scores)
    assert (low, high) == pytest.approx((by_question.mean() - reach, by_question.mean() + reach))


def test_seeds_alone_give_the_interval_of_their_means() -> None:
    scores = np.tile(np.array([[0.1], [0.2], [0.6]]), (1, 50))
    reach = student(2) * np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3)
    assert two_way_interval(scores) == pytest.approx((0.3 - reach, 0.3 + reach))


def test_under_three_seeds_there_is_no_interval_and_no_verdict() -> None:
    found = estimate(np.ones((2, 30)))
    assert (found.interval, found.verdict, found.seed_deviation) == (None, "too few seeds", 0)
    assert estimate(np.ones((1, 30))).seed_deviation is None


@pytest.mark.parametrize(("shift", "verdict"), [(0.5, "better"), (-0.5, "worse"), (0.0, "not distinguishable")])
def test_a_difference_is_told_only_where_its_interval_leaves_out_zero(shift: float, verdict: str) -> None:
    assert estimate(drawn(np.random.default_rng(1), 3, 100, 0.02, 0.2) + shift).verdict == verdict


def test_equal_arms_are_not_told_apart() -> None:
    found = estimate(np.zeros((3, 10)))
    assert (found.interval, found.verdict) == ((0, 0), "not distinguishable")


def test_the_noise_floor_is_an_arm_against_itself() -> None:
    floor = noise_floor([np.array([[0.0, 0.2], [0.2, 0.2], [0.4, 0.4]])])
    assert floor is not None
    assert (floor.mean, floor.most, floor.pairs) == (pytest.approx(0.2), pytest.approx(0.3), 3)
    assert noise_floor([np.zeros((1, 4))]) is None


def test_more_seeds_and_more_questions_find_smaller_differences() -> None:
    assert detectable(3, 600, 0.02, 0.6) > detectable(5, 600, 0.02, 0.6) > detectable(5, 2400, 0.02, 0.6)
    assert np.isnan(detectable(1, 600, 0.02, 0.6))


def test_the_detectable_difference_is_found_as_often_as_said() -> None:
    random = np.random.default_rng(2)
    least = detectable(5, 200, 0.03, 0.3)
    noise = [drawn(random, 5, 200, 0.03 * np.sqrt(2), 0.3) for _ in range(300)]
    share = np.mean([estimate(scores + least).verdict == "better" for scores in noise])
    assert 0.65 <= share <= 0.92


def test_a_question_without_a_score_is_left_out_and_the_others_stay_in_their_columns() -> None:
    mine, theirs = np.random.default_rng(3).random((2, 3, 40))
    with_gaps = mine.copy()
    with_gaps[1, 5] = with_gaps[2, 30] = np.nan
    kept = [number for number in range(40) if number not in (5, 30)]
    assert estimate(with_gaps - theirs) == estimate((mine - theirs)[:, kept])
    assert noise_floor([with_gaps]) == noise_floor([mine[:, kept]])
    assert np.isnan(estimate(np.full((3, 2), np.nan)).value)
