"""A class that is answered less often than it should be: what is left when one kind of row no longer comes.

A chi-square over all classes spreads its attention over every change there could be. The loss of one class is one
direction, so it is looked for alone: the class whose fall is the least likely by chance, by its likelihood ratio.
"""

import math
from functools import lru_cache

import numpy as np

from monitoring.shift.calibration import LOOKS_30D, NORMAL, WINDOW_MINUTES, clusters

GONE = " missing"  # behind the class, it is the signal
LEAST_LOSS = 0.3  # of its share that a class must have lost before an alert tells; the rules use the same
MONTHLY_SHARE = 0.2  # of the false-alarm probability of 30 days that this uses
SHARE = 0.6  # of a false-alarm probability that this may use; what its whole numbers leave goes to the others
DRAWS = 4000
NEVER = float("inf")


def z(counts: np.ndarray, shares: np.ndarray, reference_rows: int) -> np.ndarray:
    """Return how surely any class is missing, (...): the largest of `each`."""
    found: np.ndarray = each(counts, shares, reference_rows).max(axis=-1)
    return found


def each(counts: np.ndarray, shares: np.ndarray, reference_rows: int) -> np.ndarray:
    """Return how surely each class is missing, from counts (..., classes) and reference shares, which broadcast.

    The signed root of its likelihood ratio, with a row more for continuity and less what the best of so many classes
    reaches by chance; in the tail about N(0, 1) or below. 0 if it did not fall, or without rows. The recording rules
    compute the same in PromQL.
    """
    rows = np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    now = (counts + 0.5) / rows
    fell = (now < shares) & (shares > 0) & (shares < 1)
    p, q = np.where(fell, now, 0.5), np.where(fell, shares, 0.5)
    distance = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))  # Kullback and Leibler's; 0 where none fell
    ratio = 2 * rows * reference_rows / (rows + reference_rows) * distance
    classes = np.maximum((shares > 0).sum(axis=-1, keepdims=True), 1)
    found: np.ndarray = np.sqrt(np.maximum(ratio - 2 * np.log(classes), 0))
    return found


def losses(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return how much of its share each class lost, at most 1, of counts (..., classes) and shares (classes,).

    Below 0 if it grew.
    """
    now = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    found: np.ndarray = np.where(shares > 0, 1 - now / np.where(shares > 0, shares, 1), 0.0)
    return found


def monthly(false_alarms_30d: float, classes: int) -> dict[str, float]:
    """Return the limit of `each` by window: in 30 days any class is over it by chance as seldom as stated.

    One class is one direction, so how often a sliding window begins to be over u is that of a chi-square with one
    degree of freedom, one-sided, and the classes add up; see `calibration.clusters`.
    """
    budget = -math.log1p(-false_alarms_30d) / len(LOOKS_30D)
    return {
        window: round(_root(budget / looks / classes, 1 / WINDOW_MINUTES[window], classes), 4)
        for window, looks in LOOKS_30D.items()
    }


@lru_cache(maxsize=256)
def limit(shares: tuple[float, ...], rows: int, reference_rows: int, false_alarm: float) -> tuple[float, float]:
    """Return the limit of z that a window of `rows` exceeds by chance at most that often, and how often.

    Rows are counted in whole numbers, so that may be less often; where no limit is rare enough it is infinite.
    From DRAWS windows and references drawn with the shares.
    """
    generator = np.random.default_rng(0)
    even = np.array(shares) / sum(shares)
    windows = generator.multinomial(rows, even, size=DRAWS)
    references = generator.multinomial(reference_rows, even, size=DRAWS) / reference_rows
    drawn = np.sort(z(windows, references, reference_rows))
    found = float(drawn[-1 - int(false_alarm * DRAWS)])
    over = float((drawn > found).mean())
    return (found, over) if over > 0 else (NEVER, 0.0)


def _root(rate: float, step: float, classes: int) -> float:
    low, high = 0.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        often = clusters(np.array([middle**2]), np.ones(1), step) * NORMAL.cdf(-middle)
        low, high = (middle, high) if often > rate else (low, middle)
    return math.sqrt(max(high**2 - 2 * math.log(classes), 0.0))
