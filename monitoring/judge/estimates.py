"""The accuracy of answers whose truth is not known yet, estimated from what the model says of itself.

Two ways, both from sums that add up over rows, workers and hours. CBPE: the mean of the calibrated probability that
the answer is right. Source: NannyML, "Confidence-based performance estimation"; calibration: Kull, Silva Filho & Flach
2017, "Beta calibration". ATC: the share of rows whose confidence is above the one that as many held-out rows reach as
were right. Source: Garg et al. 2022, "Leveraging unlabeled data to predict out-of-distribution performance".

Both believe the model, and a model is sure of itself on rows unlike any it has seen. So an estimate is valid only while
no signal of the traffic has drifted (`monitoring.judge.validity`) and its own interval is narrow; and estimates are
scored when the labels come.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from monitoring.judge import label_shift
from monitoring.judge.intervals import Interval, normal
from monitoring.judge.label_shift import LabelShares

FEWEST_HELDOUT = 100
FEWEST_ROWS = 50
NEAREST = 1e-6  # to 0 and 1 a probability is taken to be; float32 says 1 where it means a little less
STEPS = 50
RIDGE = 1e-3  # of the calibration, in rows: an answer without an error has no steepest curve
MOST_HALF = 0.025  # of the interval of a valid estimate: then it is farther off than 0.05 once in 10,000 windows
DRIFTED, FEW, HIDDEN, WIDE = "drift", "few_rows", "not_recorded", "wide_interval"
REASONS = (DRIFTED, FEW, HIDDEN, WIDE)
MOMENTS = 5  # sums that stand before those of the answers of each class


@dataclass(frozen=True)
class Doubt:
    """What speaks against an estimate. kind: one of REASONS. text: for people."""

    kind: str
    text: str


@dataclass(frozen=True)
class Estimates:
    """What is believed of a window without its labels. doubts: why not to believe it; () if it is valid.

    cbpe, atc: accuracy, with 95 % intervals for the accuracy measured on the very rows. label_shares: None
    where the release cannot tell them.
    """

    rows: int
    cbpe: Interval
    atc: Interval
    label_shares: LabelShares | None
    doubts: tuple[Doubt, ...] = ()

    @property
    def valid(self) -> bool:
        """Return whether nothing speaks against the estimate."""
        return not self.doubts


@dataclass(frozen=True)
class Estimation:
    """What a release knows about its own answers, from held-out rows.

    rows: how many. weights: of the calibration, of 1, log p and -log(1 - p) for the probability p of the answer.
    covariance: theirs. confident: ATC's limit of p. missed: the share of right rows less that of those that reach it,
    0 but where many have the same p. differing: the share of held-out rows that reach it and are wrong, or the other
    way round. confusion: counts (k, k), rows true, columns answered; () with too many classes. threshold: see
    `registry.release.Draft`.
    """

    rows: int
    weights: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    confident: float
    missed: float
    differing: float
    confusion: tuple[tuple[int, ...], ...]
    threshold: float | None = None

    @classmethod
    def fit(cls, outputs: np.ndarray, labels: np.ndarray, threshold: float | None = None) -> "Estimation | None":
        """Return what held-out rows say; None if they are fewer than FEWEST_HELDOUT, or it is a regression.

        outputs: probabilities (n, classes). labels: index of the true class, int (n,).
        """
        rows, classes = outputs.shape
        if rows < FEWEST_HELDOUT or classes < 2:
            return None
        answers, confidence = _answered(outputs, threshold)
        right = answers == labels
        weights, covariance = _calibrate(_features(confidence), right)
        # The k-th highest, if k were right: as many reach it, or more where confidences are equal.
        wanted = max(1, int(right.sum()))
        confident = float(np.sort(confidence)[::-1][wanted - 1])
        sure = confidence >= confident
        confusion = np.bincount(labels.astype(np.int64) * classes + answers, minlength=classes**2)
        table = confusion.reshape(classes, classes).tolist() if classes <= label_shift.MOST_CLASSES else []
        return cls(
            rows, tuple(weights.tolist()), tuple(map(tuple, covariance.tolist())), confident,
            float(right.mean() - sure.mean()), float((right != sure).mean()), tuple(map(tuple, table)), threshold,
        )  # fmt: skip

    def sums(self, outputs: np.ndarray) -> np.ndarray:
        """Return what the estimate needs of rows, float64 (k,); of two sets of rows it is the sum of both.

        outputs: probabilities (n, classes), n may be 0.
        """
        answers, terms = self._terms(outputs)
        counts = np.bincount(answers, minlength=outputs.shape[1]) if self.confusion else np.zeros(0)
        return np.concatenate([terms.sum(axis=0), counts])

    def sums_of_runs(self, outputs: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return `sums` of each run of rows, float64 (runs, k); starts: where each begins, the first at 0."""
        answers, terms = self._terms(outputs)
        sums: np.ndarray = np.add.reduceat(terms, starts, axis=0)
        if not self.confusion:
            return sums
        classes, run = outputs.shape[1], np.repeat(np.arange(len(starts)), np.diff(starts, append=len(outputs)))
        counts = np.bincount(run * classes + answers, minlength=len(starts) * classes)
        return np.column_stack([sums, counts.reshape(len(starts), classes)])

    def _terms(self, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # The class answered, (n,), and what each row adds to the moments, (n, MOMENTS).
        answers, confidence = _answered(outputs, self.threshold)
        features = _features(confidence)
        chance = _logistic(features @ np.array(self.weights))
        spread = chance * (1 - chance)
        return answers, np.column_stack([chance, confidence >= self.confident, spread[:, None] * features])

    def estimate(self, sums: np.ndarray, rows: int, doubts: Sequence[Doubt] = ()) -> Estimates:
        """Return the estimates of `rows` (> 0) rows with these sums.

        doubts: what else speaks against them, such as drift; any makes them invalid.
        """
        cbpe, found = self._cbpe(sums, rows), list(doubts)
        if rows < FEWEST_ROWS:
            found.append(Doubt(FEW, f"{rows} rows; at least {FEWEST_ROWS} are needed"))
        half = max(cbpe.upper - cbpe.value, cbpe.value - cbpe.lower)
        if half > MOST_HALF:
            found.append(Doubt(WIDE, f"it may be {half:.3f} off; up to {MOST_HALF} is taken for an estimate"))
        mix = None
        if not self.mix_reason:
            mix = label_shift.shares(np.array(self.confusion, dtype=np.float64), sums[MOMENTS:])
        return Estimates(rows, cbpe, self._atc(sums, rows), mix, tuple(found))

    @cached_property
    def mix_reason(self) -> str:
        """Return why label shares cannot be told, "" if they can."""
        if not self.confusion:
            return f"more than {label_shift.MOST_CLASSES} classes"
        return label_shift.condition(np.array(self.confusion, dtype=np.float64))

    def doubt(self, sums: np.ndarray, rows: int, labelled: int) -> float:
        """Return the standard deviation of CBPE's error against the accuracy on `labelled` of the rows.

        They must have been picked without regard to the answer. Its parts: the fit of the calibration, the luck of
        each row, and which rows were picked.
        """
        mean, spread = float(sums[0]) / rows, float(sums[2]) / rows
        between = max(0.0, mean * (1 - mean) - spread)  # of the chances from row to row
        slope = sums[2:MOMENTS] / rows
        fitted = float(slope @ np.array(self.covariance) @ slope)
        return math.sqrt(fitted + spread / labelled + between * max(0.0, 1 / labelled - 1 / rows))

    def _cbpe(self, sums: np.ndarray, rows: int) -> Interval:
        value, half = float(sums[0]) / rows, normal() * self.doubt(sums, rows, rows)
        return Interval(value, max(0.0, value - half), min(1.0, value + half))

    def _atc(self, sums: np.ndarray, rows: int) -> Interval:
        # Right and sure differ in as many rows here as held out, one way as often as the other: a walk of +1 and -1,
        # there and here. Two rows more, and not none: few held-out rows do not say that they never differ.
        value = min(1.0, float(sums[1]) / rows + self.missed)
        differing = (self.differing * self.rows + 2) / (self.rows + 4)
        half = normal() * math.sqrt(differing * (1 / rows + 1 / self.rows))
        return Interval(value, max(0.0, value - half), min(1.0, value + half))


def _answered(outputs: np.ndarray, threshold: float | None) -> tuple[np.ndarray, np.ndarray]:
    # The class answered, int64 (n,), and its probability, float64 (n,).
    answers = outputs.argmax(axis=1) if threshold is None else (outputs[:, 1] >= threshold).astype(np.int64)
    return answers, outputs[np.arange(len(outputs)), answers].astype(np.float64)


def _features(confidence: np.ndarray) -> np.ndarray:
    p = confidence.clip(NEAREST, 1 - NEAREST)
    return np.column_stack([np.ones(len(p)), np.log(p), -np.log1p(-p)])


def _calibrate(features: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (3,) and their covariance: logistic regression by Newton's method, a little pulled to p itself.

    A right row counts as (r + 1) / (r + 2), a wrong one as 1 / (w + 2), r and w of each there are (Platt 1999):
    without an error the likeliest curve would be sure.
    """
    hits, misses = int(right.sum()), int((~right).sum())
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))
    weights = start = np.array([0.0, 1.0, 1.0])
    for _ in range(STEPS):
        chance = _logistic(features @ weights)
        slope = features.T @ (target - chance) - RIDGE * (weights - start)
        curve = (features * (chance * (1 - chance))[:, None]).T @ features + RIDGE * np.eye(3)
        step = np.linalg.solve(curve, slope)
        weights = weights + step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return weights, np.linalg.inv(curve)


def _logistic(z: np.ndarray) -> np.ndarray:
    chance: np.ndarray = 1 / (1 + np.exp(-z.clip(-40, 40)))
    return chance


def parse(said: dict[str, Any]) -> Estimation:
    """Return what `asdict` made a dictionary of, after a way through JSON; raises TypeError or KeyError."""
    listed = {name: tuple(map(tuple, said[name])) for name in ("covariance", "confusion")}
    return Estimation(**said | listed | {"weights": tuple(said["weights"])})
