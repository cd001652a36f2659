"""What of a row is written to the log: each column kept, dropped, hashed with a key, or rounded to its bucket.

A row keeps its shape and type, so that whoever reads the log needs no other way to read it: what is not there is
NaN, a bucket is a number inside it, and hashes stand beside the row. Rows that are dropped whole are empty.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.log.pseudonym import Pseudonyms
from monitoring.shift.signals import CELLS, Binner, Bins
from registry.release import InputSpec

KEEP, DROP, HASH, BUCKET = "keep", "drop", "hash", "bucket"


@dataclass(frozen=True)
class Buckets:
    """The buckets of one column.

    edges: float32 (k,), rising; a value on an edge belongs to the bucket above. inside: float32 (k + 1,), a number
    of each bucket. bins: of the signal, that says instead of the edges in which one a value is.
    """

    edges: np.ndarray
    inside: np.ndarray
    bins: Bins | None = None

    def round(self, values: np.ndarray) -> np.ndarray:
        """Return for each of `values` (n,) the number that stands for its bucket."""
        if self.bins is None:
            places = np.searchsorted(self.edges, values, side="right")
        else:
            cells = Binner([self.bins]).cells(values[:, None])[:, 0]
            places = np.searchsorted(self.bins.cuts, cells, side="right")
        rounded: np.ndarray = self.inside[places]
        return rounded


def of_edges(edges: Sequence[float]) -> Buckets:
    """Return the buckets between two or more rising `edges`, and one beyond each end.

    Raises ValueError if they do not rise, or lie so near that no float32 is between two of them.
    """
    ends = np.array(edges, dtype=np.float32)
    widths = np.diff(ends)
    if len(ends) < 2 or not np.isfinite(ends).all() or not (widths > 0).all():
        raise ValueError("must be two or more rising numbers")
    inside = np.concatenate([[ends[0] - widths[0] / 2], ends[:-1] + widths / 2, [ends[-1] + widths[-1] / 2]])
    inside = inside.astype(np.float32)
    if (np.searchsorted(ends, inside, side="right") != np.arange(len(inside))).any():
        raise ValueError("lie too near to each other for float32")
    return Buckets(ends, inside)


def of_bins(bins: Bins, coded: bool) -> Buckets:
    """Return the bins of a signal as buckets, so that a rounded value is counted as the value was.

    coded: the column holds indices of its values, and so does the number that stands for a bucket.
    """
    starts = np.array([0, *bins.cuts])
    ends = np.array([*bins.cuts, CELLS])
    width = (bins.high - bins.low) / CELLS
    middles = starts if coded else (starts + ends) / 2
    return Buckets(np.empty(0), (bins.low + width * middles).astype(np.float32), bins)


@dataclass(frozen=True)
class Redaction:
    """What is done to the rows of one release.

    whole: nothing of a row is written. dropped, hashed, buckets: of columns, by place; the others are kept.
    """

    spec: InputSpec
    whole: bool = False
    dropped: tuple[int, ...] = ()
    hashed: tuple[int, ...] = ()
    buckets: tuple[tuple[int, Buckets], ...] = ()
    pseudonyms: Pseudonyms | None = None

    def apply(self, rows: np.ndarray) -> tuple[list[bytes], list[str | None]]:
        """Return the bytes of each row, and the hashes beside it as a JSON object; rows: (n, *shape)."""
        if self.whole:
            return [b""] * len(rows), [None] * len(rows)
        beside = self._hashes(rows)
        if gone := [*self.dropped, *self.hashed]:
            rows = rows.copy()
            rows[:, gone] = np.nan
        elif self.buckets:
            rows = rows.copy()
        for place, buckets in self.buckets:
            rows[:, place] = buckets.round(rows[:, place])
        return [row.tobytes() for row in rows], beside

    def _hashes(self, rows: np.ndarray) -> list[str | None]:
        if not self.hashed or self.pseudonyms is None:
            return [None] * len(rows)
        columns = {}
        for place in self.hashed:
            column = self.spec.columns[place]
            texts = _texts(rows[:, place], self.spec.categories.get(column))
            columns[column] = [self.pseudonyms.value(column, text) for text in texts]
        return [json.dumps(dict(zip(columns, digests, strict=True))) for digests in zip(*columns.values(), strict=True)]


def decode(spec: InputSpec, blobs: Sequence[bytes]) -> np.ndarray:
    """Return rows (n, *shape) from the log: of the model's dtype, or float32 with NaN if some were dropped whole."""
    if all(blobs):
        return np.frombuffer(b"".join(blobs), dtype=spec.dtype).reshape(-1, *spec.shape)
    rows = np.full((len(blobs), *spec.shape), np.nan, dtype=np.float32)
    present = [place for place, blob in enumerate(blobs) if blob]
    if present:
        rows[present] = decode(spec, [blobs[place] for place in present])
    return rows


def _texts(values: np.ndarray, known: tuple[str, ...] | None) -> list[str]:
    # The value of an index, or the number the model got, in as few digits as tell it from all others of its type.
    if known is None:
        digits = 9 if values.itemsize <= 4 else 17
        return [f"{value:.{digits}g}" for value in values.tolist()]
    return [known[int(value)] for value in values]
