"""How well scores put the rows of a class above the rest: the area under the ROC curve."""

from statistics import NormalDist

import numpy as np

from training.judge.intervals import CONFIDENCE, RESAMPLES, Interval, Metric, bootstrap, mean_over

MOST_CELLS = 200_000_000  # rows x classes x resamples; beyond, a bootstrap takes more than a few seconds


def area(y: np.ndarray, scores: np.ndarray, seed: int = 0) -> Interval:
    """Return the mean over classes of the one-against-rest area, for labels (n,) and scores (n, classes).

    The interval is that of the bootstrap; where this takes more than MOST_CELLS, that of DeLong.
    """
    if scores.size * RESAMPLES > MOST_CELLS:
        return delong(y, scores)
    return bootstrap({"area": roc_auc(y, scores)}, len(y), seed)["area"]


def roc_auc(y: np.ndarray, scores: np.ndarray) -> Metric:
    """Return the mean over classes of the area as a function of row weights, which are counts; a tie counts half.

    A class that is absent, or alone, in a resample is left out of its mean. Source: Mann & Whitney 1947.
    """
    ranked = [_ranked(y == c, scores[:, c]) for c in range(scores.shape[1])]

    def mean(weights: np.ndarray) -> np.ndarray:
        counts = weights.astype(np.int32)  # adding whole numbers up is eight times as fast as adding floats
        pairs = [_pairs(counts, *one) for one in ranked]
        return mean_over(np.stack([won for won, _ in pairs], axis=1), np.stack([of for _, of in pairs], axis=1))

    return mean


def delong(y: np.ndarray, scores: np.ndarray) -> Interval:
    """Return the same area with the normal interval of its influence, taken on the scale of the logit.

    Source: DeLong, DeLong & Clarke-Pearson 1988; the logit keeps the ends between 0 and 1.
    """
    areas, influence = [], np.zeros(len(y))
    for c in range(scores.shape[1]):
        member = y == c
        if 0 < member.sum() < len(y):
            placed = _placed(member, scores[:, c])
            areas.append(float(placed[member].mean()))
            influence += (placed - areas[-1]) * np.where(member, 1 / member.mean(), 1 / (1 - member.mean()))
    value = float(np.mean(areas))
    room = value * (1 - value)
    if room <= 0:
        return {"value": value, "lower": value, "upper": value}
    error = float((influence / len(areas)).std(ddof=1)) / len(y) ** 0.5
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error / room
    lower, upper = (1 / (1 + (1 - value) / value * np.exp(-step)) for step in (-half, half))
    return {"value": value, "lower": float(lower), "upper": float(upper)}


def _ranked(member: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    # The order of the scores; of each row of the class its number and the bounds of its group of ties in that order.
    order = np.argsort(score, kind="stable")
    rows = np.flatnonzero(member)
    ordered = score[order]
    return order, rows, np.searchsorted(ordered, score[rows]), np.searchsorted(ordered, score[rows], side="right")


def _pairs(
    counts: np.ndarray, order: np.ndarray, rows: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    # Pairs (one of the class, one of the rest) in the right order, and the number of pairs. Counted against all
    # rows first; pairs within the class, each row with itself included, make half of inside**2.
    below = np.zeros((len(counts), len(order) + 1), dtype=np.int32)
    np.cumsum(counts.take(order, axis=1), axis=1, out=below[:, 1:])
    own = counts.take(rows, axis=1).astype(np.float64)
    inside, total = own.sum(axis=1), below[:, -1]
    won = (own * (below.take(start, axis=1) + below.take(end, axis=1))).sum(axis=1) / 2 - inside**2 / 2
    return won, inside * (total - inside)


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
