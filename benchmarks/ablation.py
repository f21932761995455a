"""How often a study's interval covers the truth, on simulated cells of known effect, beside the bootstrap's percentiles.

    python -m benchmarks.ablation [--simulations 500]

Answers are right or wrong. A run is right at a question with a probability whose log-odds are the arm's skill, the run's own
(its seed), the question's difficulty, what the two arms differ at it, and noise of run and question. The true difference is the
mean over many more runs and questions. Bar: 93 to 97 of 100.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import count, machine
from mplug_owl.experiments.effects import two_way_interval

RESAMPLES, MANY = 500, 400_000
DIFFICULTY, BOTH = 1.5, 0.5
# What arms differ by, how far seeds are apart and how unlike questions are, in log-odds; 0.2 is some four points of 100.
WORLDS = {
    "small effect, seeds differ": (0.5, 0.2, 0.5),
    "no effect, seeds differ": (0.0, 0.2, 0.5),
    "small effect, seeds hardly differ": (0.5, 0.05, 0.5),
    "large effect, seeds differ a lot": (1.0, 0.5, 1.0),
}


def answered(
    random: np.random.Generator, seeds: int, questions: int, effect: float, of_seeds: float, unlike: float
) -> NDArray[np.float64]:
    """The paired difference of two simulated arms, [seeds, questions]."""
    difficulty = random.normal(0, DIFFICULTY, questions)
    easier = difficulty + random.normal(0, unlike, questions)

    def arm(skill: float, hardness: NDArray[np.float64]) -> NDArray[np.float64]:
        odds = skill + hardness + random.normal(0, of_seeds, (seeds, 1)) + random.normal(0, BOTH, (seeds, questions))
        return (random.random((seeds, questions)) < 1 / (1 + np.exp(-odds))).astype(float)

    return arm(effect / 2, easier) - arm(-effect / 2, difficulty)


def truth(effect: float, of_seeds: float, unlike: float) -> float:
    """The difference over all runs and questions."""
    random = np.random.default_rng(1)
    common = random.normal(0, np.hypot(np.hypot(DIFFICULTY, of_seeds), BOTH), MANY)
    other = common + random.normal(0, unlike, MANY)
    return float(np.mean(1 / (1 + np.exp(-effect / 2 - other)) - 1 / (1 + np.exp(effect / 2 - common))))


def percentiles(random: np.random.Generator, scores: NDArray[np.float64]) -> tuple[float, float]:
    """The bootstrap over seeds and questions: the middle 95 % of resampled means."""
    seeds, questions = scores.shape
    drawn_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    drawn_questions = random.multinomial(questions, np.full(questions, 1 / questions), RESAMPLES) / questions
    low, high = np.quantile(np.sum((drawn_seeds @ scores) * drawn_questions, axis=1), [0.025, 0.975])
    return float(low), float(high)


def coverage(seeds: int, questions: int, world: tuple[float, float, float], simulations: int) -> tuple[float, float, float]:
    """The shares of intervals that hold the truth, ours and the bootstrap's, and half of ours' mean width."""
    random, true = np.random.default_rng(seeds * questions), truth(*world)
    ours = bootstrap = width = 0.0
    for _ in range(simulations):
        scores = answered(random, seeds, questions, *world)
        low, high = two_way_interval(scores)
        ours, width = ours + (low <= true <= high), width + (high - low) / 2
        low, high = percentiles(random, scores)
        bootstrap += low <= true <= high
    return ours / simulations, bootstrap / simulations, width / simulations


def main() -> None:
    """Print a line for each world and number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=count, default=500)
    parser.add_argument("--questions", type=count, default=600)
    options = parser.parse_args()
    print(machine())
    print(f"{options.simulations} simulations, {options.questions} questions; bar: 93 to 97 of 100")
    print(f"{'world':<36}seeds   ours   percentiles   half width")
    for name, world in WORLDS.items():
        for seeds in (3, 5, 10):
            ours, bootstrap, width = coverage(seeds, options.questions, world, options.simulations)
            print(f"{name:<36}{seeds:>5}{100 * ours:>7.1f}{100 * bootstrap:>14.1f}{100 * width:>13.1f}", flush=True)


if __name__ == "__main__":
    main()
