"""Counts per bin of the windows that limits are drawn from."""

from collections.abc import Callable

import numpy as np

from monitoring.shift.signals import BINS

MOST_HELD = 16_000_000  # cells of a reference that is counted by a product of matrices
ROWS_PER_DRAWN = 20  # of the reference, for each row of a window, up to which that product is the faster way


def count(codes: np.ndarray) -> np.ndarray:
    """Return the counts of windows, float64 (windows, signals, BINS), from bins (windows, rows, signals)."""
    windows, _, signals = codes.shape
    compared = codes >= 0
    place = (np.arange(windows)[:, None, None] * signals + np.arange(signals)) * BINS + codes
    counted = np.bincount(place[compared], minlength=windows * signals * BINS)
    return counted.reshape(windows, signals, BINS).astype(np.float64)


def counter(codes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that counts windows of the same rows (rows, signals), from their places (windows, size).

    Its counts are those of `count`, float64 (windows, signals, BINS). The rows of a window all differ. Where windows
    are no small part of all rows it is a product of two matrices, whose whole numbers float32 holds exactly.
    """
    rows, signals = codes.shape
    held = np.zeros((rows, signals * BINS), np.float32) if rows * signals * BINS <= MOST_HELD else None
    if held is not None:
        row, signal = np.nonzero(codes >= 0)
        held[row, signal * BINS + codes[row, signal]] = 1.0

    def counted(places: np.ndarray) -> np.ndarray:
        windows, size = places.shape
        if held is None or rows > ROWS_PER_DRAWN * size:
            return count(codes[places])
        members = np.zeros((windows, rows), np.float32)
        np.put_along_axis(members, places, 1.0, axis=1)
        return (members @ held).astype(np.float64).reshape(windows, signals, BINS)

    return counted
