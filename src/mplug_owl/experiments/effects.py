"""What a study's scores say: means and paired differences with an interval over seeds and over questions at once.

Scores are [seeds, questions], the same questions under every seed. Each seed draws the training anew, and each question is
one of many that could have been asked, so both are random and crossed. Their variances are estimated apart, from the mean
squares of the two-way table, and added: what a bootstrap over seeds and questions estimates (A. B. Owen, The pigeonhole
bootstrap, Annals of Applied Statistics 1 (2007), 386-411), without its bias. With three seeds a bootstrap has ten different
draws of them, whose percentiles cover too little. So the interval is made of Student's t, by the wider of two rules: one t for
the sum with Satterthwaite's degrees of freedom (Biometrics Bulletin 2 (1946), 110-114), or a t for each part (W. G. Howe, JASA
69 (1974), 789-794). The first is too narrow where three seeds alone decide, the second where they hardly matter.
`python -m benchmarks.ablation` simulates how often it covers the truth, beside the bootstrap's percentiles.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mplug_owl.eval.extra import needs
from mplug_owl.eval.resampling import Interval

CONFIDENCE = 0.95
# With fewer seeds there is no bar.
FEWEST_SEEDS = 3
# Nor with fewer questions: five that all point one way do so by chance in 6 of 100 studies, and their interval has no width.
FEWEST_QUESTIONS = 6
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference, as shares between -1 and 1.

    Args:
        value: The mean over seeds and questions.
        interval: Over both, 95 %; None with fewer than three seeds or six questions.
        seed_deviation: The standard deviation of the seeds' means, None with one seed.
        questions: The interval over questions alone, for these very seeds; None with one question.
        count: Of how many questions; those about one picture are one.
    """

    value: float
    interval: Interval | None
    seed_deviation: float | None
    questions: Interval | None
    count: int = 0

    @property
    def verdict(self) -> str:
        """What a difference shows: better, worse, not distinguishable, or too few questions or seeds."""
        if self.interval is None:
            return "too few seeds" if self.count >= FEWEST_QUESTIONS else "too few questions"
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "not distinguishable"


def scored(scores_SQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """The questions that have a score under every seed: [seeds, questions], those with one that is no number left out."""
    unknown_Q = np.isnan(scores_SQ).any(axis=0)
    return scores_SQ[:, ~unknown_Q] if unknown_Q.any() else scores_SQ  # the very same: a copy's sums round otherwise


def seed_means(scores_SQ: NDArray[np.float64]) -> list[float]:
    """Each seed's mean over the questions that have a score under every seed; none where there is no such question."""
    scores_SQ = scored(scores_SQ)
    means: list[float] = scores_SQ.mean(axis=1).tolist() if scores_SQ.shape[1] else []
    return means


def estimate(scores_SQ: NDArray[np.float64]) -> Estimate:
    """The mean of scores [seeds, questions], with its intervals. Differences of two arms' scores are scores too.

    Questions without a score under one of the seeds are left out; without any question the value is no number.
    """
    scores_SQ = scored(scores_SQ)
    seeds, questions = scores_SQ.shape
    if not questions:
        return Estimate(math.nan, None, None, None)
    value = float(scores_SQ.mean())
    by_seed, by_question = scores_SQ.mean(axis=1), scores_SQ.mean(axis=0)
    deviation = float(by_seed.std(ddof=1)) if seeds > 1 else None
    reach = student(questions - 1) * float(by_question.std(ddof=1)) / math.sqrt(questions) if questions > 1 else None
    over_questions = (value - reach, value + reach) if reach is not None else None
    interval = two_way_interval(scores_SQ) if seeds >= FEWEST_SEEDS and questions >= FEWEST_QUESTIONS else None
    return Estimate(value, interval, deviation, over_questions, questions)


def two_way_interval(scores_SQ: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """The interval of the mean over seeds and questions, both random. It needs two seeds and two questions at least."""
    seeds, questions = scores_SQ.shape
    value = float(scores_SQ.mean())
    by_seed, by_question = scores_SQ.mean(axis=1), scores_SQ.mean(axis=0)
    of_seeds = questions * float(by_seed.var(ddof=1))
    of_questions = seeds * float(by_question.var(ddof=1))
    rest = scores_SQ - by_seed[:, None] - by_question[None, :] + value
    divisors = (seeds - 1, questions - 1, (seeds - 1) * (questions - 1))
    of_rest = float((rest**2).sum()) / divisors[2]
    # Never below what either alone would say: with few seeds the difference of mean squares may come out negative.
    variance = max(of_seeds + of_questions - of_rest, of_seeds, of_questions)
    if variance <= 0:
        return value, value
    squares = zip((of_seeds, of_questions, of_rest), divisors, strict=True)
    degrees = variance**2 / sum(square**2 / free for square, free in squares)
    satterthwaite = student(degrees, confidence) ** 2 * variance
    t_seeds, t_questions = (student(free, confidence) for free in divisors[:2])
    howe = t_seeds**2 * max(of_seeds - of_rest, 0.0) + t_questions**2 * of_questions
    reach = math.sqrt(max(satterthwaite, howe) / (seeds * questions))
    return value - reach, value + reach


@dataclass(frozen=True)
class NoiseFloor:
    """How far two runs of one arm are apart whose seeds alone differ: on average, and at most."""

    mean: float
    most: float
    pairs: int


def noise_floor(arms: list[NDArray[np.float64]]) -> NoiseFloor | None:
    """Every arm against itself under other seeds; None where no arm has two seeds."""
    apart = [abs(one - other) for scores in arms for one, other in combinations(seed_means(scores), 2)]
    return NoiseFloor(sum(apart) / len(apart), max(apart), len(apart)) if apart else None


def detectable(seeds: int, questions: int, seed_deviation: float, question_deviation: float) -> float:
    """The difference that a comparison finds in 8 of 10 tries.

    Args:
        seeds: How many each arm has.
        questions: How many each cell is asked.
        seed_deviation: Standard deviation of one run's score under other seeds, as a share.
        question_deviation: That of the difference at one question.
    """
    of_seeds = 2 * seed_deviation**2 / seeds
    of_questions = question_deviation**2 / questions
    variance = of_seeds + of_questions
    if seeds < 2 or variance == 0:
        return math.nan if seeds < 2 else 0.0
    degrees = variance**2 / (of_seeds**2 / (seeds - 1) + of_questions**2 / max(questions - 1, 1))
    return (student(degrees) + student(degrees, 2 * POWER - 1)) * math.sqrt(variance)


def student(degrees: float, confidence: float = CONFIDENCE) -> float:
    """Student's t: how many standard errors an interval reaches to either side."""
    with needs("scipy"):
        from scipy.special import stdtrit
    return float(stdtrit(degrees, (1 + confidence) / 2))
