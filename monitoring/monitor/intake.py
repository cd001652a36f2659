"""Reads what is new on the log into the state, in batches that fit into memory, each one transaction.

Answers and labels may come in any order. The last label of an id counts, by its place on the log: one that comes
before its answer waits for it, and one that corrects another takes that one's counts back. What is counted depends
on what is on the log and not on how often or when it was read.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from monitoring.judge.quality import number
from monitoring.monitor import anchor, state
from monitoring.monitor.contents import Answer, Contents, Scheme
from monitoring.monitor.tally import ALL, MOST_ERROR, Tally, delay_bin, exact
from registry.errors import StackError

BATCH_ROWS = 10_000
CACHE_KB = 32_000  # holds the upper pages of the indices of ids: a label is found in half the time
MOST_FORGOTTEN = 1_000_000  # at once: a transaction keeps the disk busy
MOST_REPEATS = 64  # so many earlier labels of an id are looked at for one that says the same
FARTHEST_S = 1e12  # a time beyond is that of a broken clock; its bucket still has a number
MOST_CLASSES = 50  # of a release whose confusion is kept: its cells grow with their square
NO_CLASS = ""  # what a label that is no class of its release is counted as
PREDICTIONS = """
    SELECT id, seq, time_s, model, version, predicted, length(probabilities) = 4
    FROM predictions WHERE seq > ? ORDER BY seq LIMIT ?"""
LABELS = f"""
    SELECT l.seq, l.id, l.time_s, l.label,
      EXISTS(SELECT 1 FROM labels e WHERE e.id = l.id AND e.seq < l.seq),
      l.label IN (
        SELECT label FROM labels e WHERE e.id = l.id AND e.seq < l.seq ORDER BY seq DESC LIMIT {MOST_REPEATS}),
      p.seq, p.time_s, p.model, p.version, p.predicted, length(p.probabilities) = 4
    FROM labels l LEFT JOIN predictions p ON p.id = l.id AND p.seq <= ?
    WHERE l.seq > ? ORDER BY l.seq LIMIT ?"""
EARLY = "FROM labels WHERE id = ? AND seq <= ?"


@dataclass
class Source:
    """What is read and where it goes; used for one run.

    scheme: of (model, version). troubled: told what failed in a scheme.
    """

    log: sqlite3.Connection
    state: sqlite3.Connection
    scheme: Callable[[str, str], Scheme]
    now_s: float
    bucket_s: float
    troubled: Callable[[Exception], None] = lambda _: None
    batch_rows: int = BATCH_ROWS
    codes: dict[tuple[str, str], int] = field(default_factory=dict)
    schemes: dict[int, Scheme] = field(default_factory=dict)
    made: float = field(init=False)
    contents: Contents = field(init=False)

    def __post_init__(self) -> None:
        self.made = state.facts(self.state)["made"]
        self.contents = Contents(self.log, self.schemes, self.troubled)


@dataclass(frozen=True)
class Lag:
    """How far the state is behind the log. seconds: the age of the oldest entry that was not read, 0 without one."""

    rows: int
    seconds: float


class Label(NamedTuple):
    """What was said of a row, and as what it was counted.

    right: None if it was not known. cell: the label in the confusion, None if that is not kept.
    """

    label: str
    time_s: float
    slices: tuple[str, ...]
    right: int | None
    cell: str | None


def read_on(source: Source, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Read what was on the log when this began; returns whether it came that far before it was stopped.

    Raises sqlite3.Error, StackError if the state is not the one it was, or SumsError if it cannot be gone on with;
    what was read until then is kept.
    """
    source.log.execute(f"PRAGMA cache_size = -{CACHE_KB}")
    ends = {table: anchor.newest(source.log, table) for table in anchor.TABLES}
    for table, step in zip(anchor.TABLES, (_read_predictions, _read_labels), strict=True):
        while state.facts(source.state).get(f"{table}_seq", 0) < ends[table]:
            if stopped():
                return False
            with state.transaction(source.state):  # another monitor on this state waits, and then goes on behind this
                facts = state.facts(source.state)
                if facts["made"] != source.made:
                    raise StackError("the state was made anew by another monitor; give each its own with --state")
                if not step(source, facts):
                    break
    return True


