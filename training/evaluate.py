"""How good is a model: metrics with intervals, confusion matrix, calibration, cross-validation.

Every metric is a function of row weights. With all weights 1 it is the value; with the counts of a
resample it is a draw of the bootstrap, a thousand at once. So value and interval cannot disagree.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from training import split
from training.data import Table

RESAMPLES = 1000
CONFIDENCE = 0.95
CALIBRATION_BINS = 15
_CHUNK_CELLS = 4_000_000  # weights held at once: 32 MB

Metric = Callable[[np.ndarray], np.ndarray]  # weights float64 (draws, n) -> values (draws,)


def metrics(y: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    """Return the metrics of a manifest for labels (n,) and probabilities (n, classes).

    Each headline metric is {"value", "lower", "upper"}: 95 %, Wilson for accuracy, percentile
    bootstrap for the rest. Confusion: rows are true classes, columns predicted ones.
    """
    predicted = probabilities.argmax(axis=1)
    confusion = confusion_matrix(y, predicted, len(classes))
    values = bootstrap(functions(y, probabilities), len(y), seed)
    values["accuracy"] = accuracy(int((predicted == y).sum()), len(y))
    return values | {
        "per_class": per_class(confusion, classes), "confusion": confusion.tolist(), "rows": len(y),
    }  # fmt: skip


def functions(y: np.ndarray, probabilities: np.ndarray) -> dict[str, Metric]:
    """Return the metrics that are resampled, by name."""
    right = (probabilities.argmax(axis=1) == y).astype(np.float64)
    truth = np.eye(probabilities.shape[1])[y]
    squares = ((probabilities - truth) ** 2).sum(axis=1)
    return {
        "balanced_accuracy": lambda w: _mean_over_classes((w * right) @ truth, w @ truth),
        "log_loss": lambda w: w @ row_log_loss(y, probabilities) / w.sum(axis=1),
        "brier": lambda w: w @ squares / w.sum(axis=1),
        "ece": calibration_error(right, probabilities.max(axis=1)),
        "roc_auc": roc_auc(truth, probabilities),
    }


def bootstrap(wanted: dict[str, Metric], rows: int, seed: int) -> dict[str, dict[str, float]]:
    """Return value and percentile interval of each metric from RESAMPLES resamples of the rows."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // rows)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for start in range(0, RESAMPLES, chunk):
        picked = generator.integers(0, rows, (min(chunk, RESAMPLES - start), rows))
        weights = np.zeros(picked.shape)
        np.add.at(weights, (np.arange(len(picked))[:, None], picked), 1.0)
        for name, metric in wanted.items():
            drawn[name].append(metric(weights))
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    found = {}
    for name, metric in wanted.items():
        lower, upper = np.quantile(np.concatenate(drawn[name]), tails)
        found[name] = {
            "value": float(metric(np.ones((1, rows)))[0]),
            "lower": float(lower),
            "upper": float(upper),
        }
    return found


def accuracy(right: int, rows: int) -> dict[str, float]:
    """Return the accuracy with its Wilson (1927) score interval."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = right / rows
    centre = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z / (1 + z**2 / rows) * (share * (1 - share) / rows + z**2 / (4 * rows**2)) ** 0.5
    return {"value": share, "lower": max(0.0, centre - half), "upper": min(1.0, centre + half)}


def row_log_loss(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return -log of the probability of the true class per row, float64 (n,); 0 counts as 1.2e-7."""
    true = probabilities.astype(np.float64)[np.arange(len(y)), y]
    loss: np.ndarray = -np.log(true.clip(np.finfo(np.float32).eps, 1.0))
    return loss


def calibration_error(right: np.ndarray, confidence: np.ndarray) -> Metric:
    """Return the expected calibration error over equal-width bins of confidence.

    Source: Naeini, Cooper & Hauskrecht 2015, "Obtaining well calibrated probabilities".
    """
    member = np.eye(CALIBRATION_BINS)[_bin(confidence)]
    gap = (right - confidence)[:, None] * member
    return lambda w: np.abs(w @ gap).sum(axis=1) / w.sum(axis=1)


