"""Rows that are there more than once: in one part, in two parts, and with two labels."""

from dataclasses import dataclass

import numpy as np

from training.rows.split import Parts


@dataclass(frozen=True)
class Copies:
    """Which rows have the same content, by their `key`.

    content: int64 (n,), equal rows have the same number.  size: int64 (contents,), rows of each content.
    mask: int64 (contents,), the parts a content stands in: 1 training, 2 validation, 4 test, added up.
    part: int64 (n,), 0, 1, 2 for training, validation and test, -1 for a row of no part.
    """

    content: np.ndarray
    size: np.ndarray
    mask: np.ndarray
    part: np.ndarray

    @property
    def crossing(self) -> np.ndarray:
        """Return bool (n,): rows whose content stands in two parts or three."""
        several = (self.mask & (self.mask - 1)) != 0
        found: np.ndarray = several[self.content] & (self.part >= 0)
        return found

    @property
    def repeated(self) -> np.ndarray:
        """Return bool (n,): rows that are a second, third, ... copy of an earlier row of their part."""
        own = self.content * 4 + self.part
        order = np.argsort(own, kind="stable")
        again = np.zeros(len(order), dtype=bool)
        again[order[1:]] = own[order[1:]] == own[order[:-1]]
        return again

    @property
    def spare(self) -> np.ndarray:
        """Return bool (n,): rows of training or validation that stand also in a later part."""
        later = self.mask[self.content] >> np.maximum(self.part + 1, 0)
        found: np.ndarray = (later > 0) & (self.part >= 0)
        return found


def find(key: np.ndarray, parts: Parts) -> Copies:
    """Return which rows are equal, from their hashes (uint64 (n,)) and their parts."""
    part = part_of(len(key), parts)
    _, content, size = np.unique(key, return_inverse=True, return_counts=True)
    mask = np.zeros(len(size), dtype=np.int64)
    np.bitwise_or.at(mask, content[part >= 0], np.int64(1) << part[part >= 0])
    return Copies(content.astype(np.int64), size, mask, part)


def part_of(count: int, parts: Parts) -> np.ndarray:
    """Return int64 (count,): 0, 1, 2 for the rows of training, validation and test, -1 for the others."""
    part = np.full(count, -1, dtype=np.int64)
    for number, rows in enumerate((parts.train, parts.validation, parts.test)):
        part[rows] = number
    return part


def pairs(copies: Copies, most: int) -> list[tuple[int, int]]:
    """Return up to `most` pairs of equal rows: one of training or validation, one of a later part."""
    found = []
    for row in np.flatnonzero(copies.spare)[:most]:
        same = copies.content == copies.content[row]
        found.append((int(row), int(np.argmax(same * (copies.part + 1)))))
    return found


def contradictions(copies: Copies, y: np.ndarray) -> np.ndarray:
    """Return int64, ascending: rows that are equal to another row and have another label than it."""
    low, high = np.full(len(copies.size), np.inf), np.full(len(copies.size), -np.inf)
    np.minimum.at(low, copies.content, y)
    np.maximum.at(high, copies.content, y)
    return np.flatnonzero((low < high)[copies.content])
