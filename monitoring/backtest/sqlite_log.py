"""The prediction log as it is replayed: cut into parts by `seq`, read in batches of bounded size."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from monitoring.backtest import counted, labelled
from monitoring.backtest.counted import Batch, Seen
from monitoring.backtest.labelled import Labels
from monitoring.backtest.rules import Rules
from monitoring.judge import quality, slices
from monitoring.log import redaction
from monitoring.log.opened import Opened, opened
from registry.errors import DataError, ReleaseError

PART_ROWS = 200_000
BATCH_BYTES = 32 << 20
BATCH_LABELS = 5_000  # with their rows, where a release has slices
# A plus keeps SQLite from an index: the rows of a part lie together.
ROWS = """SELECT time_s, version, probabilities, row FROM predictions
    WHERE seq > ?1 AND seq <= ?2 AND +model = ?3 AND +time_s BETWEEN ?4 AND ?5 ORDER BY seq"""
# A label, and the one before it for the same row, which it takes back.
LABELS = """SELECT p.version, p.time_s, l.time_s, p.predicted, l.label,
        (SELECT label FROM labels WHERE id = l.id AND seq < l.seq ORDER BY seq DESC LIMIT 1), {row}
    FROM labels l CROSS JOIN predictions p ON p.id = l.id
    WHERE l.seq > ?1 AND l.seq <= ?2 AND p.model = ?3 AND p.time_s BETWEEN ?4 AND ?5"""


@dataclass(frozen=True)
class LogPart:
    """Rows and labels of one model with a `seq` above `after` and up to `until`, of rows answered in `span_s`.

    sliced: whether a release is measured in slices: then the labelled rows are read, else only their labels.
    """

    path: Path
    model: str
    after: int
    until: int
    span_s: tuple[float, float]
    rules: Rules
    sliced: bool

    def read(self) -> Seen:
        """Return what the rules need of this part. Raises DataError if the log cannot be read."""
        with _reading(self.path) as connection:
            answered = _rows(self, connection)
            said, known_s = _labels(self, connection)
            last_s = max(known_s, answered.last_s)
            return replace(said, counted=answered.counted, unknown=answered.unknown, last_s=last_s)


def models(path: Path) -> list[str]:
    """Return the models whose rows are on the log. Raises DataError if it is no log."""
    with _reading(path) as connection:
        return [model for (model,) in connection.execute("SELECT DISTINCT model FROM predictions ORDER BY 1")]


def parts(path: Path, model: str, span_s: tuple[float, float], rules: Rules) -> list[LogPart]:
    """Return the log in parts of at most PART_ROWS rows and as many labels, in the order of `seq`."""
    with _reading(path) as connection:
        (first, last), (first_label, last_label) = (
            connection.execute(f"SELECT coalesce(min(seq), 1), coalesce(max(seq), 0) FROM {table}").fetchone()
            for table in ("predictions", "labels")
        )
        sliced = last_label > 0 and _sliced(model, connection)
    begins, ends = min(first, first_label) - 1, max(last, last_label)
    return [
        LogPart(path, model, after, min(after + PART_ROWS, ends), span_s, rules, sliced)
        for after in range(begins, ends, PART_ROWS)
    ]


def is_log(path: Path) -> bool:
    """Return whether a file is a SQLite database."""
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be read as a prediction log: {error}") from error


def _rows(part: LogPart, connection: sqlite3.Connection) -> Seen:
    found: dict[str, list[counted.Counted]] = {}
    unknown: dict[str, int] = {}
    last_s = 0.0
    cursor = connection.execute(ROWS, (part.after, part.until, part.model, *part.span_s))
    most = _batch_rows(part, connection)
    while rows := cursor.fetchmany(most):
        last_s = max(last_s, *(row[0] for row in rows))
        for version in sorted({row[1] for row in rows}):
            mine = [row for row in rows if row[1] == version]
            known = known_release(part.model, version)
            if known is None:
                unknown[version] = unknown.get(version, 0) + len(mine)
            else:
                batch = _batch(part, version, known, mine)
                found.setdefault(version, []).append(counted.count(batch, known, part.rules.bucket_s))
    merged = {version: counted.merge(several) for version, several in found.items()}
    return Seen(merged, unknown=unknown, last_s=last_s)


def _batch_rows(part: LogPart, connection: sqlite3.Connection) -> int:
    query = "SELECT max(length(row)) FROM (SELECT row FROM predictions WHERE seq > ? LIMIT 1000)"
    (largest,) = connection.execute(query, (part.after,)).fetchone()
    return max(1, min(20_000, BATCH_BYTES // (largest or 1)))


def _batch(part: LogPart, version: str, known: Opened, rows: list[tuple[float, str, bytes, bytes]]) -> Batch:
    manifest = known.release.manifest
    try:
        inputs = redaction.decode(manifest.input, [row[3] for row in rows])
        outputs = np.frombuffer(b"".join(row[2] for row in rows), np.float32).reshape(len(rows), -1)
    except ValueError as error:
        tag = known.release.tag
        raise DataError(f"{part.path}: rows of {tag} do not have the shape of that release: {error}") from error
    return Batch(version, np.array([row[0] for row in rows]), inputs, outputs)


def _labels(part: LogPart, connection: sqlite3.Connection) -> tuple[Seen, float]:
    # What labels change, and when the last one was known that said something new.
    place, found, last_s = (part.after, part.until, part.model, *part.span_s), [], 0.0
    cursor = connection.execute(LABELS.format(row="p.row" if part.sliced else "NULL"), place)
    while rows := cursor.fetchmany(BATCH_LABELS):
        last_s = max([last_s, *(row[2] for row in rows if row[4] != row[5])])
        for version in sorted({row[0] for row in rows}):
            known = known_release(part.model, version)
            if known is not None:
                said = _said(known, [row for row in rows if row[0] == version])
                found.append(labelled.together([(version, labelled.of(said, known, part.rules))]))
    return counted.together(found), last_s


def _said(known: Opened, rows: list[tuple[str, float, float, str, str, str | None, bytes | None]]) -> Labels:
    steps = []
    for _, _, _, predicted, label, before, _ in rows:
        new, old = judged(known, predicted, label), judged(known, predicted, before)
        steps.append((new[0] - old[0], new[1] - old[1]))
    manifest, blobs = known.release.manifest, [row[6] or b"" for row in rows]
    inputs = redaction.decode(manifest.input, blobs) if slices.parse(manifest.quality) else None
    answered_s, known_s = (np.array([row[at] for row in rows]) for at in (1, 2))
    return Labels(answered_s, known_s, np.array(steps, np.int64), np.array([row[5] is None for row in rows]), inputs)


def _sliced(model: str, connection: sqlite3.Connection) -> bool:
    # It reads the whole log, so once for all parts.
    query = "SELECT DISTINCT version FROM predictions WHERE +model = ?"
    found = (known_release(model, version) for (version,) in connection.execute(query, (model,)))
    return any(known is not None and slices.parse(known.release.manifest.quality) for known in found)


def judged(known: Opened, predicted: str, label: str | None) -> tuple[int, int]:
    """Return (1, 1) for a right answer, (1, 0) for a wrong one, (0, 0) where the label says nothing."""
    if label is None:
        return 0, 0
    manifest = known.release.manifest
    if manifest.classes:
        return 1, int(label == predicted)
    truth = quality.number(label)
    return (0, 0) if truth is None else (1, int(abs(float(predicted) - truth) <= manifest.quality["tolerance"]))


def known_release(model: str, version: str) -> Opened | None:
    """Return the release that answered, None if it is not in the store any more."""
    try:
        return opened(f"{model}:{version}")
    except ReleaseError:
        return None