def lag(source: Source) -> Lag:
    """Return how much of the log was not read."""
    facts, rows, oldest_s = state.facts(source.state), 0, source.now_s
    for table in anchor.TABLES:
        read = facts.get(f"{table}_seq", 0)
        query = f"SELECT time_s FROM {table} WHERE seq > ? ORDER BY seq LIMIT 1"
        for (time_s,) in source.log.execute(query, (read,)):
            rows += anchor.newest(source.log, table) - int(read)
            oldest_s = min(oldest_s, time_s)
    return Lag(rows, source.now_s - oldest_s)


def _read_predictions(source: Source, facts: dict[str, float]) -> bool:
    query = source.log.execute(PREDICTIONS, (facts.get("predictions_seq", 0), source.batch_rows))
    idents, *columns = list(zip(*query, strict=True)) or [()]
    if not idents:
        return False
    tally, rows = Tally(), _answers(source, columns)
    slices = source.contents.read(rows, tally, labelled=False)
    for (release, start), count in Counter((row.release, row.start) for row in rows).items():
        tally.count_rows((release, start, ALL), count)
    sliced = ((row.release, row.start, name) for row in rows for name in slices.get(row.seq, ())) if slices else ()
    for key, count in Counter(sliced).items():
        tally.count_rows(key, count)
    if facts.get("unknown", 0) > 0:
        _early(source, tally, list(zip(idents, rows, strict=True)), facts)
    anchor.count_missed(source.log, tally, facts)
    tally.facts["rows_read"] += len(rows)
    tally.write(source.state)
    anchor.advance(source.state, "predictions", (rows[-1].seq, idents[-1], rows[-1].time_s))
    return True


def _early(source: Source, tally: Tally, found: list[tuple[str, Answer]], facts: dict[str, float]) -> None:
    # Labels that waited for these rows.
    last: dict[int, tuple[Answer, str, float]] = {}
    for ident, row in found:
        place = (ident, facts["labels_seq"])
        label = source.log.execute(f"SELECT label, time_s {EARLY} ORDER BY seq DESC LIMIT 1", place).fetchone()
        if label is not None:
            last[row.seq] = (row, *label)
            _latest(source, tally, row, source.log.execute(f"SELECT max(time_s) {EARLY}", place).fetchone()[0])
            before = source.state.total_changes
            waiting = source.log.execute(f"SELECT seq {EARLY}", place)
            source.state.executemany("DELETE FROM orphans WHERE seq = ?", waiting)
            tally.facts["unknown"] -= source.state.total_changes - before
    _join(source, tally, last, facts["late_s"])


def _read_labels(source: Source, facts: dict[str, float]) -> bool:
    place = (facts.get("predictions_seq", 0), facts.get("labels_seq", 0), source.batch_rows)
    found = source.log.execute(LABELS, place).fetchall()
    if not found:
        return False
    tally, orphans = Tally(), [one[:1] for one in found if one[6] is None]
    known = [one for one in found if one[6] is not None]
    last: dict[int, tuple[Answer, str, float]] = {}
    for row, (_, _, time_s, label, *_) in zip(_answers(source, list(zip(*known, strict=True))[6:]), known, strict=True):
        last[row.seq] = (row, label, time_s)
        _latest(source, tally, row, time_s)
    tally.facts["duplicate"] += sum(one[5] for one in found)
    tally.facts["conflict"] += sum(one[4] and not one[5] for one in found)
    source.state.executemany("INSERT INTO orphans VALUES (?)", orphans)
    tally.facts["unknown"] += len(orphans)
    tally.facts["labels_read"] += len(found)
    _join(source, tally, last, facts["late_s"])
    tally.write(source.state)
    anchor.advance(source.state, "labels", found[-1][:3])
    return True


def _join(source: Source, tally: Tally, last: dict[int, tuple[Answer, str, float]], late_s: float) -> None:
    # Count the last label of each row, and take back the one that was counted before.
    before = _counted(source.state, last)
    new = [row for seq, (row, _, _) in last.items() if seq not in before]
    slices = source.contents.read(new, tally, labelled=True)
    joined = []
    for seq, (row, text, time_s) in last.items():
        old = before.get(seq)
        if old is not None:
            _count(tally, row, old, -1, late_s)
        label = Label(text, time_s, old.slices if old else slices.get(seq, ()), *_judged(source, row, text))
        _count(tally, row, label, 1, late_s)
        joined.append((seq, text, time_s, "\n".join(label.slices), label.right, label.cell))
    source.state.executemany("REPLACE INTO joined VALUES (?, ?, ?, ?, ?, ?)", joined)


