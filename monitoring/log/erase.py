"""Erase a person from the log: rows, labels, answers of challengers, and what is left of them in free space."""

import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from monitoring.log import logfile, retention
from monitoring.monitor import erasure, state
from registry.errors import DataError

STEP_ROWS = 500
WAIT_S = 10.0
CHUNK_BYTES = 1 << 22
SHORTEST = 8  # bytes of an id that is searched for; a shorter one is part of much else
MOST_SEARCHED = 500
GUESSES = 4096  # rows of one request whose names are tried at a time, where names tell nothing of the id


@dataclass(frozen=True)
class Erased:
    """How many of each are gone. ids: names of rows that were found. rebuilt: traces were left, and are gone too.

    counted: rows of which the monitor had kept what they were counted under.
    """

    ids: int
    rows: int
    labels: int
    shadow: int
    rebuilt: bool
    counted: int = 0

    def to_text(self) -> str:
        """Return one line for a person."""
        counts = (("row", self.rows), ("label", self.labels), ("answer", self.shadow), ("row id", self.ids))
        rows, labels, answers, ids = (f"{count} {thing}{'' if count == 1 else 's'}" for thing, count in counts)
        what = f"{rows}, {labels}, {answers} of challengers of {ids}"
        return f"erased {what}" + ("; the file was written anew" if self.rebuilt else "")


def erase(log: Path, ids: Sequence[str], exact: bool = False, counts: Path | None = None) -> Erased:
    """Erase the rows called `ids`, and unless `exact` the rows ID-0, ID-1, ... of requests called so; see what is gone.

    Nothing of them is left in the file, its free pages or its write-ahead file when this returns, nor in the state of
    the monitor at `counts`, beside the log if left out. What waits in services at that moment is not on the log yet.
    Raises DataError if the log or the state cannot be used, needs a key that is not there, or keeps traces because
    something reads it all the time.
    """
    if not log.exists():
        raise DataError(f"{log}: there is no prediction log; name the one of the service with --log")
    place = counts or state.beside(log)
    try:
        with closing(logfile.connect(log)) as connection:
            known_as = logfile.known_as(connection, log)
            names = {name for ident in ids for name in _names(connection, known_as, ident, exact)}
            seqs = {table: _seqs(connection, table, names) for table in ("predictions", "labels")}
            counted = erasure.erase(place, seqs["predictions"], seqs["labels"])  # first: its failure can be repeated
            gone = _delete(connection, sorted(names))
            _write_back(connection, log)
            rebuilt = bool(_traces(connection, log, names))
            if rebuilt:
                connection.execute("VACUUM")
                _write_back(connection, log)
    except (sqlite3.Error, OSError) as error:
        cure = "see that its disk has space, that it is a prediction log and that nothing locks it, then repeat"
        raise DataError(f"{log}: not all was erased: {error}; {cure}") from error
    counted += erasure.erase(place, seqs["predictions"], seqs["labels"])  # what was counted meanwhile
    return Erased(len(names), gone["predictions"], gone["labels"], gone["shadow"], rebuilt, counted)


def wanted(log: Path, ids: Sequence[str], exact: bool = False) -> Callable[[str], bool]:
    """Return what says of a name that it is one of `ids`, as `erase` takes them; also of rows that left the log.

    Of requests whose ids were hashed it knows the first GUESSES rows. Raises DataError if a key is needed.
    """
    try:
        with closing(logfile.connect(log)) as connection:
            known_as = logfile.known_as(connection, log)
    except (sqlite3.Error, OSError) as error:
        raise DataError(f"{log}: cannot be read: {error}") from error
    names = {name for ident in ids for name in (ident, known_as(ident))}
    if exact:
        return names.__contains__
    hashed = [ident for ident in ids if known_as(ident) != ident]
    names |= {known_as(f"{ident}-{i}") for ident in hashed for i in range(GUESSES)}
    requests, number = set(ids), re.compile(r"(.*)-\d+", re.DOTALL)

    def is_one(name: str) -> bool:
        found = number.fullmatch(name)
        return name in names or (found is not None and found[1] in requests)

    return is_one


