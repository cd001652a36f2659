"""What the monitor counted of each version, step by step over a month: what tests over time and scores are made of."""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from monitoring.monitor import state
from monitoring.monitor.tally import ALL

COUNTED = ("rows", "labelled", "judged", "right", "summed", "labelled_summed")
QUERY = f"""
    SELECT r.version, b.start, {", ".join(f"b.{name}" for name in COUNTED)}, b.sums, b.labelled_sums
    FROM releases r CROSS JOIN buckets b ON b.release = r.code
    WHERE r.model = ? AND b.start >= ? AND b.slice = ?"""  # the join in this order: by the primary key


@dataclass
class Step:
    """The rows answered in one step of time; fields as in `state.Aggregate`."""

    rows: int = 0
    labelled: int = 0
    judged: int = 0
    right: int = 0
    summed: int = 0
    labelled_summed: int = 0
    sums: np.ndarray | None = None
    labelled_sums: np.ndarray | None = None


def steps(connection: sqlite3.Connection, model: str, since_s: float, step_s: float) -> dict[str, dict[int, Step]]:
    """Return by version the steps that hold rows, by their number: step k begins at k * step_s in Unix time.

    The first of them may have begun before `since_s`.
    """
    length_s = state.facts(connection)["bucket_s"]
    first = math.floor(math.floor(since_s / step_s) * step_s / length_s)
    return _read(connection, model, first, lambda start: math.floor(start * length_s / step_s))


def window(connection: sqlite3.Connection, model: str, since_s: float) -> dict[str, Step]:
    """Return by version all rows since a Unix time, whole buckets of which the first may have begun before."""
    first = math.floor(since_s / state.facts(connection)["bucket_s"])
    return {version: one[0] for version, one in _read(connection, model, first, lambda start: 0).items()}


def counts(found: dict[int, Step], last: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the right and the judged rows of each step up to `last`, int64 (n,), and the number of the first."""
    first = min(found, default=last)
    empty = Step()
    each = [found.get(number, empty) for number in range(first, last + 1)]
    return np.array([one.right for one in each]), np.array([one.judged for one in each]), first


def _read(
    connection: sqlite3.Connection, model: str, first: int, number_of: Callable[[int], int]
) -> dict[str, dict[int, Step]]:
    found: dict[str, dict[int, Step]] = defaultdict(lambda: defaultdict(Step))
    for version, start, *numbers, sums, labelled_sums in connection.execute(QUERY, (model, first, ALL)):
        step = found[version][number_of(start)]
        for name, number in zip(COUNTED, numbers, strict=True):
            setattr(step, name, getattr(step, name) + number)
        step.sums, step.labelled_sums = _add(step.sums, sums), _add(step.labelled_sums, labelled_sums)
    return {version: dict(by_number) for version, by_number in found.items()}


def _add(total: np.ndarray | None, blob: bytes | None) -> np.ndarray | None:
    if not blob:
        return total
    more = np.frombuffer(blob, np.float64)
    return more if total is None else total + more