def _counted(connection: sqlite3.Connection, seqs: Iterable[int]) -> dict[int, Label]:
    query = "SELECT * FROM joined WHERE seq IN (SELECT value FROM json_each(?))"
    found = connection.execute(query, (json.dumps(list(seqs)),))
    return {
        seq: Label(label, time_s, tuple(slices.split("\n")) if slices else (), right, cell)
        for seq, label, time_s, slices, right, cell in found
    }


def _judged(source: Source, row: Answer, text: str) -> tuple[int | None, str | None]:
    # Whether the answer was right, and what the label is in the confusion.
    scheme = source.schemes[row.release]
    if not row.number:
        listed = 0 < len(scheme.classes) <= MOST_CLASSES
        return int(row.predicted == text), (text if text in scheme.classes else NO_CLASS) if listed else None
    gap = _gap(row, text)
    return (None if gap is None or scheme.tolerance is None else int(abs(gap) <= scheme.tolerance)), None


def _count(tally: Tally, row: Answer, label: Label, sign: int, late_s: float) -> None:
    delay_s = label.time_s - row.time_s
    tally.delays[row.release, row.start, delay_bin(delay_s)] += sign
    tally.facts["late"] += sign * (delay_s > late_s)
    errors: tuple[int, ...] = ()
    if row.number:
        gap = _gap(row, label.label)
        if gap is None:
            return
        gap = max(-MOST_ERROR, min(gap, MOST_ERROR))
        errors = (exact(gap), exact(abs(gap)), exact(gap * gap))
    for name in (ALL, *label.slices):
        key = (row.release, row.start, name)
        tally.count_label(key, sign, label.right, errors)
        if label.cell is not None:
            tally.confusion[(*key, label.cell, row.predicted)] += sign


def _gap(row: Answer, text: str) -> float | None:
    # A label that came before its answer was not checked at the door; one that is no number says nothing.
    predicted, truth = number(row.predicted), number(text)
    return None if predicted is None or truth is None else predicted - truth


def _latest(source: Source, tally: Tally, row: Answer, time_s: float) -> None:
    # A clock that is ahead must not make labels look new for as long as it is ahead.
    time_s = min(time_s, source.now_s)
    tally.latest_s[row.release] = max(tally.latest_s.get(row.release, time_s), time_s)


def _answers(source: Source, columns: Sequence[tuple[Any, ...]]) -> list[Answer]:
    # columns: seq, time_s, model, version, predicted, whether that is a number
    if not columns:
        return []
    seqs, times_s, models, versions, predicted, numbers = columns
    releases = [_code(source, place) for place in zip(models, versions, strict=True)]
    starts = np.floor(np.clip(np.array(times_s), -FARTHEST_S, FARTHEST_S) / source.bucket_s).astype(np.int64).tolist()
    return list(map(Answer, seqs, releases, starts, times_s, predicted, numbers))


def _code(source: Source, place: tuple[str, str]) -> int:
    known = source.codes.get(place)
    if known is not None:
        return known
    source.state.execute("INSERT OR IGNORE INTO releases(model, version) VALUES (?, ?)", place)
    query = "SELECT code FROM releases WHERE model = ? AND version = ?"
    code: int = source.state.execute(query, place).fetchone()[0]
    source.codes[place], source.schemes[code] = code, source.scheme(*place)
    return code


def forget(source: Source, before_s: float) -> None:
    """Drop the buckets of rows answered before a Unix time, and what concerns rows and labels that left the log."""
    start = before_s / source.bucket_s - 1
    with state.transaction(source.state):
        for table in ("buckets", "confusion", "delays"):
            query = f"DELETE FROM {table} WHERE release IN (SELECT code FROM releases) AND start < ?"
            source.state.execute(query, (start,))
        for table, of in (("joined", "predictions"), ("orphans", "labels")):
            first = source.state.execute(f"SELECT min(seq) FROM {table}").fetchone()[0]
            if first is None:
                continue
            end = min(anchor.oldest(source.log, of), first + MOST_FORGOTTEN)
            gone = source.state.execute(f"DELETE FROM {table} WHERE seq < ?", (end,)).rowcount
            if table == "orphans":
                source.state.execute("UPDATE facts SET value = value - ? WHERE name = 'unknown'", (gone,))
