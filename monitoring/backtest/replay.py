"""The rules over what was counted: which alerts would have fired, and when.

Conditions are looked at where they may change, which is at evaluations of the rules at which another row is in a
window. Only the version that answered last is judged, as only the live one is in Prometheus.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.backtest import late
from monitoring.backtest import rules as limits
from monitoring.backtest.conditions import Declined, Drift, Estimated, Floor, Invalid
from monitoring.backtest.counted import Changes, Seen
from monitoring.backtest.firing import Alert, Firing, Held, Watched
from monitoring.backtest.rules import Rules
from monitoring.backtest.stack import blocks
from monitoring.judge import slices
from monitoring.log.opened import Opened

NONE = np.zeros(0, np.int64)
NO_LABELS = Changes(NONE, NONE, NONE, np.zeros((0, 4), np.int64))


@dataclass(frozen=True)
class Span:
    """What was replayed of one version.

    rows: answered. labelled: with a label, in_time: while they were in the window of quality. from_s, to_s: first and
    last row.
    """

    version: str
    rows: int
    labelled: int
    in_time: int
    from_s: float
    to_s: float


def replay(model: str, seen: Seen, known: Mapping[str, Opened], rules: Rules) -> list[Firing]:
    """Return the alerts that would have fired, in the order of time; known: the releases of the versions seen."""
    places = _steps(seen, rules)
    if not len(places):
        return []
    judges = [_Version(model, version, seen, known[version], rules) for version in seen.counted]
    refused = _Refused(model, seen, rules)
    live = _live(seen, places)
    for step in places.tolist():
        refused.step(float(step * rules.bucket_s), step)
    for judge in judges:
        judge.follow(places, [judge.version == version for version in live])
    end_s = float(places[-1] * rules.bucket_s)
    watched = [one for judge in judges for one in judge.watched] + refused.watched
    watched.append(late.watched(model, seen, rules, int(places[-1])))
    fired = [firing for one in watched for firing in one.finish(end_s)]
    return sorted(fired, key=lambda firing: (firing.from_s, firing.alert, firing.severity))


def spans(seen: Seen, rules: Rules) -> list[Span]:
    """Return what was replayed of each version, the first to answer first."""
    found = [
        Span(
            version,
            int(counted.rows.sum()),
            seen.changes.get(version, NO_LABELS).rows,
            seen.changes.get(version, NO_LABELS).in_time,
            float(counted.buckets[0] * rules.bucket_s),
            float(counted.last_s[-1]),
        )
        for version, counted in seen.counted.items()
    ]
    return sorted(found, key=lambda span: span.from_s)


class _Version:
    # The alerts on one version.
    def __init__(self, model: str, version: str, seen: Seen, known: Opened, rules: Rules) -> None:
        self.version = version
        quality = known.release.manifest.quality
        floor, metric, place = float(quality["floor"]), quality["metric"], (model, version)
        counted, changes = seen.counted[version], seen.changes.get(version, NO_LABELS)
        self._counted, self._bucket_s = counted, rules.bucket_s
        self._drift, self._declined = Drift(counted, known, rules), Declined(changes, known, rules)
        self._floor = Floor(changes, floor, rules.quality_rows)
        self._estimated = Estimated(counted, floor if metric == "accuracy" else 0.0, known, rules)
        floors = slices.floors(quality)
        sure = slices.confidence(len(floors))
        sliced = {name: change for (of, name), change in seen.slices.items() if of == version}
        self._slices = [Floor(change, floors[name], rules.quality_rows, sure) for name, change in sliced.items()]
        urgent, patient = rules.urgent_s, rules.patient_s
        self.watched = [
            Watched(Alert(limits.DRIFT, "warning", *place, 0, "signals moved")),
            Watched(Alert(limits.COLLAPSE, "critical", *place, urgent, "share of one class")),
            Watched(Alert(limits.FLOOR, "critical", *place, urgent, f"{metric} at most", low=True)),
            Watched(Alert(limits.DECLINED, "warning", *place, urgent, f"{metric} since it fell", low=True)),
            Watched(Alert(limits.ESTIMATE, "warning", *place, patient, f"{metric} estimated at most", low=True)),
            *(
                Watched(Alert(limits.SLICE, "warning", *place, urgent, f"{metric} at most where {name}", low=True))
                for name in sliced
            ),
        ]

    def follow(self, places: np.ndarray, live: list[bool]) -> None:
        """Judge at each step; only while it is live can it be told about."""
        begin = 0
        for steps in blocks(places, self._counted):
            drifted, estimated = self._drift.over(steps), self._estimated.over(steps)
            for place, step in enumerate(steps.tolist()):
                held = (*drifted[place], *self._labelled(step, estimated[place]))
                self._step(step, held if live[begin + place] else (None,) * len(held))
            begin += len(steps)

    def _labelled(self, step: int, estimated: Held | None) -> list[Held | None]:
        # What labels say, and the estimate where they say too little.
        said = None if self._floor.enough(step) else estimated
        return [self._floor.at(step), self._declined.at(step), said, *(one.at(step) for one in self._slices)]

    def _step(self, step: int, held: Sequence[Held | None]) -> None:
        for watched, one in zip(self.watched, held, strict=True):
            watched.step(float(step * self._bucket_s), one)


class _Refused:
    # The alerts on rows that were refused, of whatever version.
    def __init__(self, model: str, seen: Seen, rules: Rules) -> None:
        places = [counted.buckets for counted in seen.counted.values()]
        rows = [counted.rows for counted in seen.counted.values()]
        at, which = np.unique(np.concatenate([NONE, *places]), return_inverse=True)
        answered = np.bincount(which, np.concatenate([NONE, *rows]), minlength=len(at)).astype(np.int64)
        self._invalid = Invalid(seen.invalid, (at, answered), rules)
        waits_s = {"critical": rules.urgent_s, "warning": rules.patient_s}
        self._limits = list(limits.INVALID_SHARES.values())
        self.watched = [
            Watched(Alert(limits.INVALID, severity, model, "", waits_s[severity], "share of the rows refused"))
            for severity in limits.INVALID_SHARES
        ]

    def step(self, at_s: float, step: int) -> None:
        """Judge at a step."""
        share = self._invalid.at(step)
        for watched, limit in zip(self.watched, self._limits, strict=True):
            watched.step(at_s, Held(share) if share > limit else None)


def _steps(seen: Seen, rules: Rules) -> np.ndarray:
    # Where a condition may change, in buckets, and the end: a version stays live when rows end, so an alert that waits
    # at the last row or label fires if its condition holds on until the longest `for` is over.
    every = rules.evaluation_s // rules.bucket_s
    windows_s = (rules.rate_s, rules.quality_s, *(length for _, length in rules.windows_s))
    lengths = (0, *(length // rules.bucket_s for length in windows_s))
    rows = np.concatenate([NONE, seen.invalid[0], *(counted.buckets for counted in seen.counted.values())])
    if not len(rows):
        return NONE
    labels = [change.at + 1 for change in seen.changes.values()]
    changes = np.unique(np.concatenate([*(rows + 1 + length for length in lengths), *labels]))
    steps = np.unique(-(-changes // every) * every)
    waits = rules.patient_s // rules.bucket_s
    last = -(-(max(int(rows.max()), int(seen.last_s // rules.bucket_s)) + 1 + waits) // every) * every
    return np.unique(np.append(steps[steps <= last], last))


def _live(seen: Seen, steps: np.ndarray) -> list[str]:
    # The version that answered last before each step.
    versions = list(seen.counted)
    if not versions:
        return [""] * len(steps)
    latest = np.full((len(versions), len(steps)), -np.inf)
    for number, version in enumerate(versions):
        counted = seen.counted[version]
        found = np.searchsorted(counted.buckets, steps) - 1
        latest[number, found >= 0] = np.maximum.accumulate(counted.last_s)[found[found >= 0]]
    return [versions[number] for number in latest.argmax(axis=0).tolist()]
