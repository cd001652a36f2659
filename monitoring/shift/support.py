"""Where rows have been: the range of every column or pixel, and the share of a row that lies outside it.

A model answers as surely outside the rows it has learned from as inside. Each value alone may be usual there, and
the share of the pixels that nobody ever saw lit is what a little noise changes first.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

NAME = "out_of_support"
MOST_PLACES = 1024  # of a row that are looked at, evenly spaced
MOST_ROWS = 20_000  # that it is worth taking a range from
SOME_ROWS = 2_000  # that say what is far
FAR = 50.0  # typical distances from the median: what lies farther is a broken row, and makes no range


@dataclass(frozen=True)
class Support:
    """The lowest and the highest value of every `step`-th place of a flat row."""

    step: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, rows: np.ndarray) -> "Support":
        """Return the support of rows (n, ...), all finite; broken values far from all others make no range."""
        flat = rows.reshape(len(rows), -1)
        step = -(-flat.shape[1] // MOST_PLACES)
        chosen = flat[:, ::step]
        some = chosen[:: -(-len(chosen) // SOME_ROWS)].astype(np.float64)
        middle = np.median(some, axis=0)
        reach = FAR * typical_distance(some, middle)
        near = (chosen >= middle - reach) & (chosen <= middle + reach)
        usual = np.where(near, chosen, middle)
        return cls(step, tuple(usual.min(axis=0).tolist()), tuple(usual.max(axis=0).tolist()))

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> "Support":
        """Return what `dataclasses.asdict` gave."""
        return cls(said["step"], tuple(said["low"]), tuple(said["high"]))

    def limits(self, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high in the type of the rows, in which they are compared fastest."""
        return np.array(self.low).astype(dtype), np.array(self.high).astype(dtype)


def outside(rows: np.ndarray, step: int, limits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the share of each row that lies outside the limits, float64 (n,), of rows (n, ...)."""
    looked = rows.reshape(len(rows), -1)[:, ::step]
    low, high = limits
    share: np.ndarray = ((looked < low) | (looked > high)).mean(axis=1)
    return share


def typical_distance(columns: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return, per column of (n, columns), the median distance from the middle of what is not there; 1 if all is."""
    distance = np.abs(columns - middle)
    distance[distance == 0] = np.nan
    found = np.ones(columns.shape[1])
    some = ~np.isnan(distance).all(axis=0)
    found[some] = np.nanmedian(distance[:, some], axis=0)
    return found
