"""Which row goes where, decided by the hash of the row: stable when rows are added, shuffled or copied."""

from dataclasses import dataclass

import numpy as np

from registry.errors import DataError
from training import draw
from training.config import Split
from training.rows.data import Table

_SPLIT, _FOLD, _NOISE, _HALF = 1, 2, 3, 4  # streams of `draw`
FEWEST_ROWS = {"train": 20, "validation": 10, "test": 20}


@dataclass(frozen=True)
class Parts:
    """Row numbers of each part, int64, ascending; together they are all rows, none twice."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def counts(self) -> dict[str, int]:
        """Return the number of rows in each part."""
        return {name: len(rows) for name, rows in vars(self).items()}


def deal(unit: np.ndarray, split: Split, given_test: np.ndarray | None = None) -> Parts:
    """Return the part of every row, from its hash `unit` (uint64 (n,)) and the shares of `split`.

    given_test: bool (n,), rows that came as a test set; they are the test rows, and the others are dealt
    to training and validation in the proportion of their shares.
    """
    place = draw.uniform(split.seed, _SPLIT, unit)[:, 0]
    if given_test is None:
        part = np.digitize(place, [split.train, split.train + split.validation])
    else:
        part = np.digitize(place * (split.train + split.validation), [split.train])
        part[given_test] = 2
    return Parts(*(np.flatnonzero(part == number) for number in range(3)))


def checked(table: Table, split: Split) -> Parts:
    """Return `deal` of the table, once it has passed `check`."""
    parts = deal(table.unit, split, table.given_test)
    check(table, parts)
    return parts


def check(table: Table, parts: Parts) -> None:
    """Raise DataError if a part is too small to judge anything by, or if what is to be learnt is missing from one.

    That is a class without a training row, test rows of one class only, or a number that never changes in a part.
    """
    for name, rows in vars(parts).items():
        if len(rows) < FEWEST_ROWS[name]:
            raise DataError(
                f"data: {len(rows)} {name} rows of {len(table.y)}; at least {FEWEST_ROWS[name]} are needed: "
                f"give more rows, cut large groups into smaller ones, or raise split.{name}"
            )
    if not table.classes:
        _check_targets(table, parts)
        return
    absent = sorted(set(range(len(table.classes))) - set(table.y[parts.train].tolist()))
    if absent:
        names = ", ".join(table.classes[c] for c in absent)
        raise DataError(f"data: no training row of class {names}; at least one per class is needed: give more rows")
    if len(np.unique(table.y[parts.test])) < 2:
        raise DataError("data: the test rows hold one class only; at least two are needed: change split.seed")


def _check_targets(table: Table, parts: Parts) -> None:
    for name, rows in vars(parts).items():
        if np.ptp(table.y[rows]) == 0:
            raise DataError(
                f"data: the target is {table.y[rows][0]:g} in all {len(rows)} {name} rows; one that changes is needed: "
                "give more rows, or change split.seed"
            )


def folds(unit: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the fold of every row, int64 (n,) in [0, count), by the same hash as `deal`."""
    return (draw.uniform(seed, _FOLD, unit)[:, 0] * count).astype(np.int64)


def halves(unit: np.ndarray) -> np.ndarray:
    """Return 0 or 1 for every row, int64 (n,): two halves that know nothing of its part or fold."""
    return (draw.uniform(0, _HALF, unit)[:, 0] * 2).astype(np.int64)


def noisy_labels(y: np.ndarray, key: np.ndarray, share: float, classes: int) -> np.ndarray:
    """Return y with about `share` of the labels replaced by a class drawn at random (maybe the same)."""
    drawn = draw.uniform(0, _NOISE, key, 2)
    return np.where(drawn[:, 0] < share, (drawn[:, 1] * classes).astype(np.int64), y)
