"""A class that is answered less often than it should be: what is left when one kind of row no longer comes.

A chi-square over all classes spreads its attention over every change there could be. The loss of one class is one
direction, so it is looked for alone: the class whose fall is the least likely by chance, by its likelihood ratio.
"""

from functools import lru_cache

import numpy as np

SHARE = 0.6  # of a false-alarm probability that this may use; what its whole numbers leave goes to the others
DRAWS = 4000
NEVER = float("inf")


def z(counts: np.ndarray, shares: np.ndarray, reference_rows: int) -> np.ndarray:
    """Return how surely a class is missing, (...), from counts (..., classes) and reference shares, which broadcast.

    The signed root of the likelihood ratio of the class that fell most, with a row more for continuity and less what
    the best of so many classes reaches by chance; in the tail about N(0, 1) or below. 0 if none fell, or without rows.
    """
    rows = np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    now = (counts + 0.5) / rows
    fell = (now < shares) & (shares > 0) & (shares < 1)
    p, q = np.where(fell, now, 0.5), np.where(fell, shares, 0.5)
    distance = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))  # Kullback and Leibler's; 0 where none fell
    ratio = 2 * (rows * reference_rows / (rows + reference_rows) * distance).max(axis=-1)
    classes = np.maximum((shares > 0).sum(axis=-1), 1)
    found: np.ndarray = np.sqrt(np.maximum(ratio - 2 * np.log(classes), 0))
    return found


def loss(counts: np.ndarray, shares: np.ndarray) -> float:
    """Return how much of its share the class lost that lost most, 0 to 1, of counts and shares (classes,)."""
    now = counts / max(counts.sum(), 1)
    return float((1 - now / np.where(shares > 0, shares, 1))[shares > 0].max())


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