def reliability(y: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Return mean confidence, accuracy and rows of each bin of confidence that holds rows."""
    right, confidence = probabilities.argmax(axis=1) == y, probabilities.max(axis=1)
    place = _bin(confidence)
    groups = [place == number for number in np.unique(place)]
    return [
        {"confidence": float(confidence[g].mean()), "accuracy": float(right[g].mean()), "rows": int(g.sum())}
        for g in groups
    ]


def roc_auc(truth: np.ndarray, scores: np.ndarray) -> Metric:
    """Return the mean over classes of the area under the one-against-rest ROC curve.

    truth: one-hot (n, classes). A class that is absent, or alone, in a resample is left out of its mean.
    """
    areas = [_area(truth[:, c], scores[:, c]) for c in range(truth.shape[1])]

    def mean(weights: np.ndarray) -> np.ndarray:
        pairs = [area(weights) for area in areas]
        return _mean_over_classes(
            np.stack([won for won, _ in pairs], axis=1), np.stack([of for _, of in pairs], axis=1)
        )

    return mean


def confusion_matrix(y: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts, int64 (classes, classes): row true, column predicted."""
    return np.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)


def per_class(confusion: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and rows of each class; a ratio with nothing below it is 0."""
    hit, true, claimed = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    table = {}
    for c, name in enumerate(classes):
        table[name] = {
            "precision": float(hit[c] / max(1, claimed[c])), "recall": float(hit[c] / max(1, true[c])),
            "f1": float(2 * hit[c] / max(1, true[c] + claimed[c])), "rows": int(true[c]),
        }  # fmt: skip
    return table


def temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the T in [0.05, 20] with the lowest log-loss of softmax(logits / T) on labels y (n,).

    A label counts as (n + 1) / (n + 2) for its class, the rest shared by the others (Platt 1999): when
    every row is right the plain log-loss would send T to 0. The loss is convex in 1/T, so its slope
    has one zero: bisection finds it. Source: Guo et al. 2017, "On calibration of modern neural networks".
    """
    z = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    rows, classes = z.shape
    true, rest = (rows + 1) / (rows + 2), 1 / (rows + 2) / (classes - 1)
    target = rest * z.sum(axis=1) + (true - rest) * z[np.arange(rows), y]
    low, high = 1 / 20, 1 / 0.05
    for _ in range(60):
        middle = (low + high) / 2
        weight = np.exp(middle * z)
        slope = float(((weight * z).sum(axis=1) / weight.sum(axis=1) - target).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / (low + high)


def difference(metric_a: np.ndarray, metric_b: np.ndarray, confidence: float) -> dict[str, float]:
    """Return mean(a - b) over the same rows with its normal interval, both sides at `confidence`."""
    gap = metric_a - metric_b
    half = NormalDist().inv_cdf(confidence) * float(gap.std(ddof=1)) / len(gap) ** 0.5
    value = float(gap.mean())
    return {"value": value, "lower": value - half, "upper": value + half}


def crossval(
    table: Table,
    count: int,
    seed: int,
    train: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]],
) -> list[float]:
    """Return the accuracy on each of `count` folds; `train(x, y)` gives a function rows -> probabilities.

    Folds come from the hash of the row (or group), as the splits do: copies of a row share a fold.
    """
    fold = split.folds(table.unit, count, seed)
    scores = []
    for number in range(count):
        left, out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        predicted = train(table.x[left], table.y[left])(table.x[out]).argmax(axis=1)
        scores.append(float((predicted == table.y[out]).mean()))
    return scores


def _bin(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _mean_over_classes(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    # (draws, classes) each; a class without weight says nothing and is left out.
    share = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    counted = np.maximum((whole > 0).sum(axis=1), 1)
    mean: np.ndarray = share.sum(axis=1) / counted
    return mean


def _area(truth: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    # Pairs (one of the class, one of the rest) in the right order, a tie as half; and the number of pairs.
    # Source: Mann & Whitney 1947.
    _, place = np.unique(score, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    member = truth[order]

    def pairs(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sorted_weights = weights[:, order]
        inside = np.add.reduceat(sorted_weights * member, starts, axis=1)
        rest = np.add.reduceat(sorted_weights * (1 - member), starts, axis=1)
        below = rest.cumsum(axis=1) - rest
        return (inside * (below + rest / 2)).sum(axis=1), inside.sum(axis=1) * rest.sum(axis=1)

    return pairs
