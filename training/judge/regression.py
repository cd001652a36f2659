"""How near are the numbers that a regression answers: metrics with intervals, and the tolerance."""

from typing import Any

import numpy as np

from training.judge.intervals import Interval, Metric, at_once, bootstrap, ratio, share

HEADLINES = ("mae", "rmse", "r2", "within_tolerance")
USUAL_SHARE = 0.8


def metrics(y: np.ndarray, prediction: np.ndarray, tolerance: float, seed: int = 0) -> dict[str, Any]:
    """Return the headline metrics for targets (n,) and predictions (n,) or (n, 1), and the number of rows.

    Each is {"value", "lower", "upper"}: 95 %, percentile bootstrap; Wilson for within_tolerance.
    """
    error = errors(y, prediction)
    right = int((np.abs(error) <= tolerance).sum())
    found: dict[str, Interval] = bootstrap(functions(y, prediction), len(y), seed)
    return found | {"within_tolerance": share(right, len(y)), "rows": len(y)}


def values(y: np.ndarray, prediction: np.ndarray, tolerance: float) -> dict[str, float]:
    """Return each of HEADLINES without its interval."""
    within = np.abs(errors(y, prediction)) <= tolerance
    return at_once(functions(y, prediction), len(y)) | {"within_tolerance": float(within.mean())}


def functions(y: np.ndarray, prediction: np.ndarray) -> dict[str, Metric]:
    """Return the metrics that are resampled, as functions of row weights.

    r2: 1 - squared error / variance of the targets; 0 in a resample whose targets are all the same.
    """
    error = errors(y, prediction)
    size, square, centred = np.abs(error), error**2, y - y.mean()

    def r2(w: np.ndarray) -> np.ndarray:
        spread = w @ centred**2 - (w @ centred) ** 2 / w.sum(axis=1)
        return np.where(spread > 0, 1 - ratio(w @ square, spread), 0.0)

    return {
        "mae": lambda w: w @ size / w.sum(axis=1),
        "rmse": lambda w: np.sqrt(w @ square / w.sum(axis=1)),
        "r2": r2,
    }


def errors(y: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return prediction - target per row, float64 (n,)."""
    error: np.ndarray = prediction.reshape(len(y)).astype(np.float64) - y
    return error


def tolerance(asked: float, y: np.ndarray, prediction: np.ndarray) -> float:
    """Return `asked`, or if it is 0 the distance from the truth within which four in five rows lie."""
    if asked:
        return asked
    return float(np.quantile(np.abs(errors(y, prediction)), USUAL_SHARE, method="inverted_cdf"))
