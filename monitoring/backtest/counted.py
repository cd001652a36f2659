"""What the rules need of recorded rows, per version and bucket of time: sums, so parts of a log add up.

Only buckets that hold rows take memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from monitoring.backtest.rules import Rules
from monitoring.log.opened import Opened
from monitoring.shift import signals
from registry.release import InputSpec


@dataclass(frozen=True)
class Batch:
    """Rows that one version answered.

    time_s: (n,). rows: (n, *shape), NaN where a policy kept nothing. outputs: (n, classes) or (n, 1).
    """

    version: str
    time_s: np.ndarray
    rows: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True)
class Counted:
    """Of one version, by bucket. buckets: int64 (b,), rising, the bucket k holds the times from k * bucket_s on.

    counts: int32 (b, signals, BINS). sums: of the embedding's components, float64 (b, k), over `embedded` rows, which
    are those that were recorded whole; k is 0 where the graph's own embedding is watched, which no log holds. rows,
    embedded: int64 (b,). last_s: time of the last row, (b,). estimated: what
    the release's estimation adds up, float64 (b, m), m being 0 without one.
    """

    buckets: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    rows: np.ndarray
    embedded: np.ndarray
    last_s: np.ndarray
    estimated: np.ndarray


@dataclass(frozen=True)
class Changes:
    """How the labelled rows of a window change in time, of one version; all int64 (m,).

    at: the bucket in which something is known, or in which a row leaves the window. labelled, right: by how many rows.
    told: int64 (k, 4), for tests over all labels whenever they come: the step of time in which rows were answered, the
    bucket in which their labels were known, labelled and right rows.
    """

    at: np.ndarray
    labelled: np.ndarray
    right: np.ndarray
    told: np.ndarray

    @property
    def rows(self) -> int:
        """How many rows have a label."""
        return int(self.told[:, 2].sum())

    @property
    def in_time(self) -> int:
        """How many of them have it while they are in the window."""
        return int(self.labelled.clip(0).sum())


@dataclass(frozen=True)
class Seen:
    """A part of a log.

    counted, changes: by version. slices: by (version, slice). delays: of labels, see `late.delays`.
    invalid: buckets and the rows refused in each. unknown: rows of releases that are gone, by version. last_s: when the
    last row was answered, or a label came that said something new; also of releases that are gone.
    """

    counted: dict[str, Counted] = field(default_factory=dict)
    changes: dict[str, Changes] = field(default_factory=dict)
    slices: dict[tuple[str, str], Changes] = field(default_factory=dict)
    delays: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    invalid: tuple[np.ndarray, np.ndarray] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    unknown: dict[str, int] = field(default_factory=dict)
    last_s: float = 0.0


def count(batch: Batch, known: Opened, bucket_s: int) -> Counted:
    """Return the counts of a batch, as the service counts them."""
    parts = [_count(some, known, bucket_s, gone) for some, gone in _by_pattern(batch)]
    return parts[0] if len(parts) == 1 else merge(parts)


def merge(parts: Sequence[Counted]) -> Counted:
    """Return the sum of parts; the same whatever the parts are cut by, but for the last digits of `sums`."""
    buckets = np.concatenate([part.buckets for part in parts])
    order = np.argsort(buckets, kind="stable")
    found, starts = np.unique(buckets[order], return_index=True)

    def added(name: str) -> np.ndarray:
        values = np.concatenate([getattr(part, name) for part in parts])[order]
        return np.add.reduceat(values, starts, axis=0, dtype=values.dtype)

    last_s = np.maximum.reduceat(np.concatenate([part.last_s for part in parts])[order], starts)
    counts, sums, rows, embedded, estimated = map(added, ("counts", "sums", "rows", "embedded", "estimated"))
    return Counted(found, counts, sums, rows, embedded, last_s, estimated)


def together(parts: Iterable[Seen]) -> Seen:
    """Return what all parts hold, in their order."""
    counted: dict[str, list[Counted]] = {}
    changes: dict[str, list[Changes]] = {}
    slices: dict[tuple[str, str], list[Changes]] = {}
    delays = [Seen().delays]
    invalid, last_s = [Seen().invalid], 0.0
    unknown: dict[str, int] = {}
    for part in parts:
        for version, one in part.counted.items():
            counted.setdefault(version, []).append(one)
        for version, change in part.changes.items():
            changes.setdefault(version, []).append(change)
        for place, change in part.slices.items():
            slices.setdefault(place, []).append(change)
        delays.append(part.delays)
        invalid.append(part.invalid)
        last_s = max(last_s, part.last_s)
        for version, rows in part.unknown.items():
            unknown[version] = unknown.get(version, 0) + rows
    return Seen(
        {version: merge(found) for version, found in counted.items()},
        {version: _all_changes(found) for version, found in changes.items()},
        {place: _all_changes(found) for place, found in slices.items()},
        counts_of(np.concatenate(delays)),
        _refused(invalid),
        unknown,
        last_s,
    )


def changes(answered_s: np.ndarray, known_s: np.ndarray, step: np.ndarray, rules: Rules) -> Changes:
    """Return how labels change what is known of quality.

    answered_s, known_s: when each row was answered and its label known, (n,). step: int64 (n, 2), what the label adds
    to the labelled rows and to the right ones.
    """
    row = np.floor(answered_s / rules.bucket_s).astype(np.int64)
    at = np.floor(np.maximum(answered_s, known_s) / rules.bucket_s).astype(np.int64)
    leaves = row + rules.quality_s // rules.bucket_s
    counts = at < leaves  # a label that comes later finds its row outside
    places = np.concatenate([at[counts], leaves[counts]])
    found, sums = _summed(places, np.concatenate([step[counts], -step[counts]]))
    of_step = np.floor(answered_s / rules.decline_step_s).astype(np.int64)
    return Changes(found, sums[:, 0], sums[:, 1], _told(np.column_stack([of_step, at, step])))


def counts_of(rows: np.ndarray) -> np.ndarray:
    """Return the rows (n, k) put together that differ in their last number alone, which is added up."""
    places, which = np.unique(rows[:, :-1], axis=0, return_inverse=True)
    counts = np.bincount(which.ravel(), rows[:, -1], len(places)).astype(np.int64)
    return np.column_stack([places, counts])


def _told(rows: np.ndarray) -> np.ndarray:
    places, which = np.unique(rows[:, :2], axis=0, return_inverse=True)
    sums = np.zeros((len(places), 2), np.int64)
    np.add.at(sums, which.ravel(), rows[:, 2:])
    return np.column_stack([places, sums])


def _refused(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    at, rows = _summed(np.concatenate([at for at, _ in parts]), np.concatenate([rows for _, rows in parts])[:, None])
    return at, rows[:, 0]


def _all_changes(parts: Sequence[Changes]) -> Changes:
    steps = np.concatenate([np.column_stack([part.labelled, part.right]) for part in parts])
    found, sums = _summed(np.concatenate([part.at for part in parts]), steps)
    return Changes(found, sums[:, 0], sums[:, 1], _told(np.concatenate([part.told for part in parts])))


def _summed(places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found, which = np.unique(places, return_inverse=True)
    sums = np.zeros((len(found), values.shape[1]), np.int64)
    np.add.at(sums, which, values)
    return found, sums


def _count(batch: Batch, known: Opened, bucket_s: int, gone: np.ndarray | None) -> Counted:
    # gone: the values that all rows lack, (places of a row,).
    bucket = np.floor(batch.time_s / bucket_s).astype(np.int64)
    order = np.argsort(bucket, kind="stable")
    buckets, starts, rows = np.unique(bucket[order], return_index=True, return_counts=True)
    inputs = np.nan_to_num(batch.rows[order]).astype(known.release.manifest.input.dtype, copy=False)
    outputs, counting = batch.outputs[order], known.counting
    values = counting.meter.measure(inputs, outputs)
    runs = [slice(begin, begin + length) for begin, length in zip(starts.tolist(), rows.tolist(), strict=True)]
    counts = np.array([counting.binner.count(values[run]) for run in runs], np.int32)
    sums = np.zeros((len(runs), 0 if counting.width else counting.components))
    if gone is None and not counting.width:
        sums = np.array([counting.sums(inputs[run], outputs[run])[:-1] for run in runs])
    if gone is not None:
        counts[:, _lost(known, gone)] = 0
    last_s = np.maximum.reduceat(batch.time_s[order], starts)
    embedded = rows if gone is None else np.zeros_like(rows)
    estimation = known.reference.estimation
    none = np.zeros((len(runs), 0))
    estimated = none if estimation is None else estimation.sums_of_runs(outputs, starts)
    return Counted(buckets, counts, sums, rows, embedded, last_s, estimated)


def _by_pattern(batch: Batch) -> Iterator[tuple[Batch, np.ndarray | None]]:
    # The rows that lack the same values, with those: None where nothing is lacking.
    flat = batch.rows.reshape(len(batch.rows), -1)
    lacking = np.isnan(flat) if flat.dtype.kind == "f" else np.zeros(0, bool)
    if not lacking.any():
        yield batch, None
        return
    patterns, which = np.unique(lacking, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        some = which.ravel() == number
        part = Batch(batch.version, batch.time_s[some], batch.rows[some], batch.outputs[some])
        yield part, pattern if pattern.any() else None


def _lost(known: Opened, gone: np.ndarray) -> np.ndarray:
    # The signals that cannot be told without the values `gone`, (places of a row,).
    spec = known.release.manifest.input
    names = [bins.name for bins in known.reference.bins]
    kept = {*signals.OUTPUTS, signals.PREDICTION}
    if spec.columns:
        kept |= _present(spec, gone)
    return np.array([name not in kept for name in names])


def _present(spec: InputSpec, gone: np.ndarray) -> set[str]:
    present = [column for column, lost in zip(spec.columns, gone, strict=True) if not lost]
    present += [f"input_{column}" for column in present]  # as a column named like an output is called
    return {*present, *(f"{column}{signals.EMPTY}" for column in present)}
