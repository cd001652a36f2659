"""What the monitor remembers of the log: counts per release, stretch of time and slice, in a SQLite file of its own.

All of it adds up, so a window is the sum of its buckets. The counts and how far the log was read change in one
transaction: a monitor that is killed at any moment goes on without a row lost or counted twice. No id of a row and
no feature is in it. A file that cannot be used is made anew from the log.
"""

import contextlib
import functools
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from monitoring.tally import COUNTS, ERRORS, delay_s, inexact

STRUCTURE = 1  # of what stands in the tables below; a file of another one is made anew
BUCKET_S = 300.0
LATE_S = 86_400.0  # the watermark: a label that comes later finds its row outside the usual window of quality
BUSY_S = 10.0
CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# joined: the label that was counted for a row of the log, and as what, to be taken back when it is corrected.
# orphans: the labels of the log whose row is not there (yet).
SCHEMA = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE releases(
  code INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, latest_label_s REAL, UNIQUE(model, version));
CREATE TABLE buckets(
  release INTEGER, start INTEGER, slice TEXT, rows INTEGER, labelled INTEGER, judged INTEGER, right INTEGER,
  error TEXT, absolute TEXT, squared TEXT, sums BLOB, labelled_sums BLOB,
  PRIMARY KEY(release, start, slice)) WITHOUT ROWID;
CREATE TABLE confusion(
  release INTEGER, start INTEGER, slice TEXT, label TEXT, predicted TEXT, count INTEGER,
  PRIMARY KEY(release, start, slice, label, predicted)) WITHOUT ROWID;
CREATE TABLE delays(
  release INTEGER, start INTEGER, bin INTEGER, count INTEGER, PRIMARY KEY(release, start, bin)) WITHOUT ROWID;
CREATE TABLE joined(
  seq INTEGER PRIMARY KEY, label TEXT NOT NULL, time_s REAL NOT NULL, slices TEXT NOT NULL, right INTEGER, cell TEXT);
CREATE TABLE orphans(seq INTEGER PRIMARY KEY);
"""


@dataclass(frozen=True)
class Aggregate:
    """What is known of the rows of one version and slice that were answered in one stretch of time.

    slice: "" for all rows. labelled: rows with a label that says something. judged: those of them of which it is
    known what is right; right: of these. confusion: by (label, predicted), the label "" if it is no class; {} in a
    regression, with too many classes, or of a release that is not known. error, absolute, squared: sums over the
    labelled rows of a regression of (predicted - truth), its size and its square.
    sums: of the release's estimation over all rows, labelled_sums over the labelled ones; empty without one.
    """

    version: str
    slice: str
    start_s: float
    length_s: float
    rows: int = 0
    labelled: int = 0
    judged: int = 0
    right: int = 0
    confusion: dict[tuple[str, str], int] = field(default_factory=dict)
    error: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False)
    labelled_sums: np.ndarray = field(default_factory=lambda: np.zeros(0), compare=False)


def beside(log: Path) -> Path:
    """Return where the state of a log lies if nothing else is said."""
    return log.with_name(log.name + ".monitor")


def open_or_make(path: Path, bucket_s: float = BUCKET_S, late_s: float = LATE_S) -> tuple[sqlite3.Connection, str]:
    """Return the state at `path`, and why it was made anew: "" if it was not, "absent", "corrupt", "version", "bucket".

    Raises sqlite3.Error or OSError if the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _open(path, bucket_s, late_s)
    except sqlite3.Error as error:
        if not is_corrupt(error):
            raise
    remove(path)
    return _open(path, bucket_s, late_s)[0], "corrupt"


def connect(path: Path) -> sqlite3.Connection:
    """Open a state file that is there; transactions begin where they are written down. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def is_corrupt(error: sqlite3.Error) -> bool:
    """Say whether the file that this error is of cannot be read any more, whatever is tried."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF in CORRUPT


def is_whole(path: Path) -> bool:
    """Say whether every page of a state file can be read."""
    try:
        with contextlib.closing(connect(path)) as connection:
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except sqlite3.Error as error:
        return not is_corrupt(error)


