"""Recorded traffic and the reference of its release as tables of signals, and how good the answers were.

Runs in the process of a report: nothing else loads pandas.
"""

import io
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from monitoring.judge import intervals, quality
from monitoring.log import recorder, redaction
from monitoring.reports.findings import Quality
from monitoring.shift import signals
from registry import store
from registry.errors import DataError
from registry.release import HELDOUT, Release

if TYPE_CHECKING:
    import pandas as pd

# A share of the rows, spread evenly: multiples of the golden ratio do not keep step with anything (Knuth, vol. 3, 6.4).
SAMPLE = """SELECT row, probabilities FROM predictions
    WHERE model = ?1 AND version = ?2 AND time_s BETWEEN ?3 AND ?4
    AND ((seq & 2147483647) * 2654435761 & 4294967295) < ?5 ORDER BY seq DESC LIMIT ?6"""
COUNT = "SELECT count(*) FROM predictions WHERE model = ? AND version = ? AND time_s BETWEEN ? AND ?"
LABELLED = """SELECT p.predicted, l.label, count(*) FROM predictions p
    JOIN labels l ON l.seq = (SELECT max(seq) FROM labels WHERE id = p.id)
    WHERE p.model = ? AND p.version = ? AND p.time_s BETWEEN ? AND ? GROUP BY 1, 2"""


@dataclass(frozen=True)
class Window:
    """The part of a log from one Unix time to another, and the most rows to read of it."""

    log: Path
    from_s: float
    to_s: float
    most_rows: int


def frames(tag: str, window: Window) -> tuple["pd.DataFrame", "pd.DataFrame", Quality]:
    """Return the reference, the recorded rows of the window, both as tables of signals, and the measured quality.

    Raises ReleaseError if the release cannot be read, DataError if the log cannot.
    """
    release = store.open_release(tag)
    with np.load(io.BytesIO(release.read(HELDOUT)), allow_pickle=False) as heldout:
        reference = _table(release, heldout["x"], heldout[release.manifest.output])
    try:
        with closing(recorder.connect(window.log)) as connection:
            rows, outputs = sample(connection, release, window)
            measured = _quality(connection, release, window)
    except sqlite3.Error as error:
        raise DataError(f"{window.log}: cannot be read: {error}") from error
    return reference, _table(release, rows, outputs), measured


def sample(connection: sqlite3.Connection, release: Release, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `window.most_rows` rows of the window, spread evenly over it, and what was answered to them.

    Rows that do not have the size of the release's are left out.
    """
    place = (release.name, release.version, window.from_s, window.to_s)
    (count,) = connection.execute(COUNT, place).fetchone()
    share = min(1.0, window.most_rows / max(count, 1))
    found = connection.execute(SAMPLE, (*place, int(share * 2**32), window.most_rows)).fetchall()
    width, spec = len(release.manifest.classes) or 1, release.manifest.input
    size_bytes = int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
    found = [(row, said) for row, said in found if len(row) in (0, size_bytes) and len(said) == 4 * width]
    rows = redaction.decode(spec, [row for row, _ in found])
    return rows, np.frombuffer(b"".join(answer for _, answer in found), dtype=np.float32).reshape(-1, width)


def _quality(connection: sqlite3.Connection, release: Release, window: Window) -> Quality:
    manifest = release.manifest
    tolerance = manifest.quality.get("tolerance", 0.0)
    right = labelled = 0
    for predicted, label, rows in connection.execute(
        LABELLED, (release.name, release.version, window.from_s, window.to_s)
    ):
        truth = None if manifest.classes else quality.number(label)
        if not manifest.classes and truth is None:
            continue
        labelled += rows
        right += rows * (predicted == label if truth is None else abs(float(predicted) - truth) <= tolerance)
    metric, floor = manifest.quality["metric"], float(manifest.quality["floor"])
    if not labelled:
        return Quality(metric, 0, floor=floor)
    return Quality(metric, labelled, right / labelled, *intervals.wilson(right, labelled), floor=floor)


def _table(release: Release, rows: np.ndarray, outputs: np.ndarray) -> "pd.DataFrame":
    # The signals of the outputs first: a report shows the first columns of a wide table.
    import pandas as pd

    manifest = release.manifest
    spec, classes = manifest.input, manifest.classes
    values = signals.compute(spec, rows, outputs, manifest.threshold) if len(rows) else np.zeros((0, 0))
    names = signals.names(spec, len(classes))
    table = pd.DataFrame(values if len(rows) else None, columns=list(names))
    for name, known in signals.indices(spec, classes).items():
        table[name] = [_value(known, number) for number in table[name]]
    first = [name for name in names if name in (*signals.OUTPUTS, signals.PREDICTION)]
    gone = np.isnan(rows).all(axis=tuple(range(1, rows.ndim)))  # a policy kept nothing of these
    table.loc[gone, table.columns.difference(first)] = np.nan
    return table[first + [name for name in names if name not in first]]


def _value(known: Sequence[object], number: float) -> object:
    return known[int(number)] if 0 <= number < len(known) else None  # NaN is neither
