"""Numbers with the uncertainty that the count of rows leaves, from sums that add up over rows."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A number, and the two between which the true one lies with 95 %, if nothing else is said."""

    value: float
    lower: float
    upper: float

    def holds(self, truth: float) -> bool:
        """Return whether `truth` lies inside, ends included."""
        return self.lower <= truth <= self.upper


def normal(confidence: float = CONFIDENCE) -> float:
    """Return how many standard deviations either side hold `confidence` of a normal distribution."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(right: float, rows: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of a share, `right` of `rows` (> 0).

    Source: Wilson 1927, "Probable inference", eq. for the score interval; sound for few rows and shares near 1.
    """
    z = normal(confidence)
    value, room = right / rows, z * z / rows
    centre = (value + room / 2) / (1 + room)
    half = z / (1 + room) * math.sqrt(value * (1 - value) / rows + room / (4 * rows))
    # Rounding must not leave the share itself outside: at 0 and 1 the ends meet it.
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def share(right: float, rows: float, confidence: float = CONFIDENCE) -> Interval:
    """Return the share `right` of `rows` (> 0) with its interval."""
    return Interval(right / rows, *wilson(right, rows, confidence))


def mean_of_shares(right: np.ndarray, rows: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Return the plain mean of the shares right / rows (k,), of independent groups with rows > 0 each.

    The distances of each share to its Wilson ends are squared and added up, so that a group without an error
    still widens the interval. Source: Zou & Donner 2008, "Construction of confidence limits about effect measures".
    """
    each = [share(float(part), float(whole), confidence) for part, whole in zip(right, rows, strict=True)]
    value = sum(one.value for one in each) / len(each)
    down = math.sqrt(sum((one.value - one.lower) ** 2 for one in each)) / len(each)
    up = math.sqrt(sum((one.upper - one.value) ** 2 for one in each)) / len(each)
    return Interval(value, max(0.0, value - down), min(1.0, value + up))


def mean(total: float, squares: float, rows: int, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of `rows` (>= 2) numbers from their sum and the sum of their squares, by Student's t.

    Few rows of a distribution with a long tail make it too narrow.
    """
    value = total / rows
    variance = max(0.0, squares - rows * value * value) / (rows - 1)
    half = _student(confidence, rows - 1) * math.sqrt(variance / rows)
    return Interval(value, value - half, value + half)


def macro_f1(confusion: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean F1 of the classes that occur, from counts (k, k): rows true, columns predicted.

    The delta method on the cells as one multinomial, on the scale of the logit, which keeps its ends between 0 and 1.
    Never narrower than Wilson's interval for as many rows as the mean over these classes has the spread of: a table
    without an error has no spread of its own.
    """
    true, said, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    present = true + said > 0
    f1 = 2 * hits[present] / (true + said)[present]
    value = float(f1.mean())
    classes = true[true > 0]
    even = len(classes) ** 2 / float((1 / classes).sum())
    least = share(value * even, even, confidence)
    if not 0 < value < 1:
        return least
    slope = _f1_slope(confusion, present)
    spread = math.sqrt(max(0.0, _multinomial(confusion, slope)))
    step = normal(confidence) * spread / (value * (1 - value))
    lower, upper = (1 / (1 + (1 - value) / value * math.exp(-by)) for by in (-min(step, 700.0), min(step, 700.0)))
    return Interval(value, min(lower, least.lower), max(upper, least.upper))


def _f1_slope(confusion: np.ndarray, present: np.ndarray) -> np.ndarray:
    # Of the mean F1 by each cell's count (k, k). F1 = 2h / s with s = true + said: a cell adds 1 to `true` of its row
    # and to `said` of its column, a diagonal one to h as well.
    hits, sums = np.diag(confusion), confusion.sum(axis=1) + confusion.sum(axis=0)
    safe = np.where(present, sums, 1.0)
    by_sum = np.where(present, -2 * hits / safe**2, 0.0)
    by_hit = np.where(present, 2 / safe, 0.0)
    slope: np.ndarray = (by_sum[:, None] + by_sum[None, :] + np.diag(by_hit)) / present.sum()
    return slope


def _multinomial(counts: np.ndarray, slope: np.ndarray) -> float:
    # Variance of a function of multinomial counts; of one that does not change with their total, the mean slope is 0.
    total = counts.sum()
    return float((counts * slope**2).sum() - (counts * slope).sum() ** 2 / total)


def _student(confidence: float, degrees: int) -> float:
    # Quantile of Student's t by the expansion of Cornish and Fisher; within 1 % from 4 degrees on.
    z = normal(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))
