"""What the monitor remembers of the log: counts per release, stretch of time and slice, in a SQLite file of its own.

All of it adds up, so a window is the sum of its buckets. The counts and how far the log was read change in one
transaction: a monitor that is killed at any moment goes on without a row lost or counted twice. No id of a row and
no feature is in it. A file that cannot be used is made anew from the log.
"""

import contextlib
import functools
import secrets
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from monitoring.monitor.tally import COUNTS, ERRORS, delay_s, inexact

STRUCTURE = 1  # of what stands in the tables below; a file of another one is made anew
BUCKET_S = 300.0
BUCKETS_PER_WINDOW = 24  # at least: a window is whole buckets, so it may be longer than asked by a part of one
LATE_S = 86_400.0  # the watermark: a label that comes later finds its row outside the usual window of quality
BUSY_S = 10.0
ARRAYS = ("sums", "labelled_sums")
CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# joined: the label that was counted for a row of the log, and as what, to be taken back when it is corrected.
# orphans: the labels of the log whose row is not there (yet).
SCHEMA = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE releases(
  code INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, latest_label_s REAL, UNIQUE(model, version));
CREATE TABLE buckets(
  release INTEGER, start INTEGER, slice TEXT, rows INTEGER, labelled INTEGER, judged INTEGER, right INTEGER,
  summed INTEGER, labelled_summed INTEGER,
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
    sums: of the release's estimation over all rows, labelled_sums over those with a label; empty without one.
    summed, labelled_summed: how many rows these are of.
    """

    version: str
    slice: str
    start_s: float
    length_s: float
    rows: int = 0
    labelled: int = 0
    judged: int = 0
    right: int = 0
    summed: int = 0
    labelled_summed: int = 0
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
        connection.execute("PRAGMA secure_delete=ON")  # what was known of a row that was erased is not left in a page
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
    cells: dict[tuple[str, str, float], dict[tuple[str, str], int]] = defaultdict(dict)
    query = _since("confusion", "r.version, slice, start, label, predicted, count")
    length_s, place = _place(connection, model, since_s)
    for version, name, start, label, predicted, count in connection.execute(query, place):
        cells[version, name, start * length_s][label, predicted] = count
    found = [
        replace(one, confusion=cells.get((one.version, one.slice, one.start_s), {}))
        for one in _buckets(connection, model, since_s)
    ]
    return sorted(found, key=lambda one: (one.version, one.slice, one.start_s))


def window(connection: sqlite3.Connection, model: str, since_s: float) -> dict[tuple[str, str], Aggregate]:
    """Return the sum of `aggregates` over time by (version, slice), without holding the buckets one by one."""
    found = total(_buckets(connection, model, since_s))
    query = _since("confusion", "r.version, slice, label, predicted, sum(count)") + " GROUP BY 1, 2, 3, 4"
    for version, name, label, predicted, count in connection.execute(query, _place(connection, model, since_s)[1]):
        found[version, name].confusion[label, predicted] = count
    return found


def total(parts: Iterable[Aggregate]) -> dict[tuple[str, str], Aggregate]:
    """Return the sum of `aggregates`, or of some of them, over time by (version, slice)."""
    found: dict[tuple[str, str], Aggregate] = {}
    for one in parts:
        place = (one.version, one.slice)
        found[place] = _plus(found[place], one) if place in found else one
    return found


def delay_quantiles(
    connection: sqlite3.Connection, model: str, since_s: float, shares: tuple[float, ...]
) -> list[float] | None:
    """Return quantiles of the seconds from answer to label, each within 5 %; None without a label.

    A label that came before its answer counts as 0 s.
    """
    query = _since("delays", "bin, sum(count)") + " GROUP BY 1 ORDER BY 1"
    bins = connection.execute(query, _place(connection, model, since_s)[1]).fetchall()
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


def _buckets(connection: sqlite3.Connection, model: str, since_s: float) -> Iterator[Aggregate]:
    # Without their confusion; those of a version and slice in the order of time.
    columns = ", ".join(("r.version", "slice", "start", *COUNTS, *ERRORS, "sums", "labelled_sums"))
    length_s, place = _place(connection, model, since_s)
    for version, name, start, *numbers in connection.execute(_since("buckets", columns), place):
        first, last = len(COUNTS), len(COUNTS) + len(ERRORS)
        errors = map(inexact, numbers[first:last])
        arrays = (np.frombuffer(blob or b"", np.float64) for blob in numbers[last:])
        kept = dict(zip((*COUNTS, *ERRORS, *ARRAYS), (*numbers[:first], *errors, *arrays), strict=True))
        yield Aggregate(version, name, start * length_s, length_s, **kept)


def _place(connection: sqlite3.Connection, model: str, since_s: float) -> tuple[float, tuple[str, float]]:
    length_s = facts(connection)["bucket_s"]
    return length_s, (model, since_s / length_s - 1)


def _since(table: str, columns: str) -> str:
    # The join in this order: by the primary key, release after release.
    return (
        f"SELECT {columns} FROM releases r CROSS JOIN {table} t ON t.release = r.code WHERE r.model = ? AND start > ?"
    )


def _plus(one: Aggregate, more: Aggregate) -> Aggregate:
    numbers = {name: getattr(one, name) + getattr(more, name) for name in (*COUNTS, *ERRORS)}
    cells, arrays = Counter(one.confusion), {}
    cells.update(more.confusion)
    for name in ARRAYS:
        a, b = getattr(one, name), getattr(more, name)
        arrays[name] = a + b if a.size and b.size else a if a.size else b
    return replace(one, length_s=more.start_s + more.length_s - one.start_s, confusion=dict(cells), **numbers, **arrays)
