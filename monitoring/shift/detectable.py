"""The smallest shift that shows: what the limits of a reference can see, by window and by traffic."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from monitoring.shift.calibration import chi2_at

POWER = 0.8
RATES_PER_H = (100, 500, 2000, 10_000)
WINDOW_HOURS = {"short": 1, "medium": 24, "long": 168}
SMOOTHING = 1e-4  # of the PSI, as in the rules
NORMAL = NormalDist()
Moved = Callable[[np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Shift:
    """What shows in a full window, four times in five, at so many rows an hour.

    class_points: change of the share of a typical class, in percentage points. deviations: of the mean of a typical
    numeric signal, in standard deviations. None where nothing does, or there is no such signal.
    """

    rows_per_h: int
    window: str
    class_points: float | None
    deviations: float | None


@dataclass(frozen=True)
class Sight:
    """One signal as its alert sees it. shares: in the reference, of its bins inside. limits: base, slope by window."""

    shares: np.ndarray
    limits: dict[str, tuple[float, float]]
    reference_rows: int
    psi_floor: float
    min_rows: int


def table(classes: Sight | None, number: Sight | None) -> tuple[Shift, ...]:
    """Return what shows of the predicted classes and of a signal with numbers, by window and traffic."""
    found = []
    for window, hours in WINDOW_HOURS.items():
        for rate in RATES_PER_H:
            points = None if classes is None else smallest(classes, window, rate * hours, share_grown)
            deviations = None if number is None else smallest(number, window, rate * hours, mean_moved)
            found.append(Shift(rate, window, _rounded(points, 100, 1), _rounded(deviations, 1, 3)))
    return tuple(found)


def smallest(sight: Sight, window: str, rows: int, moved: Moved) -> float | None:
    """Return the smallest shift that a window of so many rows shows with POWER; None if none does."""
    low, high = 0.0, 1.0 if moved is share_grown else 20.0
    if rows < sight.min_rows or len(sight.shares) < 2 or not _shows(sight, window, rows, moved(sight.shares, high)):
        return None
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (low, middle) if _shows(sight, window, rows, moved(sight.shares, middle)) else (middle, high)
    return high


def share_grown(shares: np.ndarray, growth: float) -> np.ndarray:
    """Return the shares when the bin of median share takes so much more, all others less in proportion."""
    grown = int(np.argsort(shares)[len(shares) // 2])
    new = min(1.0, float(shares[grown]) + growth)
    found = shares * (1 - new) / max(1 - float(shares[grown]), 1e-12)
    found[grown] = new
    return found


def mean_moved(shares: np.ndarray, deviations: float) -> np.ndarray:
    """Return the shares when a normal distribution, cut so that it has `shares`, moves by so many deviations."""
    cuts = [NORMAL.inv_cdf(min(max(float(c), 1e-12), 1 - 1e-12)) for c in np.cumsum(shares)[:-1]]
    below = np.array([0.0, *(NORMAL.cdf(cut - deviations) for cut in cuts), 1.0])
    found: np.ndarray = np.diff(below)
    return found


def _shows(sight: Sight, window: str, rows: int, moved: np.ndarray) -> bool:
    # A multiple of a chi-square with the mean and the variance that the statistic has under the shift, as Patnaik
    # (1949) does it for small shifts; large ones change what a window's shares vary by.
    base, slope = sight.limits[window]
    n, m, p, q = rows, sight.reference_rows, moved, sight.shares
    pooled = (n * p + m * q) / (n + m)
    lean = np.divide(p - q, pooled, out=np.zeros(len(p)), where=pooled > 0)
    df, weight = len(q) - 1.0, n * m / (n + m)
    varied = sum(((lean**2 * share).sum() - (lean * share).sum() ** 2) / size for share, size in ((p, n), (q, m)))
    mean, variance = df + weight * (lean * (p - q)).sum(), 2 * df + 4 * weight**2 * varied
    reached = variance / (2 * mean) * float(chi2_at(NORMAL.inv_cdf(1 - POWER), 2 * mean**2 / variance))
    psi = float(((p - q) * np.log((p + SMOOTHING) / (q + SMOOTHING))).sum())
    return reached > float(chi2_at(base + slope / n, df)) and psi > sight.psi_floor


def _rounded(value: float | None, unit: float, digits: int) -> float | None:
    return None if value is None else round(value * unit, digits)
