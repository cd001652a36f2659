"""Changed copies of training rows, as pure functions of (row, seed, epoch, index).

Every number is drawn for one row by its index (see `draw`), so the batch a row is in, the order and
the number of workers change nothing.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from registry.errors import ConfigError
from training import draw
from training.config import Augment
from training.rows.data import Moments

_MOVE, _NOISE, _ERASE, _MASK, _FLIP, _BRIGHT, _MIX, _STREAMS = range(8)
_FIRST = 1000  # streams below belong to the splits
# Pixels that grid_sample reads in one thread. More would start others, which take the cores from the network.
_ALONE = 8192
OF_IMAGES = ("flip_share", "brightness", "mixup", "shift_pixels", "rotate_degrees", "erase_pixels")
OF_TABLES = ("mask_share",)


@dataclass(frozen=True)
class Keyed:
    """What the random numbers of a batch hang on; index: uint64 or int64 (n,), the rows' numbers."""

    seed: int
    epoch: int
    index: np.ndarray

    def stream(self, purpose: int) -> int:
        """Return the stream of `draw` for one kind of change in this epoch."""
        return _FIRST + self.epoch * _STREAMS + purpose

    def uniform(self, purpose: int, count: int) -> np.ndarray:
        """Return float64 (n, count) in [0, 1) for one kind of change."""
        return draw.uniform(self.seed, self.stream(purpose), self.index, count)


@dataclass(frozen=True)
class Batch:
    """x: float32 (n, *shape), on the scale of the raw rows. y, partner_y: (n,), labels or targets.

    share: float32 (n,), how much of a row is its own, the rest is its partner's;
    the loss is share * loss(y) + (1 - share) * loss(partner_y).
    """

    x: np.ndarray
    y: np.ndarray
    partner_y: np.ndarray
    share: np.ndarray


def check(settings: Augment, shape: tuple[int, ...]) -> None:
    """Raise ConfigError if a setting is on that has no meaning for rows of `shape`."""
    images = len(shape) > 1
    for name in OF_TABLES if images else OF_IMAGES:
        if getattr(settings, name):
            kind, accepted = ("images", ("noise", *OF_IMAGES)) if images else ("vectors", ("noise", *OF_TABLES))
            raise ConfigError(f"augment.{name}: the rows are {kind}; accepted for them are {', '.join(accepted)}")


def batch(x: np.ndarray, y: np.ndarray, keyed: Keyed, settings: Augment, moments: Moments) -> Batch:
    """Return changed copies of the rows `keyed.index` of x (rows, *shape) and y (rows,).

    mixup: each row is blended with a partner drawn from all rows, itself changed as in this epoch, by
    a share drawn from Beta(mixup, mixup). Source: Zhang et al. 2018, "mixup", with a share per row.
    """
    check(settings, x.shape[1:])
    own = rows(x[keyed.index], keyed, settings, moments)
    own_y = y[keyed.index]
    if not settings.mixup:
        return Batch(own, own_y, own_y, np.ones(len(own_y), dtype=np.float32))
    partner, share = partners(keyed, settings.mixup, len(x))
    other = rows(x[partner], replace(keyed, index=partner), settings, moments)
    weight = share.reshape(-1, *[1] * (x.ndim - 1))
    return Batch(other + weight * (own - other), own_y, y[partner], share)


