"""How often each class occurs in traffic without labels, from how often each is answered.

If only the mix of the classes changed and each class still looks as it did, then the shares of the answers are
A q: column j of A says what is answered to class j, measured on held-out rows, and q is the mix. Source: Lipton,
Wang & Smola 2018, "Detecting and correcting for label shift with black box predictors".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.judge.intervals import Interval, normal

MOST_CLASSES = 50
FEWEST_ROWS = 5  # held out of each class
LEAST_SINGULAR = 0.1  # of A; below that an error of the answers' shares grows more than tenfold
MOST_ODDS = 4.0  # standard deviations by which a share may come out below 0


@dataclass(frozen=True)
class LabelShares:
    """Of each class its share of the window's rows; reason: why they cannot be believed, "" if they can."""

    shares: tuple[Interval, ...]
    reason: str = ""


def condition(confusion: np.ndarray) -> str:
    """Return why this release cannot tell label shares from answers, "" if it can.

    confusion: counts on held-out rows (k, k), rows true, columns answered.
    """
    if not 2 <= len(confusion) <= MOST_CLASSES:
        return f"{len(confusion)} classes; 2 to {MOST_CLASSES} can be told apart"
    fewest = int(confusion.sum(axis=1).min())
    if fewest < FEWEST_ROWS:
        return f"a class has {fewest} held-out rows; {FEWEST_ROWS} are needed"
    smallest = float(np.linalg.svd(_answers(confusion), compute_uv=False)[-1])
    if smallest < LEAST_SINGULAR:
        return f"two mixes of classes give nearly the same answers (singular value {smallest:.3f} < {LEAST_SINGULAR})"
    return ""


def shares(confusion: np.ndarray, answered: Sequence[float] | np.ndarray) -> LabelShares:
    """Return the label shares behind `answered` rows of each class (k,), for a confusion that `condition` allows.

    The interval is for the shares of these very rows: the delta method, over the answers to them and to the
    held-out rows. Shares below 0 are cut off and the rest scaled to 1.
    """
    counts = np.asarray(answered, dtype=np.float64)
    rows, held_out = counts.sum(), confusion.sum(axis=1)
    seen = _answers(confusion)
    inverse = np.linalg.inv(seen)
    raw = inverse @ (counts / rows)
    weight = np.abs(raw) / rows + raw**2 / held_out
    # Of the answers to a row of class j: diag(a_j) - a_j a_j'. A little is added to each cell: no answer is impossible.
    soft = _answers(confusion + 1 / len(confusion))
    spread = np.diag(soft @ weight) - (soft * weight) @ soft.T
    error = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", inverse, spread, inverse), 0))
    found = np.maximum(raw, 0) / np.maximum(raw, 0).sum()
    half = normal() * error
    ends = zip(found, (found - half).clip(0, 1), (found + half).clip(0, 1), strict=True)
    intervals = tuple(Interval(*(float(number) for number in each)) for each in ends)
    return LabelShares(intervals, "no mix of the known classes gives such answers" if _impossible(raw, error) else "")


def _impossible(raw: np.ndarray, error: np.ndarray) -> bool:
    return bool((raw < -MOST_ODDS * error).any())


def _answers(confusion: np.ndarray) -> np.ndarray:
    # Column j: the shares of the answers to rows of class j.
    table: np.ndarray = (confusion / confusion.sum(axis=1, keepdims=True)).T
    return table
