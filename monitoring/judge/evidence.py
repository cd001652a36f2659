"""How surely one release loses less than a margin, or more, against another, at every look at growing rows.

A bettor starts with 1 and stakes a share of its wealth on each row that the margin is not lost. As long as that
is false its wealth is expected to fall, so the chance that it ever reaches 1 / (1 - confidence) is at most
1 - confidence (Ville), however often one looks and whenever one stops. The stakes are a fixed mixture: wealth
then depends on how often each outcome came and not on the order, so that labels may come late and in any
order, and nothing is kept between two looks. A second bettor stakes that more than the margin is lost.

Source: Waudby-Smith and Ramdas (2024), "Estimating means of bounded random variables by betting", Journal of the
Royal Statistical Society B 86, 1-27: capital processes, their one-sided bounds, and mixtures of stakes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from registry.gate import MOST_LOSS

STAKES = 1 / (1 + np.exp(-np.linspace(math.log(0.01 / 0.99), math.log(0.95 / 0.05), 16)))  # steps in log-odds
BLOCK = 65_536  # outcomes at once, so that memory does not grow with the log
MOST_GROWTH = 1000.0  # beyond this many times the rows there are, nobody waits
NEAR = 1e-5


@dataclass(frozen=True)
class Pairs:
    """What two releases lost on the same rows: outcomes (k,) and how often each came (k,).

    old, new: from 0 to 1. relative: whether a margin is a share of the old loss, or absolute.
    """

    old: np.ndarray
    new: np.ndarray
    counts: np.ndarray
    relative: bool = False

    @property
    def rows(self) -> int:
        return int(self.counts.sum())


def of_classes(better: int, worse: int, rows: int) -> Pairs:
    """Return the pairs of classified rows; better, worse: of `rows`, those only the new or only the old has right."""
    counts = np.array([better, worse, rows - better - worse], dtype=np.float64)
    return Pairs(np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]), counts)


def of_errors(old: np.ndarray, new: np.ndarray, most: float) -> Pairs:
    """Return the pairs of absolute errors (n,); what exceeds `most`, which no row may decide, counts as `most`."""
    return Pairs(np.minimum(old, most) / most, np.minimum(new, most) / most, np.ones(len(old)), relative=True)


def loses_less(pairs: Pairs, margin: float, confidence: float) -> bool:
    """Return whether it is sure that the new release loses less than `margin` more than the old one."""
    return _log_mean(_less(pairs, margin)) >= -math.log1p(-confidence)


def loses_more(pairs: Pairs, margin: float, confidence: float) -> bool:
    """Return whether it is sure that the new release loses more than `margin` more than the old one."""
    return _log_mean(_more(pairs, margin)) >= -math.log1p(-confidence)


def bounds(pairs: Pairs, confidence: float) -> tuple[float, float]:
    """Return between which margins the loss surely lies, to NEAR; each end holds with `confidence`, at every look."""
    high = MOST_LOSS if pairs.relative else 1.0
    lower, _ = _turn(lambda margin: not loses_more(pairs, margin, confidence), -1.0, high)
    _, upper = _turn(lambda margin: loses_less(pairs, margin, confidence), -1.0, high)
    return lower, upper


def rows_to_tell(pairs: Pairs, margin: float, confidence: float) -> int | None:
    """Return about how many rows will tell whether `margin` is lost if outcomes go on as they came; None: too many."""
    sides, enough = (_less(pairs, margin), _more(pairs, margin)), -math.log1p(-confidence)

    def tells(growth: float) -> bool:
        return any(_log_mean(growth * logs) >= enough for logs in sides)

    if not pairs.rows or not tells(MOST_GROWTH):
        return None
    return math.ceil(pairs.rows * _turn(tells, 0.0, MOST_GROWTH)[1])


def _less(pairs: Pairs, margin: float) -> np.ndarray:
    # Log of the wealth per stake (STAKES,). The gains are at least -1, so no stake below 1 loses all.
    room = 1.0 if pairs.relative else 1 - margin
    return _log_wealth(_kept(pairs, margin) / room, pairs.counts)


def _more(pairs: Pairs, margin: float) -> np.ndarray:
    return _log_wealth(-_kept(pairs, margin) / (1 + margin), pairs.counts)


def _kept(pairs: Pairs, margin: float) -> np.ndarray:
    kept: np.ndarray = pairs.old - pairs.new + margin * (pairs.old if pairs.relative else np.ones(len(pairs.old)))
    return kept


def _log_wealth(gains: np.ndarray, counts: np.ndarray) -> np.ndarray:
    wealth = np.zeros(len(STAKES))
    for start in range(0, len(gains), BLOCK):
        block = slice(start, start + BLOCK)
        wealth += np.log1p(np.multiply.outer(STAKES, gains[block])) @ counts[block]
    return wealth


def _log_mean(logs: np.ndarray) -> float:
    most = float(logs.max())
    return most + math.log(float(np.exp(logs - most).mean()))


def _turn(holds: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    # Between which numbers `holds` becomes true, as it does once between the ends; neither end is tried.
    while high - low > NEAR * max(1.0, abs(low)):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low, high
