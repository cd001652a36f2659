"""The estimates part of the monitor: quality without labels, whether to believe it, and how near the truth it was."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from monitoring.judge import decline, estimates, history, quality, validity
from monitoring.judge.estimates import Doubt, Estimates, Estimation
from monitoring.judge.history import Step
from monitoring.judge.quality_page import Sample, apart, bounds, page, step_of
from monitoring.judge.validity import Span
from monitoring.monitor import state
from monitoring.monitor.parts import Look, Show
from monitoring.shift import reference
from monitoring.shift.reference import Reference
from registry.errors import ReleaseError
from registry.release import REFERENCE, Release

METHODS = ("cbpe", "atc")
MOST_NEW = 20  # stretches of the past that are compared with the reference in one look; the others wait for the next
GAUGES = (
    "estimate", "estimate_valid", "estimate_doubt", "estimate_rows", "label_share", "label_share_valid",
    "estimate_error", "estimate_covered", "estimate_scored",
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A release whose answers tell how good they are."""

    release: Release
    reference: Reference
    estimation: Estimation

    @property
    def place(self) -> tuple[str, str]:
        return self.release.name, self.release.version


@dataclass(frozen=True)
class Score:
    """How one estimate of the past came out. errors, covered: by the order of METHODS."""

    errors: tuple[float, ...]
    covered: tuple[bool, ...]


@dataclass
class EstimatesPart:
    """Look at the estimates. doubts: of stretches of time that are over, which stay as they are."""

    doubts: dict[Span, list[Doubt]] = field(default_factory=dict)

    def look(self, look: Look) -> Show:
        """Estimate every version that answered in the window, and score what was estimated in the month before."""
        samples: list[Sample] = []
        failed: list[str] = []
        for model in state.models(look.state):
            windows = history.window(look.state, model, look.since_s)
            steps = history.steps(look.state, model, look.now_s - decline.LOOK_BACK_S, step_of(look))
            for version in steps:
                with apart("estimates", (model, version), failed):
                    samples += list(self._of(look, known_of(model, version), windows.get(version), steps[version]))
        self._forget(look.now_s - 2 * decline.LOOK_BACK_S)
        return page(GAUGES, samples, failed)

    def _of(self, look: Look, known: Known | None, window: Step | None, steps: dict[int, Step]) -> Iterator[Sample]:
        if known is None:
            return
        if window is not None and window.sums is not None:
            yield from self._now(look, known, window.sums, window.summed)
        yield from _scored(known.place, self._scores(look, known, steps))

    def _now(self, look: Look, known: Known, sums: np.ndarray, rows: int) -> Iterator[Sample]:
        span = Span(*known.place, look.since_s, look.now_s + 1.0)
        doubts = validity.doubts(look.log, span, known.release.manifest, known.reference)
        yield from shown(known, known.estimation.estimate(sums, rows, doubts))

    def _scores(self, look: Look, known: Known, steps: dict[int, Step]) -> Iterator[Score]:
        # Only where nothing had drifted: an estimate that was called invalid made no promise. That its interval was
        # wide is no reason to leave it out, since few labels in a step are all that many models get.
        step_s, new = step_of(look), 0
        for number, step in steps.items():
            until_s = (number + 1) * step_s
            whole = step.labelled_sums is not None and step.labelled_summed == step.judged  # the same rows in both
            if until_s <= look.now_s and whole and step.judged >= estimates.FEWEST_ROWS:
                span = Span(*known.place, number * step_s, until_s)
                if span not in self.doubts:
                    new += 1
                    if new > MOST_NEW:
                        return
                    self.doubts[span] = validity.doubts(look.log, span, known.release.manifest, known.reference)
                if not self.doubts[span]:
                    yield score(known.estimation, step)

    def _forget(self, before_s: float) -> None:
        for span in [span for span in self.doubts if span.until_s < before_s]:
            del self.doubts[span]


def known_of(model: str, version: str) -> Known | None:
    """Return a release that was published with an estimation; None if it was not, or was deleted since."""
    release = quality.release_of(model, version)
    if release is None:
        return None
    try:
        found = reference.parse(release.read(REFERENCE))
    except ReleaseError:
        return None
    return None if found.estimation is None else Known(release, found, found.estimation)


def score(estimation: Estimation, step: Step) -> Score:
    """Return how the estimate of the labelled rows of a step compares with what their labels say."""
    sums, rows, truth = step.labelled_sums, step.judged, step.right / step.judged
    found = estimation.estimate(np.zeros(0) if sums is None else sums, rows)
    intervals = [getattr(found, method) for method in METHODS]
    errors = tuple(abs(one.value - truth) for one in intervals)
    return Score(errors, tuple(one.holds(truth) for one in intervals))


def shown(known: Known, found: Estimates) -> Iterator[Sample]:
    """Return the samples of an estimate.

    The label shares have a flag of their own: they are made for traffic whose mix changed, which is drift.
    """
    place = known.place
    kinds = {doubt.kind for doubt in found.doubts}
    yield "estimate_rows", place, found.rows
    yield "estimate_valid", place, found.valid
    for kind in estimates.REASONS:
        yield "estimate_doubt", (*place, kind), kind in kinds
    for method in METHODS:
        yield from bounds("estimate", (*place, method), getattr(found, method))
    mix = found.label_shares
    yield "label_share_valid", place, mix is not None and not mix.reason and estimates.FEW not in kinds
    for name, share in zip(known.release.manifest.classes, () if mix is None else mix.shares, strict=False):
        yield from bounds("label_share", (*place, name), share)


def _scored(place: tuple[str, str], scores: Iterator[Score]) -> Iterator[Sample]:
    known = list(scores)
    yield "estimate_scored", place, len(known)
    for at, method in enumerate(METHODS):
        if known:
            yield "estimate_error", (*place, method), math.fsum(one.errors[at] for one in known) / len(known)
            yield "estimate_covered", (*place, method), sum(one.covered[at] for one in known) / len(known)
