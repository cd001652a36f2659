"""What the numbers allow: is the model better than its baselines, and below what is someone paged."""

from typing import Any

import numpy as np

from training import evaluate
from training.config import Config

Probabilities = dict[str, np.ndarray]  # by name of the baseline: float (n, classes) on the test rows


def gate(config: Config, y: np.ndarray, model: np.ndarray, baselines: Probabilities) -> dict[str, Any]:
    """Return the rules of promotion and whether the model keeps the first of them.

    beats_baselines: on the same test rows it is more accurate than the majority beyond noise, and
    worse than linear beyond noise in neither accuracy nor log-loss. Where the problem is linear the
    two cannot be told apart, and that must not block a release.
    y: int64 (n,). model: probabilities (n, classes). Noise: paired normal interval at `gate.confidence`.
    """
    confidence = config.gate.confidence
    against = {
        name: {
            "accuracy": evaluate.difference(_right(y, model), _right(y, other), confidence),
            "log_loss": evaluate.difference(
                evaluate.row_log_loss(y, other), evaluate.row_log_loss(y, model), confidence
            ),
        }
        for name, other in baselines.items()
    }
    beats = against["majority"]["accuracy"]["lower"] > 0
    beats &= all(gap["upper"] >= 0 for gap in against["linear"].values())
    return {
        "margin": config.gate.margin, "confidence": confidence,
        "beats_baselines": bool(beats), "gain_over": against,
    }  # fmt: skip


def quality(config: Config, baselines: dict[str, Any]) -> dict[str, Any]:
    """Return the metric and the floor for live traffic, and where the floor comes from.

    Without a floor in the config it is the lower end of the linear baseline's accuracy: below
    that the model is not worth having.
    """
    if config.quality.floor:
        return {"metric": "accuracy", "floor": config.quality.floor, "source": "config"}
    floor = baselines["linear"]["accuracy"]["lower"]
    return {"metric": "accuracy", "floor": floor, "source": "linear baseline, lower end"}


def _right(y: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    right: np.ndarray = probabilities.argmax(axis=1) == y
    return right.astype(np.float64)
