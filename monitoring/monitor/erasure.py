"""What the monitor knows of single rows, erased with them: the label and the slices that a row was counted under.

Its counts stay: how many rows of a slice there were, and how many of them were answered right, names nobody.
"""

import contextlib
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from monitoring.monitor import state
from registry.errors import DataError

WAIT_S = 10.0


def erase(path: Path, rows: Sequence[int], labels: Sequence[int]) -> int:
    """Erase what the state at `path` holds of rows and labels of the log, by their `seq`; return of how many rows.

    Nothing of it is left in the file, its free pages or its write-ahead file when this returns; no state is none
    of it. Raises DataError if the state cannot be written, or something reads it all the time.
    """
    if not path.exists():
        return 0
    try:
        with contextlib.closing(state.connect(path)) as connection:
            with state.transaction(connection):  # a monitor that counts meanwhile is waited for
                gone = connection.executemany("DELETE FROM joined WHERE seq = ?", [(seq,) for seq in rows]).rowcount
                waited = connection.executemany("DELETE FROM orphans WHERE seq = ?", [(seq,) for seq in labels])
                query = "UPDATE facts SET value = value - ? WHERE name = 'unknown'"
                connection.execute(query, (max(0, waited.rowcount),))
            _write_back(connection, path)
            return max(0, gone)
    except (sqlite3.Error, OSError) as error:
        cure = "end what locks it, or delete it, since a monitor makes it anew from the log; then repeat"
        raise DataError(f"{path}: what the monitor knows of the rows is not erased: {error}; {cure}") from error


def _write_back(connection: sqlite3.Connection, path: Path) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline_s:
            raise DataError(f"{path}: {path.name}-wal holds traces of what was erased: end what reads it, and repeat")
        time.sleep(0.05)
