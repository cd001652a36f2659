"""The quality part of the monitor: what the labels say of each version, of its classes and slices, and over time."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from monitoring.judge import decline, history, measures, quality, slices
from monitoring.judge.intervals import Interval
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import state
from monitoring.monitor.parts import Look, Show
from monitoring.monitor.state import Aggregate
from monitoring.monitor.tally import ALL
from registry.release import Manifest

log = logging.getLogger(__name__)

STEPS_PER_WINDOW = 4  # of the tests over time: six hours where quality looks back a day
QUALITY = (
    "quality", "quality_lower", "quality_upper", "quality_rows", "quality_floor", "label_coverage", "quality_measure",
    "quality_class_recall", "quality_class_rows", "quality_slice", "quality_slice_rows", "quality_slice_floor",
)  # fmt: skip
DECLINE = ("decline_evidence", "decline_level", "decline_since", "decline_value")

Sample: TypeAlias = tuple[str, tuple[str, ...], float]  # the attribute of MonitorMetrics, its labels, the value


@dataclass(frozen=True)
class Answered:
    """What was counted of one version in the window: over all rows, and by the names of its slices."""

    model: str
    version: str
    whole: Aggregate
    slices: dict[str, Aggregate]

    @property
    def release(self) -> tuple[str, str]:
        return self.model, self.version


def look(look: Look) -> Show:
    """Measure every version that answered in the window."""
    samples: list[Sample] = []
    failed: list[str] = []
    for model in state.models(look.state):
        samples.append(("quality_min_rows", (model,), look.settings.min_rows))
        for one in _answered(look, model):
            with apart("quality", one.release, failed):
                samples += list(_measured(one, quality.manifest_of(*one.release)))
    return page(QUALITY, samples, failed)


def look_back(look: Look) -> Show:
    """Test whether the quality of every version declined within a month."""
    step_s = step_of(look)
    samples: list[Sample] = [("decline_limit", (), decline.limit())]
    failed: list[str] = []
    for model in state.models(look.state):
        for version, steps in history.steps(look.state, model, look.now_s - decline.LOOK_BACK_S, step_s).items():
            manifest = quality.manifest_of(model, version)
            with apart("decline", (model, version), failed):
                if manifest is not None:
                    right, judged, first = history.counts(steps, math.floor(look.now_s / step_s))
                    found = decline.judge(right, judged, level(manifest), step_s)
                    samples += list(_declined((model, version), found, first, step_s))
    return page(DECLINE, samples, failed)


@contextmanager
def apart(part: str, release: tuple[str, str], failed: list[str]) -> Iterator[None]:
    """Leave a release out of a part if what it says of itself cannot be used: logged, its kind added to `failed`."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        model, version = release
        said = {"part": part, "model": model, "version": version, "error": f"{type(error).__name__}: {error}"}
        log.warning("release_left_out", extra=said)
        failed.append(type(error).__name__)


def level(manifest: Manifest) -> float:
    """Return what the quality of a release must not fall under; 0 if it does not say how good it was."""
    said = manifest.metrics.get(manifest.quality["metric"])
    if said is None:
        return 0.0
    tolerance = manifest.quality.get("decline", decline.TOLERANCE)
    return decline.level(said["value"], said["lower"], tolerance)


def step_of(look: Look) -> float:
    """Return how long a step of the tests over time is, in seconds."""
    return look.settings.window_s / STEPS_PER_WINDOW


def page(names: tuple[str, ...], samples: list[Sample], failed: Sequence[str] = ()) -> Show:
    """Return what writes down the samples; the gauges with these names forget what they showed before.

    failed: kinds of errors, to be counted.
    """

    def show(metrics: MonitorMetrics) -> None:
        for name in names:
            getattr(metrics, name).clear()
        for name, labels, value in samples:
            gauge = getattr(metrics, name)
            (gauge.labels(*labels) if labels else gauge).set(value)
        for kind in failed:
            metrics.failures.labels(kind).inc()

    return show


def bounds(name: str, place: tuple[str, ...], interval: Interval) -> Iterator[Sample]:
    """Return the samples of a gauge whose last label says which number of the interval it is."""
    for bound in ("value", "lower", "upper"):
        yield name, (*place, bound), getattr(interval, bound)


def _answered(look: Look, model: str) -> list[Answered]:
    versions: dict[str, dict[str, Aggregate]] = {}
    for (version, name), one in state.window(look.state, model, look.since_s).items():
        versions.setdefault(version, {})[name] = one
    return [
        Answered(model, version, parts[ALL], {name: one for name, one in parts.items() if name != ALL})
        for version, parts in versions.items()
        if ALL in parts
    ]


def _measured(one: Answered, manifest: Manifest | None) -> Iterator[Sample]:
    yield "label_coverage", one.release, one.whole.labelled / one.whole.rows if one.whole.rows else 0.0
    # Deleted since: the classes it answered are still measured, what was near enough to the truth is not known.
    place = (*one.release, "accuracy" if manifest is None else manifest.quality["metric"])
    yield "quality_rows", place, one.whole.labelled
    if manifest is not None:
        yield "quality_floor", place, manifest.quality["floor"]
        yield from _slices(one, slices.floors(manifest.quality))
    found = measures.headline(one.whole)
    if found is not None:
        for name, value in (("", found.value), ("_lower", found.lower), ("_upper", found.upper)):
            yield f"quality{name}", place, value
    for metric, interval in measures.others(one.whole).items():
        yield from bounds("quality_measure", (*one.release, metric), interval)
    for name, recall in measures.recalls(one.whole.confusion, () if manifest is None else manifest.classes).items():
        yield "quality_class_rows", (*one.release, name), recall.rows
        yield from bounds("quality_class_recall", (*one.release, name), recall.share)


def _slices(one: Answered, floors: dict[str, float]) -> Iterator[Sample]:
    sure = slices.confidence(len(floors))
    for name, part in one.slices.items():
        yield "quality_slice_rows", (*one.release, name), part.labelled
        if name in floors:
            yield "quality_slice_floor", (*one.release, name), floors[name]
        found = measures.headline(part, sure)
        if found is not None:
            yield from bounds("quality_slice", (*one.release, name), found)


def _declined(release: tuple[str, str], found: decline.Decline, first: int, step_s: float) -> Iterator[Sample]:
    yield "decline_evidence", release, found.evidence
    yield "decline_level", release, found.level
    if found.begun is not None and found.quality is not None:
        yield "decline_since", release, (first + found.begun) * step_s
        yield "decline_value", release, found.quality
