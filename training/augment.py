"""Changed copies of training rows, as pure functions of (row, seed, epoch, index).

Every number is drawn for one row by its index (see `draw`), so the batch a row is in, the order and
the number of workers change nothing.
"""

from dataclasses import dataclass

import numpy as np

from training import draw
from training.config import Augment
from training.data import Moments

_MOVE, _NOISE, _ERASE, _MASK, _STREAMS = 0, 1, 2, 3, 8
_FIRST = 1000  # streams below belong to the splits


@dataclass(frozen=True)
class Keyed:
    """What the random numbers of a batch hang on; index: uint64 or int64 (n,), the rows' numbers."""

    seed: int
    epoch: int
    index: np.ndarray

    def stream(self, purpose: int) -> int:
        """Return the stream of `draw` for one kind of change in this epoch."""
        return _FIRST + self.epoch * _STREAMS + purpose


def rows(x: np.ndarray, keyed: Keyed, settings: Augment, moments: Moments) -> np.ndarray:
    """Return changed copies of x (n, *shape) as float32; the same values when everything is off."""
    changed = x.astype(np.float32)
    if x.ndim == 2:
        changed = masked(changed, keyed, settings.mask_share, moments.mean)
    else:
        changed = moved(changed, keyed, settings.shift_pixels, settings.rotate_degrees)
        changed = erased(changed, keyed, settings.erase_pixels)
    return noisy(changed, keyed, settings.noise * moments.std)


def moved(x: np.ndarray, keyed: Keyed, shift_pixels: float, rotate_degrees: float) -> np.ndarray:
    """Return images (n, height, width[, channels]) shifted and turned about their centre.

    Each shift is uniform in +-shift_pixels, each angle in +-rotate_degrees; bilinear, 0 outside.
    """
    if not shift_pixels and not rotate_degrees:
        return x
    drawn = 2 * draw.uniform(keyed.seed, keyed.stream(_MOVE), keyed.index, 3) - 1
    angle = np.deg2rad(rotate_degrees) * drawn[:, 2, None, None]
    height, width = x.shape[1:3]
    down, right = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    source_y = np.cos(angle) * down - np.sin(angle) * right + (height - 1) / 2 + shift_pixels * drawn[:, 0, None, None]
    source_x = np.sin(angle) * down + np.cos(angle) * right + (width - 1) / 2 + shift_pixels * drawn[:, 1, None, None]
    return _bilinear(x, source_y, source_x)


def erased(x: np.ndarray, keyed: Keyed, side_pixels: int) -> np.ndarray:
    """Return images with one square of `side_pixels` set to 0; half of the images are left whole."""
    if not side_pixels:
        return x
    drawn = draw.uniform(keyed.seed, keyed.stream(_ERASE), keyed.index, 3)
    height, width = x.shape[1:3]
    top = np.floor(drawn[:, 0] * max(1, height - side_pixels + 1))[:, None, None]
    left = np.floor(drawn[:, 1] * max(1, width - side_pixels + 1))[:, None, None]
    down, right = np.arange(height)[:, None], np.arange(width)[None, :]
    inside = (down >= top) & (down < top + side_pixels) & (right >= left) & (right < left + side_pixels)
    inside &= drawn[:, 2, None, None] < 0.5
    return np.where(inside.reshape(inside.shape + (1,) * (x.ndim - 3)), np.float32(0), x)


def noisy(x: np.ndarray, keyed: Keyed, deviation: np.ndarray) -> np.ndarray:
    """Return x plus normal noise of standard deviation `deviation` (one number, or one per column)."""
    if not np.any(deviation):
        return x
    cells = int(np.prod(x.shape[1:]))
    noise = draw.normal(keyed.seed, keyed.stream(_NOISE), keyed.index, cells).reshape(x.shape)
    changed: np.ndarray = x + deviation * noise
    return changed.astype(np.float32)


def masked(x: np.ndarray, keyed: Keyed, share: float, mean: np.ndarray) -> np.ndarray:
    """Return a table (n, columns) with about `share` of the cells set to the mean of their column."""
    if not share:
        return x
    drawn = draw.uniform(keyed.seed, keyed.stream(_MASK), keyed.index, x.shape[1])
    return np.where(drawn < share, mean.astype(np.float32), x)


def _bilinear(x: np.ndarray, source_y: np.ndarray, source_x: np.ndarray) -> np.ndarray:
    top, left = np.floor(source_y).astype(np.int64), np.floor(source_x).astype(np.int64)
    share_y, share_x = source_y - top, source_x - left
    total = np.zeros(x.shape, dtype=np.float64)
    image = np.arange(len(x))[:, None, None]
    for down, weight_y in ((0, 1 - share_y), (1, share_y)):
        for right, weight_x in ((0, 1 - share_x), (1, share_x)):
            y, z = top + down, left + right
            inside = (y >= 0) & (y < x.shape[1]) & (z >= 0) & (z < x.shape[2])
            weight = np.where(inside, weight_y * weight_x, 0.0)
            picked = x[image, y.clip(0, x.shape[1] - 1), z.clip(0, x.shape[2] - 1)]
            total += weight.reshape(weight.shape + (1,) * (x.ndim - 3)) * picked
    return total.astype(np.float32)
