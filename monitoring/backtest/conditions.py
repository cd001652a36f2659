"""The conditions of the alerts on one version, at the steps where they may change."""

import math

import numpy as np

from monitoring.backtest.counted import Changes, Counted
from monitoring.backtest.firing import Held
from monitoring.backtest.moved import Lift, moved
from monitoring.backtest.restless import Restless
from monitoring.backtest.rules import CLASS_SIGNAL, COLLAPSED_SHARE, USUAL_SHARE, Rules
from monitoring.backtest.stack import Stack, Stacking
from monitoring.judge import decline, intervals
from monitoring.judge.intervals import CONFIDENCE
from monitoring.judge.quality_page import level
from monitoring.judge.validity import FALSE_ALARM, MOST_ROWS
from monitoring.log.opened import Opened
from monitoring.shift import drift
from monitoring.shift.drift import Finding
from monitoring.shift.reference import Reference


class Drift:
    """Whether signals moved in one of the windows, and whether one class takes nearly all."""

    def __init__(self, counted: Counted, known: Opened, rules: Rules) -> None:
        self._reference = known.reference
        self._restless = Restless(counted, known, rules)
        self._windows = {name: Stacking(counted, length // rules.bucket_s) for name, length in rules.windows_s}
        self._found: dict[str, dict[str, float]] = {name: {} for name in self._windows}
        self._collapsed: Held | None = None

    def over(self, steps: np.ndarray) -> list[tuple[Held | None, Held | None]]:
        """Return what drifted and what collapsed at each of some steps, which rise from call to call."""
        unrest = self._restless.over(steps)
        told: dict[str, dict[int, dict[str, float]]] = {}
        for name, windows in self._windows.items():
            stack = windows.over(steps)
            places = np.flatnonzero(stack.changed)
            changed = stack.some(places)
            lift = Lift.of(self._reference, [unrest[place] for place in places.tolist()])
            told[name] = dict(zip(places.tolist(), moved(self._reference, changed, name, lift), strict=True))
            if name == "short":
                single = dict(zip(places.tolist(), collapsed(self._reference, changed), strict=True))
        return [self._at(place, told, single) for place in range(len(steps))]

    def _at(
        self, place: int, told: dict[str, dict[int, dict[str, float]]], single: dict[int, Held | None]
    ) -> tuple[Held | None, Held | None]:
        # What is not told at a place is as it was.
        signals: dict[str, float] = {}
        for name, by_place in told.items():
            self._found[name] = by_place.get(place, self._found[name])
            for signal, z in self._found[name].items():
                signals[signal] = max(z, signals.get(signal, z))
        self._collapsed = single.get(place, self._collapsed)
        return Held(len(signals), signals) if signals else None, self._collapsed


def judged(known: Opened, window: drift.Window, length: str) -> list[Finding]:
    """Return the signals that moved; see `drift.judge`. Of a signal that the log does not hold nothing is said."""
    if window.rows < known.reference.min_rows:
        return []
    with np.errstate(divide="ignore", invalid="ignore"):
        return drift.judge(known.reference, window, length)


def collapsed(reference: Reference, stack: Stack) -> list[Held | None]:
    """Return by window the share of the class that nearly all rows get, if one does that did not in the reference."""
    names = [bins.name for bins in reference.bins]
    if CLASS_SIGNAL not in names:
        return [None] * len(stack.rows)
    place = names.index(CLASS_SIGNAL)
    shares = stack.counts[:, place].max(axis=1) / np.maximum(stack.rows, 1)
    usual = float(reference.padded_shares()[place].max())
    told = (stack.rows >= reference.min_rows) & (shares > COLLAPSED_SHARE) & (usual < USUAL_SHARE)
    return [Held(share) if here else None for share, here in zip(shares.tolist(), told.tolist(), strict=True)]


class Floor:
    """Whether quality, of all rows or of a slice, is surely under a floor."""

    def __init__(self, changes: Changes, floor: float, fewest: int, confidence: float = CONFIDENCE) -> None:
        """fewest: labelled rows it is judged on. confidence: of the interval whose upper end is looked at."""
        self._at = changes.at
        self._labelled, self._right = np.cumsum(changes.labelled), np.cumsum(changes.right)
        self._floor, self._fewest, self._confidence = floor, fewest, confidence

    def enough(self, step: int) -> bool:
        """Return whether there are as many labelled rows as it takes."""
        return self._counts(step)[0] >= self._fewest

    def at(self, step: int) -> Held | None:
        """Return the upper end of the interval at a step if it is under the floor."""
        labelled, right = self._counts(step)
        if labelled < self._fewest or not labelled:
            return None
        upper = intervals.wilson(right, labelled, self._confidence)[1]
        return Held(upper) if upper < self._floor else None

    def _counts(self, step: int) -> tuple[int, int]:
        found = int(np.searchsorted(self._at, step)) - 1
        return (int(self._labelled[found]), int(self._right[found])) if found >= 0 else (0, 0)


class Estimated:
    """Whether accuracy is surely under its floor by estimates that nothing speaks against, where labels are few."""

    def __init__(self, counted: Counted, floor: float, known: Opened, rules: Rules) -> None:
        self._reference, self._floor = known.reference, floor
        self._windows = Stacking(counted, rules.quality_s // rules.bucket_s)
        self._held: Held | None = None

    def over(self, steps: np.ndarray) -> list[Held | None]:
        """Return at each of some steps the upper end of both estimates if they are under the floor; see `Drift.over`.

        It stands where labels do not say more.
        """
        if self._reference.estimation is None:
            return [None] * len(steps)
        stack = self._windows.over(steps)
        # An interval ends above its value: most windows are over the floor at sight.
        low = (stack.estimated[:, 0] < self._floor * stack.rows) & stack.whole
        found = []
        for place, (changed, maybe) in enumerate(zip(stack.changed.tolist(), low.tolist(), strict=True)):
            if changed:
                self._held = self._under(stack, place) if maybe else None
            found.append(self._held)
        return found

    def _under(self, stack: Stack, place: int) -> Held | None:
        rows = int(stack.rows[place])
        found = self._reference.estimation.estimate(stack.estimated[place], rows)
        upper = max(found.cbpe.upper, found.atc.upper)
        if upper >= self._floor or found.doubts:
            return None
        sums = stack.sums[place] if stack.sums.shape[1] else None
        window = _sampled(drift.Window(stack.counts[place], sums, rows))
        return None if drift.alarms(self._reference, window, FALSE_ALARM) else Held(upper)


def _sampled(window: drift.Window) -> drift.Window:
    # As if so many of its rows were looked at as the monitor looks at.
    share = min(1.0, MOST_ROWS / window.rows)
    sums = None if window.sums is None else window.sums * share
    return drift.Window(window.counts * share, sums, max(1, round(window.rows * share)))


class Declined:
    """Whether the labels of a month say that quality fell since the release, also those that come late."""

    def __init__(self, changes: Changes, known: Opened, rules: Rules) -> None:
        self._told = changes.told[np.argsort(changes.told[:, 1], kind="stable")]
        self._rules = rules
        self._level = level(known.release.manifest)
        self._first = int(changes.told[:, 0].min()) if len(changes.told) else 0
        self._counts = np.zeros((0, 2), np.int64)
        self._used = 0
        self._held: Held | None = None

    def at(self, step: int) -> Held | None:
        """Return the quality since it fell, if it surely did; steps must not go back."""
        now = math.floor(step * self._rules.bucket_s / self._rules.decline_step_s) - self._first + 1
        used = int(np.searchsorted(self._told[:, 1], step))
        if used > self._used or (used and now > len(self._counts)):
            self._counts = np.concatenate([self._counts, np.zeros((max(now - len(self._counts), 0), 2), np.int64)])
            new = self._told[self._used : used]
            np.add.at(self._counts, new[:, 0] - self._first, new[:, 2:])
            self._used = used
            labelled, right = self._counts.T
            found = decline.judge(right, labelled, self._level, self._rules.decline_step_s)
            self._held = Held(found.quality) if found.alarm and found.quality is not None else None
        return self._held


class Invalid:
    """The share of the rows that were refused, over the window of a rate."""

    def __init__(self, refused: tuple[np.ndarray, np.ndarray], answered: tuple[np.ndarray, np.ndarray], rules: Rules):
        self._refused, self._answered = _Running(*refused), _Running(*answered)
        self._length = rules.rate_s // rules.bucket_s

    def at(self, step: int) -> float:
        """Return the share at a step, 0 without a row."""
        refused, answered = (one.between(step - self._length, step) for one in (self._refused, self._answered))
        return refused / (refused + answered) if refused else 0.0


class _Running:
    def __init__(self, places: np.ndarray, rows: np.ndarray) -> None:
        self._places, self._sums = places, np.concatenate([[0], np.cumsum(rows)])

    def between(self, begin: int, end: int) -> int:
        low, high = np.searchsorted(self._places, (begin, end))
        return int(self._sums[high] - self._sums[low])
