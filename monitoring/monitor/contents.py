"""What is in the rows of the log: the slices that a row is in, and what its outputs add to an estimate.

Read only for releases that have either, and never more than fits into memory.
"""

import json
import logging
import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from monitoring.monitor.tally import ALL, Key, Tally

log = logging.getLogger(__name__)

Result = TypeVar("Result")
BATCH_BYTES = 32 << 20
MOST_SLICE_CHARACTERS = 200
CONTENT = """
    SELECT seq, probabilities, {row} FROM predictions WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq"""


@dataclass(frozen=True)
class Scheme:
    """What a release makes of its rows, beside counting them.

    classes: () in a regression or if the release is not known. tolerance: how far a right number may be from the truth.
    slices: rows (n, *shape) of dtype -> for each the names of the slices it is in. sums: outputs float32 (n, k) -> what
    they add up to, float64 (m,). Both None if there is nothing of the kind.
    """

    classes: tuple[str, ...] = ()
    tolerance: float | None = None
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    slices: Callable[[np.ndarray], list[tuple[str, ...]]] | None = None
    sums: Callable[[np.ndarray], np.ndarray] | None = None


class Answer(NamedTuple):
    """One row of the log. start: of its bucket, in bucket lengths. number: the answer is one, not a class."""

    seq: int
    release: int
    start: int
    time_s: float
    predicted: str
    number: bool


@dataclass(frozen=True)
class Contents:
    """What is in the rows of a log. schemes: by release. troubled: told whatever a scheme raises."""

    log: sqlite3.Connection
    schemes: Mapping[int, Scheme]
    troubled: Callable[[Exception], None]

    def read(self, rows: list[Answer], tally: Tally, labelled: bool) -> dict[int, tuple[str, ...]]:
        """Return the slices of each row by its seq, and tally what the outputs add up to.

        labelled: rows that get their first label, not new ones. A row that cannot be read is in no slice and no sum.
        """
        groups: dict[int, list[Answer]] = defaultdict(list)
        for row in rows:
            if self.schemes[row.release].slices or self.schemes[row.release].sums:
                groups[row.release].append(row)
        found: dict[int, tuple[str, ...]] = {}
        for release, group in groups.items():
            scheme, known = self.schemes[release], {row.seq: row for row in group}
            for seqs, outputs, inputs in _chunks(self.log, scheme, list(known)):
                found |= self._tried(_slices, scheme, seqs, inputs) or {}
                places = [(known[seq], found.get(seq, ())) for seq in seqs]
                for key, count, sums in self._tried(_sums, scheme, places, outputs) or ():
                    tally.add_sums(key, labelled, count, sums)
        return found

    def _tried(self, work: Callable[..., Result], *given: object) -> Result | None:
        try:
            return work(*given)
        except Exception as error:  # a fault in what one release makes of its rows must not stop the counting of all
            log.exception("rows_not_read")
            self.troubled(error)
            return None


def _slices(scheme: Scheme, seqs: list[int], inputs: list[bytes]) -> dict[int, tuple[str, ...]]:
    if scheme.slices is None:
        return {}
    size_bytes = math.prod(scheme.shape) * np.dtype(scheme.dtype).itemsize
    whole = [i for i, row in enumerate(inputs) if row is not None and len(row) == size_bytes]
    if not whole:
        return {}
    table = np.frombuffer(b"".join(inputs[i] for i in whole), scheme.dtype).reshape(-1, *scheme.shape)
    names = zip(whole, scheme.slices(table), strict=True)
    return {seqs[i]: tuple(n.replace("\n", " ")[:MOST_SLICE_CHARACTERS] for n in of_row if n) for i, of_row in names}


def _sums(
    scheme: Scheme, rows: list[tuple[Answer, tuple[str, ...]]], outputs: list[bytes]
) -> list[tuple[Key, int, np.ndarray]]:
    # What outputs add up to, and of how many rows, by bucket and slice.
    if scheme.sums is None:
        return []
    width = max(map(len, outputs))
    whole = [i for i, output in enumerate(outputs) if len(output) == width]
    table = np.frombuffer(b"".join(outputs[i] for i in whole), np.float32).reshape(len(whole), -1)
    places: dict[Key, list[int]] = defaultdict(list)
    for at in np.flatnonzero(np.isfinite(table).all(axis=1)).tolist():
        row, names = rows[whole[at]]
        for name in (ALL, *names):
            places[row.release, row.start, name].append(at)
    return [(key, len(chosen), np.asarray(scheme.sums(table[chosen]), np.float64)) for key, chosen in places.items()]


def _chunks(
    connection: sqlite3.Connection, scheme: Scheme, seqs: list[int]
) -> Iterator[tuple[list[int], list[bytes], list[bytes]]]:
    # (seqs, outputs, rows) as stored, so many as fit into BATCH_BYTES; at least one.
    query = CONTENT.format(row="row" if scheme.slices else "NULL")
    chunk: list[tuple[int, bytes, bytes]] = []
    size_bytes = 0
    for one in connection.execute(query, (json.dumps(seqs),)):
        chunk.append(one)
        size_bytes += len(one[1]) + len(one[2] or b"")
        if size_bytes >= BATCH_BYTES:
            yield tuple(map(list, zip(*chunk, strict=True)))  # type: ignore[misc]
            chunk, size_bytes = [], 0
    if chunk:
        yield tuple(map(list, zip(*chunk, strict=True)))  # type: ignore[misc]