def read_ids(path: Path) -> list[str]:
    """Return the ids in a text file, one a line; raises DataError if there is none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise DataError(f"{path}: cannot be read: {why}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataError(f"{path}: holds no ids; accepted is one id a line")
    return found


def _names(connection: sqlite3.Connection, known_as: Callable[[str], str], ident: str, exact: bool) -> Iterator[str]:
    # Also as it came, of the time before ids were hashed; those are there, or they are not.
    yield from _there(connection, {ident, known_as(ident)})
    if exact:
        return
    yield from _numbered(connection, ident)
    start = 0
    while known_as(ident) != ident:
        found = list(_there(connection, [known_as(f"{ident}-{i}") for i in range(start, start + GUESSES)]))
        yield from found
        if not found:
            return
        start += GUESSES


def _there(connection: sqlite3.Connection, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        for table in ("predictions", "labels", "shadow"):
            if connection.execute(f"SELECT 1 FROM {table} WHERE id = ? LIMIT 1", (name,)).fetchone():
                yield name
                break


def _numbered(connection: sqlite3.Connection, ident: str) -> Iterator[str]:
    # ID-0, ID-1, ... by the index: "." is the character after "-".
    number = re.compile(re.escape(ident) + r"-\d+")
    for table in ("predictions", "labels", "shadow"):
        place = (f"{ident}-", f"{ident}.")
        for (name,) in connection.execute(f"SELECT id FROM {table} WHERE id > ? AND id < ?", place):
            if number.fullmatch(name):
                yield name


def _delete(connection: sqlite3.Connection, names: list[str]) -> dict[str, int]:
    gone = {"predictions": 0, "labels": 0, "shadow": 0}
    for start in range(0, len(names), STEP_ROWS):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            rows = []
            for name in names[start : start + STEP_ROWS]:
                found = connection.execute("SELECT seq FROM predictions WHERE id = ?", (name,)).fetchone()
                rows.append((found[0] if found else -1, name))
            for what, count in retention.delete(connection, rows).items():
                gone[what] += count
    return gone


def _seqs(connection: sqlite3.Connection, table: str, names: Iterable[str]) -> list[int]:
    query = f"SELECT seq FROM {table} WHERE id = ?"
    return [seq for name in names for (seq,) in connection.execute(query, (name,))]


def _write_back(connection: sqlite3.Connection, log: Path) -> None:
    # The write-ahead file is emptied, which waits for readers of what it held.
    deadline_s = time.monotonic() + WAIT_S
    while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        if time.monotonic() > deadline_s:
            raise DataError(
                f"{log}: the rows are erased, but {log.name}-wal holds traces of them: something has been reading it "
                f"for {WAIT_S:g} s; end that, and repeat"
            )
        time.sleep(0.05)


def _traces(connection: sqlite3.Connection, log: Path, names: Iterable[str]) -> set[bytes]:
    # Deleting overwrites. What was deleted by another program, or before this was so, is found here.
    texts = (name.encode("utf-8", "surrogatepass") for name in names)
    needles = sorted(text for text in texts if len(text) >= SHORTEST)[:MOST_SEARCHED]
    with open(log, "rb") as file:
        found = _among(needles, iter(lambda: file.read(CHUNK_BYTES), b""))
    if found:  # one may be part of the id of another, who stays
        living = (name.encode("utf-8", "surrogatepass") for (name,) in connection.execute("SELECT id FROM predictions"))
        found -= _among(sorted(found), living, joined=False)
    return found


def _among(needles: list[bytes], texts: Iterable[bytes], joined: bool = True) -> set[bytes]:
    # Those of `needles` that are in `texts`; joined: also across the border of two.
    found: set[bytes] = set()
    if not needles:
        return found
    pattern = re.compile(b"|".join(map(re.escape, needles)))
    tail, overlap = b"", max(map(len, needles))
    for text in texts:
        whole = tail + text
        if pattern.search(whole):
            found |= {needle for needle in needles if needle in whole}
        tail = text[-overlap:] if joined else b""
    return found
