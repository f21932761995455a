"""How sure a share is: no figure of an exam goes without its interval."""

import math
from statistics import NormalDist


def wilson(right: int, asked: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share, both ends between 0 and 1.

    The shares p that a test of `right` out of `asked` would not reject: |right / asked - p| <= z sqrt(p (1 - p) / asked).
    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927), 209-212. Unlike the
    share plus and minus a standard error, it has a width at 0 and 1 too. Raises ValueError where there is no such share.
    """
    if not 0 <= right <= asked or asked < 1 or not 0 < confidence < 1:
        raise ValueError(f"{right} right of {asked} at confidence {confidence}: expected 0 <= right <= asked, at least 1 asked")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = right / asked, z * z / asked
    centre = (share + spread / 2) / (1 + spread)
    reach = z / (1 + spread) * math.sqrt(share * (1 - share) / asked + spread / (4 * asked))
    # At the ends the formula is exact and its rounding is not.
    low = 0.0 if right == 0 else centre - reach
    return low, 1.0 if right == asked else centre + reach
