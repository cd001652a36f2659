"""What the numbers allow: is the model better than its baselines, and below what is someone paged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.config import Config
from training.judge import calibration, evaluate, intervals, regression, slices, threshold

SIMPLEST = {"classification": "majority", "regression": "mean"}


@dataclass(frozen=True)
class Answered:
    """The test rows and what was answered on them.

    y: (n,), see data.Table.  classes: () in a regression.  slices: text (n,) by column.
    model, baselines: probabilities (n, classes), or in a regression predictions (n,) or (n, 1).
    threshold: see Draft.  temperature: what the probabilities of the model have in them.
    """

    y: np.ndarray
    classes: tuple[str, ...]
    model: np.ndarray
    baselines: Mapping[str, np.ndarray]
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    threshold: float | None = None
    temperature: float = 1.0


@dataclass(frozen=True)
class Judgement:
    """What a manifest says about the quality of a model; see Draft."""

    metrics: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    gate: dict[str, Any]
    quality: dict[str, Any]


def judge(config: Config, answered: Answered) -> Judgement:
    """Return everything that is measured on the test rows, for a classification or a regression."""
    tolerance = None
    if answered.classes:
        metrics, baselines = _classification(config, answered)
    else:
        tolerance = regression.tolerance(config.quality.tolerance, answered.y, answered.model)
        metrics = regression.metrics(answered.y, answered.model, tolerance)
        baselines = {name: regression.metrics(answered.y, p, tolerance) for name, p in answered.baselines.items()}
    if answered.slices:
        metrics["slices"] = slices.measure(answered.slices, _judged(answered, tolerance))
    return Judgement(metrics, baselines, gate(config, answered), quality(config, baselines, tolerance))


def gate(config: Config, answered: Answered) -> dict[str, Any]:
    """Return the rules of promotion and whether the model keeps the first of them.

    beats_baselines: on the same test rows it is better than the simplest baseline beyond noise, and worse than
    linear beyond noise in nothing. Where the problem is linear the two cannot be told apart, and that must not
    block a release. A classifier is judged by accuracy, the likelier class taken, and by log-loss: where nearly
    all rows are of one class, the accuracy of the majority cannot be beaten and the log-loss can. A regression is
    judged by its absolute error. Noise: on the paired rows at `gate.confidence`, by the rules that `promote` has too.
    """
    confidence = config.gate.confidence
    ours = _losses(answered.y, answered.model, answered.classes)
    against = {}
    for name, other in answered.baselines.items():
        theirs = _losses(answered.y, other, answered.classes)
        against[name] = {key: _gain(theirs[key], ours[key], confidence) for key in ours}
    simplest = against[SIMPLEST["classification" if answered.classes else "regression"]].values()
    beats = any(gap["lower"] > 0 for gap in simplest) and all(gap["upper"] >= 0 for gap in simplest)
    beats &= all(gap["upper"] >= 0 for gap in against["linear"].values())
    return {
        "margin": config.gate.margin, "confidence": confidence,
        "beats_baselines": bool(beats), "gain_over": against,
    }  # fmt: skip


def quality(config: Config, baselines: Mapping[str, Any], tolerance: float | None = None) -> dict[str, Any]:
    """Return the metric and the floor for live traffic, where the floor comes from, and what decline is no news.

    Without a floor in the config it is the lower end of the linear baseline's share of right answers: below
    that the model is not worth having. tolerance: of a regression, see config.Quality; None in a classification.
    """
    metric = "accuracy" if tolerance is None else "within_tolerance"
    floor, source = config.quality.floor, "config"
    if not floor:
        floor, source = baselines["linear"][metric]["lower"], "linear baseline, lower end"
    said = {"metric": metric, "floor": floor, "source": source, "decline": config.quality.decline}
    return said if tolerance is None else said | {"tolerance": tolerance}


def _classification(config: Config, answered: Answered) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    y, cut = answered.y, answered.threshold
    metrics = evaluate.metrics(y, answered.model, answered.classes, cut)
    metrics["calibration"] = calibration.compared(y, answered.model, answered.temperature)
    if cut is not None:
        metrics["threshold"] = threshold.report(config.evaluate.threshold, y, answered.model, cut)
    simplest = SIMPLEST["classification"]  # it answers one class whatever is cut where
    return metrics, {
        name: evaluate.headline(y, p, None if name == simplest else cut) for name, p in answered.baselines.items()
    }


def right(answered: Answered, tolerance: float | None) -> np.ndarray:
    """Return whether each test row was answered right, bool (n,); tolerance: None in a classification."""
    if tolerance is None:
        found: np.ndarray = evaluate.decide(answered.model, answered.threshold) == answered.y
        return found
    near: np.ndarray = np.abs(regression.errors(answered.y, answered.model)) <= tolerance
    return near


def _judged(answered: Answered, tolerance: float | None) -> slices.Judged:
    y, model = answered.y, answered.model
    if tolerance is None:
        return slices.Judged(right(answered, None), calibration.row_log_loss(y, model), "accuracy", "log_loss")
    size = np.abs(regression.errors(y, model))
    return slices.Judged(right(answered, tolerance), size, "within_tolerance", "mae")


def _losses(y: np.ndarray, answers: np.ndarray, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    # Per row, float64 (n,) or whether it is wrong; lower is better; named by the metric in which the gain is told.
    if not classes:
        return {"absolute_error": np.abs(regression.errors(y, answers))}
    return {"accuracy": answers.argmax(axis=1) != y, "log_loss": calibration.row_log_loss(y, answers)}


def _gain(theirs: np.ndarray, ours: np.ndarray, confidence: float) -> intervals.Interval:
    judged = intervals.gain_of_accuracy if ours.dtype == np.bool_ else intervals.gain
    return judged(theirs, ours, confidence)