def remove(path: Path) -> None:
    """Delete a state file with what SQLite keeps beside it."""
    for ending in ("-wal", "-shm", ""):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def empty(connection: sqlite3.Connection, bucket_s: float, late_s: float = LATE_S) -> None:
    """Make the tables anew: nothing of the log is read. late_s: a label that comes later than that counts as late."""
    made = secrets.randbits(48)  # tells it from what was here before, to whoever was about to write
    with transaction(connection):
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            connection.execute(f'DROP TABLE "{name}"')
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        connection.executemany(
            "INSERT INTO facts VALUES (?, ?)", [("bucket_s", bucket_s), ("late_s", late_s), ("made", made)]
        )
        connection.execute(f"PRAGMA user_version = {STRUCTURE}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the state for writing; all that was written is kept at the end, or nothing of it if something fails."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def facts(connection: sqlite3.Connection) -> dict[str, float]:
    """Return the single numbers: how far each table of the log was read, and what was counted over all of it."""
    return dict(connection.execute("SELECT name, value FROM facts"))


def models(connection: sqlite3.Connection) -> dict[str, float | None]:
    """Return every model of which a row was read, with the Unix time of its newest label."""
    return dict(connection.execute("SELECT model, max(latest_label_s) FROM releases GROUP BY model ORDER BY model"))


def aggregates(connection: sqlite3.Connection, model: str, since_s: float) -> list[Aggregate]:
    """Return the buckets of a model that hold rows answered since a Unix time, by version, slice and time.

    The first bucket of each may begin up to its length before `since_s`.
    """
    length_s = facts(connection)["bucket_s"]
    place = (model, since_s / length_s - 1)
    cells: dict[tuple[int, int, str], dict[tuple[str, str], int]] = defaultdict(dict)
    for *key, label, said, count in connection.execute(_since("confusion", "label, predicted, count"), place):
        cells[key[0], key[1], key[2]][label, said] = count
    versions = dict(connection.execute("SELECT code, version FROM releases WHERE model = ?", (model,)))
    columns = ", ".join((*COUNTS, *ERRORS, "sums", "labelled_sums"))
    found = []
    for code, start, name, *numbers in connection.execute(_since("buckets", columns), place):
        rows, labelled, judged, right, *exact, sums, labelled_sums = numbers
        known = cells.get((code, start, name), {})
        error, absolute, squared = map(inexact, exact)
        found.append(
            Aggregate(
                versions[code], name, start * length_s, length_s, rows, labelled, judged, right, known,
                error, absolute, squared, sums=_array(sums), labelled_sums=_array(labelled_sums),
            )
        )  # fmt: skip
    return sorted(found, key=lambda one: (one.version, one.slice, one.start_s))


def total(parts: Iterable[Aggregate]) -> dict[tuple[str, str], Aggregate]:
    """Return the sum over time by (version, slice)."""
    groups: dict[tuple[str, str], list[Aggregate]] = defaultdict(list)
    for one in parts:
        groups[one.version, one.slice].append(one)
    return {place: _sum(group) for place, group in groups.items()}


def delay_quantiles(
    connection: sqlite3.Connection, model: str, since_s: float, shares: tuple[float, ...]
) -> list[float] | None:
    """Return quantiles of the seconds from answer to label, each within 5 %; None without a label.

    A label that came before its answer counts as 0 s.
    """
    length_s = facts(connection)["bucket_s"]
    query = f"SELECT bin, sum(count) FROM ({_since('delays', 'bin, count')}) GROUP BY bin ORDER BY bin"
    bins = connection.execute(query, (model, since_s / length_s - 1)).fetchall()
    if not bins or not sum(count for _, count in bins):
        return None
    numbers, counts = (np.array(column) for column in zip(*bins, strict=True))
    ranks = np.ceil(np.array(shares) * counts.sum()).clip(1)
    return [delay_s(int(numbers[i])) for i in np.searchsorted(counts.cumsum(), ranks)]


def _open(path: Path, bucket_s: float, late_s: float) -> tuple[sqlite3.Connection, str]:
    connection = connect(path)
    try:
        why = _trouble(connection, bucket_s)
        if why:
            empty(connection, bucket_s, late_s)
    except sqlite3.Error:
        connection.close()
        raise
    return connection, why


def _trouble(connection: sqlite3.Connection, bucket_s: float) -> str:
    # Why the file cannot be gone on with, "" if it can.
    found = _tables(connection)
    if not found:
        return "absent"
    if found != _usual_tables() or connection.execute("PRAGMA user_version").fetchone()[0] != STRUCTURE:
        return "version"
    return "" if facts(connection).get("bucket_s") == bucket_s else "bucket"


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {text for (text,) in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'")}


@functools.cache
def _usual_tables() -> set[str]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        return _tables(connection)


def _since(table: str, columns: str) -> str:
    return (
        f"SELECT release, start, {'' if table == 'delays' else 'slice, '}{columns} FROM {table} "
        "WHERE release IN (SELECT code FROM releases WHERE model = ?) AND start > ?"
    )


def _sum(group: list[Aggregate]) -> Aggregate:
    cells: dict[tuple[str, str], int] = defaultdict(int)
    for one in group:
        for cell, count in one.confusion.items():
            cells[cell] += count
    first, last = group[0], group[-1]
    sums = [np.sum([a for a in arrays if a.size] or [np.zeros(0)], axis=0) for arrays in _arrays(group)]
    return Aggregate(
        first.version, first.slice, first.start_s, last.start_s + last.length_s - first.start_s,
        sum(one.rows for one in group), sum(one.labelled for one in group),
        sum(one.judged for one in group), sum(one.right for one in group), dict(cells),
        sum(one.error for one in group), sum(one.absolute for one in group), sum(one.squared for one in group), *sums,
    )  # fmt: skip


def _array(blob: bytes | None) -> np.ndarray:
    return np.frombuffer(blob or b"", np.float64)


def _arrays(group: list[Aggregate]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [one.sums for one in group], [one.labelled_sums for one in group]
