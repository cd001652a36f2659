"""What one batch of the log adds to the counts of the state, and how it is written there.

Errors of a regression are added up exactly: a wrong label of 1e300 that is corrected later leaves nothing behind.
"""

import math
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

ALL = ""  # the slice that every row is in
COUNTS = ("rows", "labelled", "judged", "right", "summed", "labelled_summed")
ERRORS = ("error", "absolute", "squared")
NUMBERS = (*COUNTS, *ERRORS)
EXACT_BITS = 1074  # every float64 is a whole number of 2 ** -1074
MOST_ERROR = 1e140  # a larger one counts as this, so that its square and the sum of many are numbers
DELAYS_PER_OCTAVE = 8
SHORTEST_DELAY_S = 1e-3
Key: TypeAlias = tuple[int, int, str]  # release, start of the bucket in bucket lengths, slice
Arrays: TypeAlias = dict[Key, np.ndarray]


class SumsError(ValueError):
    """A release adds up something else than when the state was made."""


@dataclass
class Tally:
    """numbers: as named in NUMBERS, the errors as `exact` says them. facts: single numbers of the state.

    delays: by (release, start, bin). confusion: by (release, start, slice, label, predicted).
    """

    numbers: dict[Key, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * len(NUMBERS)))
    sums: Arrays = field(default_factory=dict)
    labelled_sums: Arrays = field(default_factory=dict)
    confusion: Counter[tuple[int, int, str, str, str]] = field(default_factory=Counter)
    delays: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    latest_s: dict[int, float] = field(default_factory=dict)

    def count_rows(self, key: Key, rows: int) -> None:
        """Count answers."""
        self.numbers[key][0] += rows

    def count_label(self, key: Key, sign: int, right: int | None, errors: tuple[int, ...] = ()) -> None:
        """Count a row with its label, or take that back. right: None if not known. errors: as in ERRORS, exact."""
        numbers = self.numbers[key]
        numbers[1] += sign
        if right is not None:
            numbers[2] += sign
            numbers[3] += sign * right
        for i, error in enumerate(errors, start=len(COUNTS)):
            numbers[i] += sign * error

    def add_sums(self, key: Key, labelled: bool, rows: int, sums: np.ndarray) -> None:
        """Add what the outputs of some rows add up to; labelled: they are rows that get their first label."""
        self.numbers[key][COUNTS.index("labelled_summed" if labelled else "summed")] += rows
        table = self.labelled_sums if labelled else self.sums
        table[key] = _plus(table.get(key), sums)

    def write(self, connection: sqlite3.Connection) -> None:
        """Add all of it to the tables of the state; the caller holds the transaction."""
        for key in self.numbers:
            self._bucket(connection, key)
        _add(connection, "confusion", "release, start, slice, label, predicted", self.confusion)
        _add(connection, "delays", "release, start, bin", self.delays)
        query = "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = value + excluded.value"
        connection.executemany(query, self.facts.items())
        query = "UPDATE releases SET latest_label_s = max(coalesce(latest_label_s, ?1), ?1) WHERE code = ?2"
        connection.executemany(query, [(time_s, code) for code, time_s in self.latest_s.items()])

    def _bucket(self, connection: sqlite3.Connection, key: Key) -> None:
        names, first, last = ", ".join((*NUMBERS, "sums", "labelled_sums")), len(COUNTS), len(NUMBERS)
        query = f"SELECT {names} FROM buckets WHERE release = ? AND start = ? AND slice = ?"
        old = connection.execute(query, key).fetchone() or (*[0] * first, *["0"] * len(ERRORS), b"", b"")
        new = self.numbers[key]
        counts = [a + b for a, b in zip(old[:first], new[:first], strict=True)]
        errors = [format(int(a, 16) + b, "x") for a, b in zip(old[first:last], new[first:], strict=True)]
        arrays = [_stored(old[-2], self.sums.get(key)), _stored(old[-1], self.labelled_sums.get(key))]
        values = (*key, *counts, *errors, *arrays)
        connection.execute(f"REPLACE INTO buckets VALUES ({', '.join('?' * len(values))})", values)


def exact(value: float) -> int:
    """Return a finite number as a whole number of 2 ** -EXACT_BITS, which add up without rounding."""
    numerator, denominator = value.as_integer_ratio()
    return numerator << (EXACT_BITS - denominator.bit_length() + 1)


def inexact(text: str) -> float:
    """Return the number nearest to an exact sum as it is stored."""
    return int(text, 16) / (1 << EXACT_BITS)


def delay_bin(seconds: float) -> int:
    """Return the bin of a delay: 0 for a label that is not younger than its answer, then eight to the octave."""
    if not seconds > 0:
        return 0
    return 1 + max(0, math.floor(DELAYS_PER_OCTAVE * math.log2(min(seconds, 1e12) / SHORTEST_DELAY_S)))


def delay_s(number: int) -> float:
    """Return the delay in the middle of a bin."""
    return 0.0 if number == 0 else float(SHORTEST_DELAY_S * 2.0 ** ((number - 0.5) / DELAYS_PER_OCTAVE))


def _add(connection: sqlite3.Connection, table: str, columns: str, counts: Counter[Any]) -> None:
    places = ", ".join("?" * (columns.count(",") + 2))
    query = f"INSERT INTO {table}({columns}, count) VALUES ({places}) "
    query += "ON CONFLICT DO UPDATE SET count = count + excluded.count"
    connection.executemany(query, [(*key, count) for key, count in counts.items() if count])
    same = " AND ".join(f"{column} = ?" for column in columns.split(", "))
    gone = [key for key, count in counts.items() if count < 0]
    connection.executemany(f"DELETE FROM {table} WHERE {same} AND count = 0", gone)


def _stored(blob: bytes, more: np.ndarray | None) -> bytes:
    return _plus(np.frombuffer(blob, np.float64) if blob else None, more).tobytes()


def _plus(one: np.ndarray | None, more: np.ndarray | None) -> np.ndarray:
    if one is None or more is None:
        only = one if more is None else more
        return np.zeros(0) if only is None else only
    if one.shape != more.shape:
        raise SumsError(f"sums of {more.size} numbers cannot be added to sums of {one.size}")
    summed: np.ndarray = one + more
    return summed
