"""How many questions a difference needs before an exam can show it, and what an exam of so many questions can show.

Paired: two systems answer the same questions, and McNemar's test compares which of them alone is acceptable, A or B.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from mplug_owl.eval.extra import needs

ALPHA, POWER = 0.05, 0.8
# How often two systems differ on a question is known after an exam only; before it, these are tried.
DISCORDANT = (0.1, 0.2, 0.3, 0.4, 0.5)
OWLEVAL = 82


@dataclass(frozen=True)
class PlanRow:
    """One assumption and what follows.

    Args:
        discordant: The share of questions on which one system alone is acceptable.
        questions: How many questions show the difference with the wanted power.
        power: The exact power of the exact test with so many.
        shows: The smallest difference that `size` questions show.
        note: Where the assumption comes from, where it is none of ours.
    """

    discordant: float
    questions: int
    power: float
    shows: float | None
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """How many questions show a `difference`, and what an exam of `size` questions about `pictures` pictures shows.

    `effect` is by how much that exam's questions count less where those about one picture agree fully.
    """

    difference: float
    size: int
    rows: tuple[PlanRow, ...]
    pictures: int | None = None
    effect: float = 1.0


def make_plan(
    difference: float,
    size: int = OWLEVAL,
    observed: Sequence[tuple[float, str]] = (),
    clusters: Sequence[str] = (),
) -> Plan:
    """A plan over what is not known, and over what was `observed`: discordant shares, each with a sentence about it."""
    assumed = [(share, "") for share in DISCORDANT if share > difference]
    rows = []
    for share, note in [(difference, "all differences point one way"), *assumed, *observed]:
        if share >= difference:
            needed = math.ceil(questions_needed(difference, share))
            rows.append(PlanRow(share, needed, exact_power(needed, difference, share), smallest_shown(size, share), note))
    sizes = [clusters.count(name) for name in dict.fromkeys(clusters)]
    effect = sum(count * count for count in sizes) / sum(sizes) if sizes else 1.0
    return Plan(difference, size, tuple(rows), len(sizes) or None, effect)


def questions_needed(difference: float, discordant: float, power: float = POWER, alpha: float = ALPHA) -> float:
    """How many questions McNemar's test needs, before it is rounded up.

    (z_{1 - alpha/2} sqrt(D) + z_power sqrt(D - d^2))^2 / d^2, with d the difference and D the discordant share. R. J. Connor,
    Sample size for testing differences in proportions for the paired-sample design, Biometrics 43 (1987), 207-211. Raises
    ValueError where d is not between 0 and D, or D above 1.
    """
    if not 0 < difference <= discordant <= 1:
        raise ValueError(f"difference {difference} and discordant share {discordant}: expected 0 < difference <= share <= 1")
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    spread = max(discordant - difference**2, 0.0)
    return (z_alpha * math.sqrt(discordant) + z_power * math.sqrt(spread)) ** 2 / difference**2


def smallest_shown(size: int, discordant: float, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """The smallest difference for which `size` questions suffice; None where not even the largest is shown."""
    with needs("scipy"):
        from scipy.optimize import brentq
    if questions_needed(discordant, discordant, power, alpha) > size:
        return None
    return float(brentq(lambda d: math.log(questions_needed(d, discordant, power, alpha) / size), 1e-6, discordant, xtol=1e-13))


def exact_power(size: int, difference: float, discordant: float, alpha: float = ALPHA) -> float:
    """How often McNemar's exact test finds the difference with `size` independent questions, over all that can happen."""
    with needs("scipy"):
        from scipy.stats import binom
    favour = (discordant + difference) / (2 * discordant)  # that a discordant question is the better system's
    differing = np.arange(size + 1)
    # The largest number of wins of either side at which the test rejects, -1 where it never does.
    largest = binom.ppf(alpha / 2, differing, 0.5)
    largest = np.where(binom.cdf(largest, differing, 0.5) > alpha / 2, largest - 1, largest)
    rejects = binom.cdf(largest, differing, favour) + binom.sf(differing - largest - 1, differing, favour)
    return float((binom.pmf(differing, size, discordant) * np.where(largest < 0, 0.0, rejects)).sum())
