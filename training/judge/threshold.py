"""From which probability on does a binary classifier say yes: chosen on validation rows, told on test rows."""

from typing import Any

import numpy as np

from registry.errors import ConfigError
from training.judge import evaluate, intervals

HALF = 0.5
MOST_POINTS = 200


def choose(rule: str, y: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Return the threshold for the second class that `rule` finds best, or None where the likelier class is taken.

    y: int64 (n,) of the validation rows.  probabilities: (n, classes).  rule: see config.Evaluate; f1 is the
    highest F1 of the second class, youden the highest sum of recall and specificity (Youden 1950).
    It lies midway between two probabilities that occur, so that no row sits on it. Raises ConfigError as `demand`.
    """
    demand(rule, y, probabilities.shape[1])
    if rule == "half":
        return None
    cuts, hits, claims = _steps(y, probabilities[:, 1].astype(np.float64))
    positives = y.sum()
    if rule == "f1":
        worth = 2 * hits / (claims + positives)
    else:
        worth = hits / positives - (claims - hits) / (len(y) - positives)
    best = int(np.argmax(worth))
    following = cuts[best + 1] if best + 1 < len(cuts) else 0.0
    return float((cuts[best] + following) / 2)


def demand(rule: str, y: np.ndarray, classes: int) -> None:
    """Raise ConfigError if a rule is to choose and there are not two classes, or the validation rows y hold but one."""
    if rule != "half" and (classes != 2 or len(np.unique(y)) != 2):
        raise ConfigError(
            f"evaluate.threshold: {rule} needs two classes, also among the validation rows; there are {classes} "
            f"classes, {len(np.unique(y))} of them in validation rows; accepted here is half"
        )


def report(rule: str, y: np.ndarray, probabilities: np.ndarray, chosen: float) -> dict[str, Any]:
    """Return what the threshold does to the answers on the test rows, beside one half, each with its interval."""
    at = {"at_half": HALF, "at_threshold": chosen}
    return {"rule": rule, "value": chosen} | {name: measure(y, probabilities, value) for name, value in at.items()}


def measure(y: np.ndarray, probabilities: np.ndarray, threshold: float) -> dict[str, Any]:
    """Return accuracy, and of the second class precision, recall, specificity and F1, at `threshold`."""
    predicted = evaluate.decide(probabilities, threshold)
    no, yes = evaluate.per_class(y, predicted, ("no", "yes")).values()
    return {
        "accuracy": intervals.share(int((predicted == y).sum()), len(y)), "specificity": no["recall"],
        **{name: yes[name] for name in ("precision", "recall", "f1")},
    }  # fmt: skip


def curve(y: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Return recall, precision and false alarm rate as the threshold falls, at most MOST_POINTS points."""
    cuts, hits, claims = _steps(y, probabilities[:, 1].astype(np.float64))
    kept = np.unique(np.linspace(0, len(cuts) - 1, MOST_POINTS).round().astype(np.int64))
    positives, rest = max(1, int(y.sum())), max(1, len(y) - int(y.sum()))
    return [
        {
            "threshold": float(cuts[i]), "recall": float(hits[i] / positives),
            "precision": float(hits[i] / claims[i]), "false_alarms": float((claims[i] - hits[i]) / rest),
        }
        for i in kept
    ]  # fmt: skip


def _steps(y: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Each probability that occurs, falling; rows of the second class at or above it; all rows at or above it.
    order = np.argsort(-score, kind="stable")
    falling = score[order]
    last = np.flatnonzero(np.diff(falling, append=-np.inf))
    return falling[last], y[order].cumsum()[last], last + 1
