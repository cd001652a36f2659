"""Whether traffic still looks like what a release has seen, so that its estimates may be believed.

A sample of the rows on the log is compared with the reference. It has at most MOST_ROWS: what so many do not show
moves an estimate by less than it says, and with more the smallest difference would be found and nothing ever believed.
Found is more than an alert tells: its limit is FALSE_ALARM for one look, not for a month, and no shift is too small.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from monitoring.judge.estimates import DRIFTED, FEW, FEWEST_ROWS, HIDDEN, Doubt
from monitoring.log import logfile
from monitoring.shift import drift
from monitoring.shift.reference import Reference
from registry.release import Manifest

FALSE_ALARM = 0.1
MOST_ROWS = 1000
DRAWN = 20_000  # places on the log that are looked at for rows of the version
MOST_BYTES = 64 << 20
ROUNDED = 0.5  # of the values stand for a bucket: more than may do so by chance, as whole numbers do
ENDS = """
    SELECT (SELECT seq FROM predictions WHERE model = ?1 AND time_s >= ?2 AND time_s < ?3 ORDER BY time_s, seq LIMIT 1),
      (SELECT seq FROM predictions WHERE model = ?1 AND time_s >= ?2 AND time_s < ?3
       ORDER BY time_s DESC, seq DESC LIMIT 1)"""
DRAW = """
    SELECT seq FROM predictions WHERE seq IN (SELECT value FROM json_each(?))
    AND model = ? AND version = ? AND time_s >= ? AND time_s < ? ORDER BY seq"""
READ = "SELECT probabilities, row FROM predictions WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq"


@dataclass(frozen=True)
class Span:
    """The rows of one version that were answered from `since_s` on and before `until_s`, in Unix time."""

    model: str
    version: str
    since_s: float
    until_s: float


def doubts(connection: sqlite3.Connection, span: Span, manifest: Manifest, reference: Reference) -> list[Doubt]:
    """Return what speaks against estimates of the rows of a span, [] if nothing does; connection: to the log."""
    inputs, outputs, lacking = sample(connection, span, manifest)
    if lacking > len(inputs):
        return [Doubt(HIDDEN, f"{lacking} of {lacking + len(inputs)} rows are on the log without their content")]
    if len(inputs) < FEWEST_ROWS:
        return [Doubt(FEW, f"{len(inputs)} whole rows on the log; at least {FEWEST_ROWS} are needed")]
    hidden = _hidden(manifest, inputs, logfile.buckets(connection, span.model, span.version))
    if hidden:
        return [Doubt(HIDDEN, f"the log does not hold all of {', '.join(hidden[:5])}")]
    return of_rows(reference, manifest, inputs, outputs)


def of_rows(reference: Reference, manifest: Manifest, inputs: np.ndarray, outputs: np.ndarray) -> list[Doubt]:
    """Return the drift of rows that are whole; arguments as in `signals.compute`."""
    window = drift.window_of(reference, manifest.input, inputs, outputs, manifest.threshold)
    found = drift.alarms(reference, window, FALSE_ALARM)
    return [Doubt(DRIFTED, f"drift of {', '.join(one.signal for one in found[:5])}")] if found else []


def sample(connection: sqlite3.Connection, span: Span, manifest: Manifest) -> tuple[np.ndarray, np.ndarray, int]:
    """Return up to MOST_ROWS rows (n, *shape) of a span and their outputs (n, k), spread evenly, and how many lack.

    The same rows whenever it is called. Rows that are on the log without their content, or with that of another
    shape, are the ones that lack.
    """
    first, last = connection.execute(ENDS, (span.model, span.since_s, span.until_s)).fetchone()
    shape, kind = manifest.input.shape, np.dtype(manifest.input.dtype)
    size_bytes = int(np.prod(shape)) * kind.itemsize
    width = max(1, len(manifest.classes)) * 4
    if first is None:
        return np.zeros((0, *shape), kind), np.zeros((0, width // 4), np.float32), 0
    low, high = min(first, last), max(first, last)
    candidates = np.unique(np.linspace(low, high, min(DRAWN, high - low + 1)).round().astype(np.int64))
    place = (json.dumps(candidates.tolist()), span.model, span.version, span.since_s, span.until_s)
    known = [seq for (seq,) in connection.execute(DRAW, place)]
    most = max(1, min(MOST_ROWS, MOST_BYTES // max(1, size_bytes)))
    chosen = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, min(most, len(known))).round().astype(int))]
    found = connection.execute(READ, (json.dumps(chosen),)).fetchall()
    whole = [(said, row) for said, row in found if len(row or b"") == size_bytes and len(said) == width]
    inputs = np.frombuffer(b"".join(row for _, row in whole), kind).reshape(-1, *shape)
    outputs = np.frombuffer(b"".join(said for said, _ in whole), np.float32).reshape(-1, width // 4)
    return inputs, outputs, len(found) - len(whole)


def _hidden(manifest: Manifest, inputs: np.ndarray, buckets: Mapping[str, np.ndarray]) -> list[str]:
    # The columns that a policy dropped or hashed in any row, for the service answers none with NaN, or rounded in most.
    columns = manifest.input.columns
    values = dict(zip(columns, inputs.astype(np.float64).T if columns else (), strict=True))
    known = {name: inside for name, inside in buckets.items() if name in values}
    rounded = {name for name, inside in known.items() if np.isin(values[name], inside).mean() > ROUNDED}
    return [name for name in columns if name in rounded or np.isnan(values[name]).any()]
