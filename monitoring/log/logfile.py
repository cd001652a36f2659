"""The file of the prediction log: its tables, how it is opened, and what is written to it.

SQLite with write-ahead logging. What is deleted is overwritten with zeros, and its pages are used again or given
back. `seq` counts up and is never given twice, so a reader that knows the last one it saw misses nothing.
"""

import contextlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from monitoring.log import pseudonym
from monitoring.log.redaction import Redaction
from registry.errors import DataError

BUSY_S = 5.0
INSERTED_ROWS = 100  # by one statement; SQLite takes 999 values at least
MOST_WAL_BYTES = 16 << 20  # kept once it is written back; a reader that stays may make it grow
IDS = "ids"
# The column `probabilities` holds whatever the model answered; logs on disk know it by that name.
SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time_s REAL NOT NULL,
  model TEXT NOT NULL, version TEXT NOT NULL, predicted TEXT NOT NULL, probabilities BLOB NOT NULL, row BLOB NOT NULL,
  hashed TEXT);
CREATE INDEX IF NOT EXISTS predictions_time ON predictions(model, time_s);
CREATE TABLE IF NOT EXISTS labels(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, time_s REAL NOT NULL, label TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS labels_id ON labels(id);
CREATE TABLE IF NOT EXISTS shadow(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time_s REAL NOT NULL,
  model TEXT NOT NULL, version TEXT NOT NULL, predicted TEXT NOT NULL, outputs BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS shadow_time ON shadow(model, version, time_s);
CREATE TABLE IF NOT EXISTS about(name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS exports(
  target TEXT NOT NULL, kind TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, done INTEGER NOT NULL,
  PRIMARY KEY(target, kind, first));
"""
COLUMNS = "id, time_s, model, version, predicted, probabilities, row"
ROW, REDACTED_ROW = "(?, ?, ?, ?, ?, ?, ?)", "(?, ?, ?, ?, ?, ?, ?, ?)"
PREDICTION = f"INSERT OR IGNORE INTO predictions({COLUMNS}) VALUES {ROW}"
REDACTED = f"INSERT OR IGNORE INTO predictions({COLUMNS}, hashed) VALUES {REDACTED_ROW}"
SHADOW = (
    "INSERT OR IGNORE INTO shadow(id, time_s, model, version, predicted, outputs) SELECT ?1, ?2, ?3, ?4, ?5, ?6 "
    "WHERE EXISTS (SELECT 1 FROM predictions WHERE id = ?1 AND time_s = ?2 AND model = ?3)"
)
BUCKETED = "INSERT OR IGNORE INTO about VALUES (?, ?)"
LABEL = "INSERT INTO labels(id, time_s, label) VALUES (?, ?, ?)"


@dataclass(frozen=True, eq=False)
class Records:
    """One answered request of n rows.

    predicted: class names, or the predictions of a regression as text. outputs: float32 (n, classes) or
    (n, 1). rows: (n, *shape). redaction: what of them is written; None: all.
    """

    model: str
    version: str
    time_s: float
    ids: list[str]
    predicted: list[str]
    outputs: np.ndarray
    rows: np.ndarray
    redaction: Redaction | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Shadowed:
    """What a challenger answered to rows of a request; fields as in `Records`, `time_s` that of the champion's answer.

    Only rows whose champion's answer is on the log are written: the two are compared, never one alone.
    """

    model: str
    version: str
    time_s: float
    ids: list[str]
    predicted: list[str]
    outputs: np.ndarray


@dataclass(frozen=True)
class Added:
    """unknown: how many of the accepted labels name an id that is not in the log (yet)."""

    accepted: int
    unknown: int


def connect(path: Path, busy_s: float | None = None) -> sqlite3.Connection:
    """Open the log, made if absent. Write-ahead logging: readers and one writer do not wait for each other.

    busy_s: how long to wait for another writer, BUSY_S if left out.
    Raises sqlite3.Error or OSError if the place cannot be written or holds something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_S if busy_s is None else busy_s, check_same_thread=False)
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # of a new file; must come before anything is in it
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute(f"PRAGMA journal_size_limit={MOST_WAL_BYTES}")
        connection.executescript(SCHEMA)
        _complete(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def add_labels(connection: sqlite3.Connection, pairs: Sequence[tuple[str, str]]) -> int:
    """Append (id, label) pairs; they are committed when this returns."""
    with connection:
        return put_labels(connection, pairs)


def unknown(connection: sqlite3.Connection, ids: Iterable[str]) -> int:
    """Return how many of the ids are of no row on the log, as far as the transaction under way sees."""
    query = "SELECT 1 FROM predictions WHERE id = ?"
    return sum(connection.execute(query, (ident,)).fetchone() is None for ident in ids)


def put_labels(connection: sqlite3.Connection, pairs: Sequence[tuple[str, str]]) -> int:
    """Append (id, label) pairs to the transaction under way."""
    now = time.time()
    connection.executemany(LABEL, [(ident, now, label) for ident, label in pairs])
    return len(pairs)


def put(connection: sqlite3.Connection, records: Records | Shadowed, ids: Sequence[str]) -> int:
    """Append rows, known as `ids`, to the transaction under way; return how many were new."""
    before = connection.total_changes
    if isinstance(records, Shadowed):
        connection.executemany(SHADOW, _shadow_values(records, ids))
    elif records.redaction is None:
        _insert(connection, PREDICTION, ROW, _values(records, ids))
    else:
        _insert(connection, REDACTED, REDACTED_ROW, _redacted_values(records, records.redaction, ids))
        added = connection.total_changes - before
        connection.executemany(BUCKETED, _bucket_notes(records, records.redaction))
        return added
    return connection.total_changes - before


def _insert(connection: sqlite3.Connection, one: str, row: str, rows: Sequence[tuple[Any, ...]]) -> None:
    # Many rows by one statement, which is `one` and `row` again for each more of them. After each statement the writer
    # asks for the lock of the interpreter, for which the event loop then has to stop.
    for start in range(0, len(rows), INSERTED_ROWS):
        some = rows[start : start + INSERTED_ROWS]
        connection.execute(f"{one}{f', {row}' * (len(some) - 1)}", tuple(chain.from_iterable(some)))


def size_bytes(records: Records | Shadowed) -> int:
    """Return the memory that rows take while they wait."""
    return records.outputs.nbytes + (0 if isinstance(records, Shadowed) else records.rows.nbytes)


def note(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Write down what is true of the whole log, unless it says so already."""
    if noted(connection, name) != value:
        with connection:
            connection.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))


def noted(connection: sqlite3.Connection, name: str) -> str | None:
    """Return what the log says of itself under `name`."""
    found = connection.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
    return None if found is None else str(found[0])


def buckets(connection: sqlite3.Connection, model: str, version: str) -> dict[str, np.ndarray]:
    """Return by column the numbers that stand for buckets in rows of a release, float32 (k,), whatever policy was."""
    start = _bucket_place(model, version)
    found: dict[str, set[float]] = {}
    for name, value in connection.execute(
        "SELECT name, value FROM about WHERE name > ? AND name < ?", (start, start + "\U0010ffff")
    ):
        found.setdefault(name[len(start) :].rpartition(" ")[0], set()).update(json.loads(value))
    return {column: np.array(sorted(values), np.float32) for column, values in found.items()}


def known_as(
    connection: sqlite3.Connection, path: Path, environment: Mapping[str, str] = os.environ
) -> Callable[[str], str]:
    """Return what gives the name on the log at `path` of an id, with the key of the environment if ids are hashed.

    Raises DataError if that key is needed and is not there, or is another one.
    """
    fingerprint = noted(connection, IDS)
    if not fingerprint:
        return str
    keyed = pseudonym.from_environment(environment)
    if keyed is None or keyed.fingerprint != fingerprint:
        found = "there is none here" if keyed is None else "the one here is another"
        raise DataError(
            f"{path}: holds ids that were hashed with a key, and {found}; give the service's: {pseudonym.KEY_FILE} or "
            f"{pseudonym.KEY}"
        )
    return keyed.ident


def _complete(connection: sqlite3.Connection) -> None:
    # A log from before there were policies; of two workers that find it so, one adds the column.
    if "hashed" not in {column[1] for column in connection.execute("PRAGMA table_info(predictions)")}:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("ALTER TABLE predictions ADD COLUMN hashed TEXT")


def _bucket_place(model: str, version: str) -> str:
    return f"buckets {model}:{version} "


def _bucket_notes(records: Records, redaction: Redaction) -> Iterator[tuple[str, str]]:
    # Other edges are another note: rows of before stay on the log.
    for place, one in redaction.buckets:
        said = json.dumps(one.inside.tolist())
        column = redaction.spec.columns[place]
        yield f"{_bucket_place(records.model, records.version)}{column} {zlib.crc32(said.encode()):08x}", said


def _shadow_values(records: Shadowed, ids: Sequence[str]) -> list[tuple[str, float, str, str, str, bytes]]:
    place = (records.time_s, records.model, records.version)
    answers = zip(ids, records.predicted, records.outputs, strict=True)
    return [(ident, *place, predicted, outputs.tobytes()) for ident, predicted, outputs in answers]


def _values(records: Records, ids: Sequence[str]) -> list[tuple[str, float, str, str, str, bytes, bytes]]:
    place = (records.time_s, records.model, records.version)
    return [
        (ident, *place, predicted, outputs.tobytes(), row.tobytes())
        for ident, predicted, outputs, row in zip(ids, records.predicted, records.outputs, records.rows, strict=True)
    ]


def _redacted_values(
    records: Records, redaction: Redaction, ids: Sequence[str]
) -> list[tuple[str, float, str, str, str, bytes, bytes, str | None]]:
    place = (records.time_s, records.model, records.version)
    blobs, hashed = redaction.apply(records.rows)
    return [
        (ident, *place, predicted, outputs.tobytes(), blob, digests)
        for ident, predicted, outputs, blob, digests in zip(
            ids, records.predicted, records.outputs, blobs, hashed, strict=True
        )
    ]
