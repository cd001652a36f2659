"""Numbers with the uncertainty that the count of rows leaves.

Every metric is a function of row weights. With all weights 1 it is the value; with the counts of a
resample it is a draw of the bootstrap, many at once. So value and interval cannot disagree.
"""

from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np

from registry import gate

RESAMPLES = 1000
CONFIDENCE = 0.95
_CHUNK_CELLS = 1_000_000  # weights held at once: 8 MB

Metric = Callable[[np.ndarray], np.ndarray]  # weights float64 (draws, n) -> values (draws,) or (draws, several)
Interval = dict[str, float]  # "value", "lower", "upper"


def bootstrap(wanted: Mapping[str, Metric], rows: int, seed: int = 0) -> dict[str, Interval]:
    """Return value and percentile interval of each metric that gives one number per draw."""
    return {name: found[0] for name, found in bootstrap_each(wanted, rows, seed).items()}


def bootstrap_each(wanted: Mapping[str, Metric], rows: int, seed: int = 0) -> dict[str, list[Interval]]:
    """Return value and percentile interval of each number of each metric, from RESAMPLES resamples of the rows.

    A number that a resample does not have, NaN, is left out of its interval.
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // rows)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for start in range(0, RESAMPLES, chunk):
        weights = _resampled(generator, min(chunk, RESAMPLES - start), rows)
        for name, metric in wanted.items():
            drawn[name].append(metric(weights).reshape(len(weights), -1))
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    found = {}
    for name, metric in wanted.items():
        ends = np.nanquantile(np.concatenate(drawn[name]), tails, axis=0)
        triples = zip(metric(np.ones((1, rows))).ravel(), *ends, strict=True)
        # Resamples inflate what is never negative, such as a calibration error: the value belongs inside.
        found[name] = [_interval(value, min(value, low), max(value, high)) for value, low, high in triples]
    return found


def at_once(wanted: Mapping[str, Metric], rows: int) -> dict[str, float]:
    """Return the value alone of each metric that gives one number per draw."""
    return {name: float(metric(np.ones((1, rows)))[0]) for name, metric in wanted.items()}


def share(right: float, rows: float) -> Interval:
    """Return the share of right answers with its Wilson (1927) score interval; of no rows 0, which may be up to 1."""
    if not rows:
        return _interval(0, 0, 1)
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    value = right / rows
    centre = (value + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * (value * (1 - value) / rows + z**2 / (4 * rows**2)) ** 0.5
    return _interval(value, max(0.0, centre - half), min(1.0, centre + half))


def gain(theirs: np.ndarray, ours: np.ndarray, confidence: float) -> Interval:
    """Return the mean of theirs - ours, losses (n,) on the same rows, each end one-sided at `confidence`.

    By Student's t on the paired rows, as `registry.gate.slack` judges.
    """
    value = float((theirs - ours).mean())
    return _interval(value, gate.slack(theirs, ours, 0.0, confidence), -gate.slack(ours, theirs, 0.0, confidence))


def gain_of_accuracy(theirs: np.ndarray, ours: np.ndarray, confidence: float) -> Interval:
    """Return the same of what is wrong, bool (n,), by Tango's score interval: see `registry.gate.score`."""
    better, worse, rows = int((theirs & ~ours).sum()), int((ours & ~theirs).sum()), len(ours)
    lower, upper = -gate.most_lost(better, worse, rows, confidence), gate.most_lost(worse, better, rows, confidence)
    return _interval((better - worse) / rows, lower, upper)


def sums(group: np.ndarray, count: int) -> Metric:
    """Return a function of weights: their sum per group (draws, count); group: int64 (n,) in [0, count)."""
    order = np.argsort(group, kind="stable")
    present, starts = np.unique(group[order], return_index=True)

    def add(weights: np.ndarray) -> np.ndarray:
        total = np.zeros((len(weights), count))
        total[:, present] = np.add.reduceat(weights.take(order, axis=1), starts, axis=1)
        return total

    return add


def ratio(part: np.ndarray, whole: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """Return part / whole, `empty` where there is nothing below."""
    quotient: np.ndarray = np.divide(part, whole, out=np.full(part.shape, empty), where=whole > 0)
    return quotient


def mean_over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return the mean over groups of part / whole, (draws, groups) each; a group without weight is left out."""
    mean: np.ndarray = ratio(part, whole).sum(axis=1) / np.maximum((whole > 0).sum(axis=1), 1)
    return mean


def _resampled(generator: np.random.Generator, draws: int, rows: int) -> np.ndarray:
    picked = generator.integers(0, rows, (draws, rows)) + np.arange(draws)[:, None] * rows
    return np.bincount(picked.ravel(), minlength=draws * rows).reshape(draws, rows).astype(np.float64)


def _interval(value: float, lower: float, upper: float) -> Interval:
    return {"value": float(value), "lower": float(lower), "upper": float(upper)}
