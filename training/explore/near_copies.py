"""Test images that are nearly one of training: the same picture saved anew, brighter, or at another size.

Equal rows are found by hash (`duplicates`); here every test image is held against every other image, first
on small averages (one matrix product), then on all pixels of its nearest one. Shifted, turned and mirrored
copies are not found.
"""

from dataclasses import dataclass

import numpy as np

from training.explore import small
from training.rows.data import Table
from training.rows.split import Parts

MOST_TEST_ROWS = 20_000
MOST_OTHER_ROWS = 100_000
SIDE = 8
ALIKE = (
    0.995  # correlation over all pixels; no two of the 1,797 digits, nor MNIST test and training images, come so near
)
_FIRST = 0.98  # the same on the averages, below which the pixels are not looked at
_CHUNK_ROWS = 512


@dataclass(frozen=True)
class NearCopy:
    """A row of test, the row of training or validation nearest to it, and their correlation over all pixels."""

    test_row: int
    other_row: int
    correlation: float


def find(table: Table, parts: Parts) -> list[NearCopy]:
    """Return the near copies that are not equal rows, the nearest first."""
    test = _some(table, parts.test, MOST_TEST_ROWS)
    other = _some(table, np.concatenate([parts.train, parts.validation]), MOST_OTHER_ROWS)
    near, score = _nearest(_averages(table, test), _averages(table, other))
    found = []
    for place in np.flatnonzero(score >= _FIRST):
        a, b = test[place], other[near[place]]
        if table.key[a] != table.key[b] and (close := correlation(table.x[a], table.x[b])) >= ALIKE:
            found.append(NearCopy(int(a), int(b), round(close, 5)))
    return sorted(found, key=lambda pair: -pair.correlation)


def correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Return the correlation of two arrays of one shape; 0 if one of them never changes."""
    a, b = (v.astype(np.float64).ravel() - v.mean(dtype=np.float64) for v in (one, two))
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else 0.0


def _some(table: Table, rows: np.ndarray, most: int) -> np.ndarray:
    return np.sort(rows[np.argsort(table.key[rows], kind="stable")[:most]])


def _averages(table: Table, rows: np.ndarray) -> np.ndarray:
    """Return grey averages of the images, float32 (n, values), of mean 0 and length 1; 0 if an image never changes."""
    parts = np.array_split(rows, -(-len(rows) // 4096))
    grey = np.concatenate([small.averaged(table.x[part], SIDE).mean(axis=3) for part in parts]).reshape(len(rows), -1)
    grey -= grey.mean(axis=1, keepdims=True)
    length = np.linalg.norm(grey, axis=1, keepdims=True)
    unit: np.ndarray = grey / np.where(length > 0, length, 1)
    return unit


def _nearest(asked: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of the nearest of `among` and the correlation with it, for each of `asked`."""
    place, score = np.empty(len(asked), dtype=np.int64), np.empty(len(asked), dtype=np.float32)
    for start in range(0, len(asked), _CHUNK_ROWS):
        alike = asked[start : start + _CHUNK_ROWS] @ among.T
        best = alike.argmax(axis=1)
        place[start : start + len(best)], score[start : start + len(best)] = best, alike[np.arange(len(best)), best]
    return place, score
