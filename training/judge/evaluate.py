"""How good is a classifier: headline metrics, classes and confusion, each with an interval."""

from typing import Any

import numpy as np

from training.judge import calibration, ranking
from training.judge.intervals import Interval, Metric, at_once, bootstrap, mean_over, share, sums

HEADLINES = ("accuracy", "balanced_accuracy", "log_loss", "brier", "ece", "roc_auc")
MOST_CLASSES = 100  # a larger confusion matrix is stored as a list of its cells


def decide(probabilities: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """Return the class of each row, int64 (n,), as `registry.release.Draft.decide` does."""
    likely: np.ndarray = probabilities.argmax(axis=1)
    return likely if threshold is None else (probabilities[:, 1] >= threshold).astype(np.int64)


def metrics(
    y: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], threshold: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """Return the metrics of a manifest for labels (n,) and probabilities (n, classes).

    Each number is {"value", "lower", "upper"}: 95 %, Wilson for accuracy and classes, DeLong for
    the area, else percentile bootstrap.
    confusion: rows are true classes, columns predicted ones. Beyond MOST_CLASSES classes `confused` stands in
    its place: [true, predicted, rows] of each pair of classes that were confused, the most frequent first.
    """
    predicted = decide(probabilities, threshold)
    found: dict[str, Any] = {**headline(y, probabilities, threshold, seed)}
    found |= {"per_class": per_class(y, predicted, classes), "rows": len(y)}
    if len(classes) > MOST_CLASSES:
        return found | {"confused": confused(y, predicted)}
    return found | {"confusion": confusion_matrix(y, predicted, len(classes)).tolist()}


def headline(
    y: np.ndarray, probabilities: np.ndarray, threshold: float | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Return each of HEADLINES with its interval; threshold: see `functions`."""
    wanted = functions(y, probabilities, threshold)
    drawn = bootstrap({name: metric for name, metric in wanted.items() if name != "accuracy"}, len(y), seed)
    drawn["balanced_accuracy"] = _no_surer(drawn["balanced_accuracy"], np.bincount(y))
    right = int((decide(probabilities, threshold) == y).sum())
    return {"accuracy": share(right, len(y)), **drawn, "roc_auc": ranking.area(y, probabilities)}


def values(y: np.ndarray, probabilities: np.ndarray, threshold: float | None = None) -> dict[str, float]:
    """Return each of HEADLINES without its interval."""
    area = ranking.area(y, probabilities)["value"]
    return at_once(functions(y, probabilities, threshold), len(y)) | {"roc_auc": area}


def functions(y: np.ndarray, probabilities: np.ndarray, threshold: float | None = None) -> dict[str, Metric]:
    """Return each of HEADLINES but the area as a function of row weights.

    threshold: decides accuracy and balanced accuracy; the other metrics judge the probabilities.
    """
    predicted = decide(probabilities, threshold)
    right = (predicted == y).astype(np.float64)
    return {
        "accuracy": lambda w: w @ right / w.sum(axis=1),
        "balanced_accuracy": balanced_accuracy(y, predicted, probabilities.shape[1]),
        **calibration.scores(y, probabilities),
    }


def balanced_accuracy(y: np.ndarray, predicted: np.ndarray, classes: int) -> Metric:
    """Return the mean recall of the classes that have rows, as a function of row weights."""
    right, of_class = (predicted == y).astype(np.float64), sums(y, classes)
    return lambda w: mean_over(of_class(w * right), of_class(w))


def per_class(y: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return rows, precision, recall and F1 of each class; a ratio with nothing below it is 0.

    All intervals are Wilson's: a bootstrap of 60 right rows of 60 would be sure of 1. F1 is 2J / (1 + J) of the
    share J of right rows among those that are of the class or called so, and so are its ends.
    """
    count = len(classes)
    hits, true, claimed = (np.bincount(v, minlength=count) for v in (y[predicted == y], y, predicted))
    table = {}
    for c, name in enumerate(classes):
        hit, of, said = int(hits[c]), int(true[c]), int(claimed[c])
        table[name] = {
            "rows": of, "precision": share(hit, said), "recall": share(hit, of),
            "f1": {end: 2 * j / (1 + j) for end, j in share(hit, of + said - hit).items()},
        }  # fmt: skip
    return table


def _no_surer(found: Interval, rows: np.ndarray) -> Interval:
    # A resample makes no mistake that no row made. So never narrower than Wilson's interval, for as many rows as a
    # mean of recalls over these `rows` of each class has the spread of, were all classes recalled alike.
    present = rows[rows > 0]
    even = len(present) ** 2 / float((1 / present).sum())
    least = share(found["value"] * even, even)
    return found | {"lower": min(found["lower"], least["lower"]), "upper": max(found["upper"], least["upper"])}


def confusion_matrix(y: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts, int64 (classes, classes): row true, column predicted."""
    return np.bincount(y * classes + predicted, minlength=classes**2).reshape(classes, classes)


def confused(y: np.ndarray, predicted: np.ndarray) -> list[list[int]]:
    """Return [true, predicted, rows] of each pair of different classes that occurs, the most frequent first."""
    pairs, counts = np.unique(np.stack([y, predicted])[:, y != predicted], axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [[int(pairs[0, i]), int(pairs[1, i]), int(counts[i])] for i in order]