def partners(keyed: Keyed, alpha: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row the number, int64 (n,), of one of `count` rows, and its own share, float32 (n,)."""
    from scipy.special import betaincinv

    drawn = keyed.uniform(_MIX, 2)
    return (drawn[:, 0] * count).astype(np.int64), betaincinv(alpha, alpha, drawn[:, 1]).astype(np.float32)


def rows(x: np.ndarray, keyed: Keyed, settings: Augment, moments: Moments) -> np.ndarray:
    """Return changed copies of x (n, *shape) as float32; the same values when everything is off."""
    if x.ndim == 2:
        changed = masked(x.astype(np.float32), keyed, settings.mask_share, moments.mean)
    else:  # whole numbers of one byte stay so for as long as they can: they are the fastest to move about
        changed = flipped(x, keyed, settings.flip_share)
        changed = moved(changed, keyed, settings.shift_pixels, settings.rotate_degrees)
        changed = erased(changed, keyed, settings.erase_pixels)
        changed = brightened(changed.astype(np.float32, copy=False), keyed, settings.brightness)
    return noisy(changed, keyed, settings.noise * moments.std)


def flipped(x: np.ndarray, keyed: Keyed, share: float) -> np.ndarray:
    """Return images (n, height, width[, channels]), some mirrored left to right.

    Each image is mirrored in `share` of its epochs, spread evenly: at 0.5 in every other one, so that
    two epochs show both sides. Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds", section 3.6.
    """
    if not share:
        return x
    start = draw.uniform(keyed.seed, _FIRST + _FLIP, keyed.index)[:, 0]  # the same in each epoch
    mirror = (start + keyed.epoch * share) % 1 < share
    changed = x.copy()
    changed[mirror] = x[mirror][:, :, ::-1]
    return changed


def moved(x: np.ndarray, keyed: Keyed, shift_pixels: float, rotate_degrees: float) -> np.ndarray:
    """Return images (n, height, width[, channels]) shifted and turned about their centre, 0 outside.

    Each shift is uniform in +-shift_pixels, each angle in +-rotate_degrees, and the image is read
    bilinearly. A whole number of shift_pixels without rotation moves by whole pixels: that is fast.
    """
    if not shift_pixels and not rotate_degrees:
        return x
    drawn = keyed.uniform(_MOVE, 3)
    if not rotate_degrees and shift_pixels == int(shift_pixels):
        steps = np.floor(drawn[:, :2] * (2 * int(shift_pixels) + 1)).astype(np.int64)
        return _windows(x, int(shift_pixels), steps)
    shift = shift_pixels * (2 * drawn[:, :2] - 1)
    return _turned(x.astype(np.float32), shift, np.deg2rad(rotate_degrees) * (2 * drawn[:, 2] - 1))


def _windows(x: np.ndarray, border: int, steps: np.ndarray) -> np.ndarray:
    """Return the window of each framed image that starts at its steps, int64 (n, 2) in [0, 2 * border]."""
    count, height, width, *_ = x.shape
    frame = ((0, 0), (border, border), (border, border), *[(0, 0)] * (x.ndim - 3))
    framed = np.pad(x, frame)
    of_image, of_row, *of_pixel = framed.strides
    shape = (count, 2 * border + 1, 2 * border + 1, height, width, *x.shape[3:])
    views = np.lib.stride_tricks.as_strided(framed, shape, (of_image, of_row, of_pixel[0], of_row, *of_pixel))
    picked: np.ndarray = views[np.arange(count), steps[:, 0], steps[:, 1]]
    return picked


def _turned(x: np.ndarray, shift: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Return float32 images read at coordinates turned by `angle` (n,) and shifted by (down, right) (n, 2)."""
    height, width = x.shape[1:3]
    down = np.arange(height, dtype=np.float32)[None, :, None] - np.float32((height - 1) / 2)
    right = np.arange(width, dtype=np.float32)[None, None, :] - np.float32((width - 1) / 2)
    values = (np.cos(angle), np.sin(angle), *shift.T)
    cos, sin, lower, later = (value.astype(np.float32)[:, None, None] for value in values)
    # grid_sample wants the centres of the outer pixels at +-(1 - 1 / size).
    place = np.empty((len(x), height, width, 2), dtype=np.float32)
    place[..., 0] = (sin * down + cos * right + later) * np.float32(2 / width)
    place[..., 1] = (cos * down - sin * right + lower) * np.float32(2 / height)
    plain = x[..., None] if x.ndim == 3 else x
    read = np.empty(plain.shape, dtype=np.float32)
    few = max(1, _ALONE // (height * width))
    with torch.inference_mode():
        for start in range(0, len(x), few):
            part = slice(start, start + few)
            images, at = torch.from_numpy(np.moveaxis(plain[part], 3, 1)), torch.from_numpy(place[part])
            read[part] = functional.grid_sample(images, at, align_corners=False).movedim(1, 3).numpy()
    return read.reshape(x.shape)


def erased(x: np.ndarray, keyed: Keyed, side_pixels: int) -> np.ndarray:
    """Return images with one square of `side_pixels` set to 0; half of the images are left whole.

    Source: DeVries & Taylor 2017, "Cutout", with squares that lie inside the image.
    """
    if not side_pixels:
        return x
    drawn = keyed.uniform(_ERASE, 3)
    height, width = x.shape[1:3]
    top = np.floor(drawn[:, 0] * max(1, height - side_pixels + 1))[:, None, None]
    left = np.floor(drawn[:, 1] * max(1, width - side_pixels + 1))[:, None, None]
    down, right = np.arange(height)[:, None], np.arange(width)[None, :]
    inside = (down >= top) & (down < top + side_pixels) & (right >= left) & (right < left + side_pixels)
    inside &= drawn[:, 2, None, None] < 0.5
    return np.where(inside.reshape(inside.shape + (1,) * (x.ndim - 3)), x.dtype.type(0), x)


def brightened(x: np.ndarray, keyed: Keyed, most: float) -> np.ndarray:
    """Return float32 images, each multiplied by a factor that is uniform in 1 +- most; nothing is cut off."""
    if not most:
        return x
    factor = (1 + most * (2 * keyed.uniform(_BRIGHT, 1)[:, 0] - 1)).astype(np.float32)
    changed: np.ndarray = x * factor.reshape(-1, *[1] * (x.ndim - 1))
    return changed


def noisy(x: np.ndarray, keyed: Keyed, deviation: np.ndarray) -> np.ndarray:
    """Return x plus normal noise of standard deviation `deviation` (one number, or one per column)."""
    if not np.any(deviation):
        return x
    cells = int(np.prod(x.shape[1:]))
    noise = draw.normal(keyed.seed, keyed.stream(_NOISE), keyed.index, cells).reshape(x.shape)
    changed: np.ndarray = x + np.float32(deviation) * noise
    return changed


def masked(x: np.ndarray, keyed: Keyed, share: float, mean: np.ndarray) -> np.ndarray:
    """Return a table (n, columns) with about `share` of the cells set to the mean of their column."""
    if not share:
        return x
    drawn = keyed.uniform(_MASK, x.shape[1])
    return np.where(drawn < share, mean.astype(np.float32), x)
