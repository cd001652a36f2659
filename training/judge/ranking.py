"""How well scores put the rows of a class above the rest: the area under the ROC curve."""

from statistics import NormalDist

import numpy as np

from training.judge.intervals import CONFIDENCE, Interval, share


def area(y: np.ndarray, scores: np.ndarray) -> Interval:
    """Return the mean over classes of the one-against-rest area, for labels (n,) and scores (n, classes).

    A tie counts half; a class that is absent, or alone, is left out. The interval is the normal one of the
    influence of each row, on the scale of the logit, which keeps its ends between 0 and 1. Source: DeLong, DeLong &
    Clarke-Pearson 1988. An order without a mistake has no spread: it gets the interval of `share` for as many
    right answers as the smallest group has rows.
    """
    areas, influence, fewest = [], np.zeros(len(y)), len(y)
    for c in range(scores.shape[1]):
        member = y == c
        inside = int(member.sum())
        if 0 < inside < len(y):
            placed = _placed(member, scores[:, c])
            areas.append(float(placed[member].mean()))
            influence += (placed - areas[-1]) * np.where(member, 1 / member.mean(), 1 / (1 - member.mean()))
            fewest = min(fewest, inside, len(y) - inside)
    if not areas:
        return share(0, 0)
    value = float(np.mean(areas))
    if value in (0.0, 1.0):
        return share(round(value) * fewest, fewest)
    error = float((influence / len(areas)).std(ddof=1)) / len(y) ** 0.5
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error / (value * (1 - value))
    lower, upper = (1 / (1 + (1 - value) / value * np.exp(-step)) for step in (-half, half))
    return {"value": value, "lower": float(lower), "upper": float(upper)}


def _placed(member: np.ndarray, score: np.ndarray) -> np.ndarray:
    # Of each row of the class the share of the rest below it, of each other row the share of the class above it.
    inside, rest = np.sort(score[member]), np.sort(score[~member])
    placed = np.empty(len(score))
    placed[member] = _midrank(rest, score[member]) / len(rest)
    placed[~member] = 1 - _midrank(inside, score[~member]) / len(inside)
    return placed


def _midrank(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    sides = np.searchsorted(ordered, values), np.searchsorted(ordered, values, side="right")
    middle: np.ndarray = (sides[0] + sides[1]) / 2
    return middle
