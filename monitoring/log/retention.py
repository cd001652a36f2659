"""What is deleted again: rows past their age, and the oldest ones of a log that is too large, in small steps.

A row takes its labels and the challenger's answer along. Deleted bytes are overwritten, and the file shrinks.
"""

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from monitoring.metrics import ServingMetrics

log = logging.getLogger(__name__)

DAY_S = 86_400.0
LOOK_S = 10.0
STEP_S = 0.03  # of one step, about: rows that come meanwhile wait for it
MOST_ROWS = 20_000  # of one step
ROW_BYTES = 256  # of its id, version, indices, label, beside its numbers, about
LOW = 0.95  # of the size that is allowed: what is left once it was reached
SLACK = 0.02  # of the file: pages that stay in it for the next rows
FEWEST_PAGES = 64
AGE, SIZE = "age", "size"


@dataclass(frozen=True)
class Limits:
    """days: how old a row may get. mb: how large the file may get, in 1e6 bytes. 0: without end."""

    days: float = 0.0
    mb: float = 0.0


@dataclass(frozen=True)
class Space:
    """Of the file in bytes: all of it, and what is in use."""

    size_bytes: int
    used_bytes: int


class Retention:
    """Keeps the log at `path` within `limits`; to be used by the thread that writes it."""

    def __init__(self, path: Path, limits: Limits, metrics: ServingMetrics | None = None) -> None:
        self._path = path
        self._limits = limits
        self._metrics = metrics
        self._rows = 64  # of the next step
        self._label = 0  # the last one that was looked at, by seq
        self._next_s = 0.0
        self._reason = ""  # why rows are being deleted; "" when none are
        self._more = False
        self._excess_bytes = 0

    @property
    def due(self) -> bool:
        """Return whether there is something to look at or to do."""
        return self._more or time.monotonic() >= self._next_s

    def step(self, connection: sqlite3.Connection) -> bool:
        """Look at the log, or delete a little of it; return whether there is more to do. Raises sqlite3.Error."""
        if not self.due:
            return False
        begun = time.monotonic()
        self._next_s = begun + LOOK_S
        self._show(connection)
        now_s = time.time()
        oldest_s = now_s - self._limits.days * DAY_S if self._limits.days else 0.0
        self._reason = self._why(connection, oldest_s)
        gone = self._delete(connection, oldest_s) if self._reason else 0
        gone += self._orphans(connection, self._oldest_s(connection, oldest_s))
        freed = _shrink(connection, self._rows)
        took_s = time.monotonic() - begun
        if (gone or freed) and took_s < STEP_S / 2:
            self._rows = min(MOST_ROWS, self._rows * 2)
        elif took_s > STEP_S:
            self._rows = max(1, self._rows // 2)
        self._more = bool(gone or freed)
        return self._more

    def _why(self, connection: sqlite3.Connection, oldest_s: float) -> str:
        if oldest_s and any(first_s < oldest_s for _, first_s in _first(connection)):
            return AGE
        most = self._limits.mb * 1e6
        self._excess_bytes = int(space(connection).used_bytes - LOW * most) if most else 0
        return SIZE if self._excess_bytes > (0 if self._reason == SIZE else (1 - LOW) * most) else ""

    def _delete(self, connection: sqlite3.Connection, oldest_s: float) -> int:
        if self._reason == SIZE:
            found = self._oldest(connection)
            if not found:
                return self._orphans(connection, float("inf"))
        else:
            query = "SELECT seq, id FROM predictions WHERE model = ? AND time_s < ? LIMIT ?"
            aged = (model for model, first_s in _first(connection) if first_s < oldest_s)
            found = connection.execute(query, (next(aged, ""), oldest_s, self._rows)).fetchall()
        with connection:
            gone = delete(connection, found)
        self._count(gone, self._reason)
        return sum(gone.values())

    def _oldest(self, connection: sqlite3.Connection) -> list[tuple[int, str]]:
        # No more of the first rows than are in excess; what each takes beside its numbers shows afterwards.
        query = "SELECT seq, id, length(row) + length(probabilities) FROM predictions ORDER BY seq LIMIT ?"
        found, left_bytes = [], self._excess_bytes
        for seq, ident, size_bytes in connection.execute(query, (self._rows,)).fetchall():
            if left_bytes <= 0:
                break
            found.append((seq, ident))
            left_bytes -= size_bytes + ROW_BYTES
        return found

    def _oldest_s(self, connection: sqlite3.Connection, oldest_s: float) -> float:
        # What goes with the rows of a log that is too large are labels older than all of them.
        first = [first_s for _, first_s in _first(connection)] if self._reason == SIZE else []
        return max(oldest_s, min(first, default=0.0))

    def _orphans(self, connection: sqlite3.Connection, oldest_s: float) -> int:
        # Labels whose row never came or was not recorded. Those of rows that are there go with them.
        query = """SELECT l.seq, l.time_s, p.id IS NULL FROM labels l LEFT JOIN predictions p ON p.id = l.id
            WHERE l.seq > ? ORDER BY l.seq LIMIT ?"""
        gone = []
        for seq, time_s, orphan in connection.execute(query, (self._label, self._rows)).fetchall() if oldest_s else ():
            if time_s >= oldest_s:
                break
            self._label = seq
            if orphan:
                gone.append((seq,))
        if gone:
            with connection:
                connection.executemany("DELETE FROM labels WHERE seq = ?", gone)
            self._count({"labels": len(gone)}, self._reason or AGE)
        return len(gone)

    def _show(self, connection: sqlite3.Connection) -> None:
        if self._metrics is None:
            return
        found = space(connection)
        wal = self._path.with_name(self._path.name + "-wal")
        self._metrics.log_size.set(found.size_bytes + (wal.stat().st_size if wal.exists() else 0))
        self._metrics.log_used.set(found.used_bytes)
        first = [first_s for _, first_s in _first(connection)]
        if first:
            self._metrics.log_oldest.set(min(first))
        else:
            self._metrics.log_oldest.clear()

    def _count(self, gone: dict[str, int], reason: str) -> None:
        for what, rows in gone.items():
            if self._metrics is not None and rows:
                self._metrics.log_deleted.labels(what, reason).inc(rows)


def delete(connection: sqlite3.Connection, rows: Sequence[tuple[int, str]]) -> dict[str, int]:
    """Delete rows (seq, id) with their labels and shadow rows in the transaction under way; return how many of each."""
    gone = {}
    for what, by in (("labels", "id"), ("shadow", "id"), ("predictions", "seq")):
        before = connection.total_changes
        keys = [(seq if by == "seq" else ident,) for seq, ident in rows]
        connection.executemany(f"DELETE FROM {what} WHERE {by} = ?", keys)
        gone[what] = connection.total_changes - before
    return gone


def space(connection: sqlite3.Connection) -> Space:
    """Return what the log takes; what waits in its write-ahead file apart."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return Space(pages * size, (pages - free) * size)


def _first(connection: sqlite3.Connection) -> Iterator[tuple[str, float]]:
    # Each model with the time of its first row; by the index, which is not read through.
    model = ""
    while True:
        query = "SELECT min(model) FROM predictions WHERE model > ?"
        model = connection.execute(query, (model,)).fetchone()[0]
        if model is None:
            return
        found = connection.execute("SELECT min(time_s) FROM predictions WHERE model = ?", (model,)).fetchone()
        yield model, found[0]


def _shrink(connection: sqlite3.Connection, most_pages: int) -> bool:
    # Give pages back that are not soon used again. A log from before this was done keeps them for its next rows.
    pages, free, kind = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "auto_vacuum")
    )
    spare = free - max(FEWEST_PAGES, int(SLACK * pages))
    if kind != 2 or spare <= 0:
        return False
    # As a script: `execute` would end it after the first page.
    connection.executescript(f"PRAGMA incremental_vacuum({min(spare, most_pages)})")
    return True
