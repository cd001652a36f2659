"""Whether a log is still the one that was read: by its file, by how far it counts, and by the last rows that were read.

A log that was put in the place of another begins its numbers anew, so going on at the old number would miss its rows
and count others twice.
"""

import hashlib
import os
import sqlite3
from pathlib import Path

from monitoring.monitor import state
from monitoring.monitor.tally import Tally

TABLES = ("predictions", "labels")


def newest(log: sqlite3.Connection, table: str) -> int:
    """Return the highest seq of a table, 0 without rows."""
    found: int = log.execute(f"SELECT coalesce(max(seq), 0) FROM {table}").fetchone()[0]
    return found


def oldest(log: sqlite3.Connection, table: str) -> int:
    """Return the lowest seq of a table; of an empty one, the seq that its next row gets."""
    query = f"SELECT coalesce(min(seq), (SELECT seq + 1 FROM sqlite_sequence WHERE name = '{table}'), 1) FROM {table}"
    found: int = log.execute(query).fetchone()[0]
    return found


def is_same(log: sqlite3.Connection, connection: sqlite3.Connection, path: Path) -> bool:
    """Say whether the log at `path` is the one whose rows were counted; of a state that read nothing, yes."""
    facts, moved = state.facts(connection), False
    file = os.stat(path)
    if "log_inode" in facts:
        moved = (facts["log_inode"], facts["log_device"]) != (file.st_ino, file.st_dev)
    return all(_is_same(log, facts, table, moved) for table in TABLES)


def remember(connection: sqlite3.Connection, path: Path) -> None:
    """Keep which file the log is."""
    file, facts = os.stat(path), state.facts(connection)
    new = {"log_inode": file.st_ino, "log_device": file.st_dev}
    if any(facts.get(name) != value for name, value in new.items()):
        _set(connection, new)


def advance(connection: sqlite3.Connection, table: str, last: tuple[int, str, float]) -> None:
    """Keep that a table was read up to `last`: its seq, id and time."""
    _set(connection, {f"{table}_seq": last[0], f"{table}_anchor": _digest(*last)})


def count_missed(log: sqlite3.Connection, tally: Tally, facts: dict[str, float]) -> None:
    """Count the answers that were deleted before they were read; at most so many, since a seq may be left out."""
    read = int(facts.get("predictions_seq", 0))
    if read:
        tally.facts["rows_missed"] += max(0, oldest(log, "predictions") - read - 1)


def _is_same(log: sqlite3.Connection, facts: dict[str, float], table: str, moved: bool) -> bool:
    read = int(facts.get(f"{table}_seq", 0))
    if not read:
        return True
    counted = log.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    if counted is None or counted[0] < read:
        return False
    found = log.execute(f"SELECT seq, id, time_s FROM {table} WHERE seq = ?", (read,)).fetchone()
    if found is None:  # deleted by its age, or by request
        return not moved
    return _digest(*found) == facts[f"{table}_anchor"]


def _digest(seq: int, ident: str, time_s: float) -> int:
    said = f"{seq} {time_s!r} {ident}".encode()
    return int.from_bytes(hashlib.blake2b(said, digest_size=7).digest())


def _set(connection: sqlite3.Connection, facts: dict[str, int]) -> None:
    connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
