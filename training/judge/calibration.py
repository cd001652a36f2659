"""Does a probability mean what it says: temperature, calibration error, reliability bins."""

from typing import Any

import numpy as np

from training.judge.intervals import Metric, bootstrap, share, sums

BINS = 15


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


def row_log_loss(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return -log of the probability of the true class per row, float64 (n,); 0 counts as 1.2e-7."""
    true = probabilities[np.arange(len(y)), y].astype(np.float64)
    loss: np.ndarray = -np.log(true.clip(np.finfo(np.float32).eps, 1.0))
    return loss


def row_brier(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the squared distance of the probabilities from the truth per row, float64 (n,), 0 to 2."""
    wide = probabilities.astype(np.float64)
    squares: np.ndarray = (wide**2).sum(axis=1) + 1 - 2 * wide[np.arange(len(y)), y]
    return squares


def scores(y: np.ndarray, probabilities: np.ndarray) -> dict[str, Metric]:
    """Return the metrics that judge probabilities and not only the class, as functions of row weights."""
    loss, squares = row_log_loss(y, probabilities), row_brier(y, probabilities)
    right = (probabilities.argmax(axis=1) == y).astype(np.float64)
    return {
        "log_loss": lambda w: w @ loss / w.sum(axis=1),
        "brier": lambda w: w @ squares / w.sum(axis=1),
        "ece": calibration_error(right, probabilities.max(axis=1)),
    }


def calibration_error(right: np.ndarray, confidence: np.ndarray) -> Metric:
    """Return the expected calibration error over equal-width bins of confidence.

    Source: Naeini, Cooper & Hauskrecht 2015, "Obtaining well calibrated probabilities".
    """
    gap, per_bin = right - confidence, sums(_bin(confidence), BINS)
    return lambda w: np.abs(per_bin(w * gap)).sum(axis=1) / w.sum(axis=1)


def compared(y: np.ndarray, probabilities: np.ndarray, found: float, seed: int = 0) -> dict[str, Any]:
    """Return log-loss, Brier score and calibration error before and after the temperature `found`.

    probabilities: with the temperature in them. softmax(z) is softmax(z / T) to the power T, scaled to sum to 1.
    """
    power = probabilities.astype(np.float64) ** found
    before = power / power.sum(axis=1, keepdims=True)
    both = {"before": before, "after": probabilities}
    measured = {name: bootstrap(scores(y, p), len(y), seed) for name, p in both.items()}
    return {"temperature": found, **measured}


def reliability(y: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Return of each bin of confidence that holds rows: its number, mean confidence, accuracy with interval, rows."""
    right, confidence = probabilities.argmax(axis=1) == y, probabilities.max(axis=1)
    place = _bin(confidence)
    bins = []
    for number in np.unique(place):
        group = place == number
        found = share(int(right[group].sum()), int(group.sum()))
        bins.append({
            "bin": int(number), "confidence": float(confidence[group].mean()), "rows": int(group.sum()),
            "accuracy": found["value"], "lower": found["lower"], "upper": found["upper"],
        })  # fmt: skip
    return bins


def _bin(confidence: np.ndarray) -> np.ndarray:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
