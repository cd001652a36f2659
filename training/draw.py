"""Random numbers without state: each is a hash of what it is for.

A generator that is advanced from call to call makes a draw depend on every draw before it. Here the
draw for (seed, stream, key) is the same on every machine, in any batch and after any restart.
The mixer is SplitMix64: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
"""

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def uniform(seed: int, stream: int, keys: np.ndarray, count: int = 1) -> np.ndarray:
    """Return float64 (n, count) in [0, 1), one row per key of uint64 (n,).

    stream: what the numbers are for; streams are independent of each other.
    """
    start = _mix_int(_mix_int(seed & _MASK) ^ (stream & _MASK))
    rows = _mix(keys.astype(np.uint64) ^ np.uint64(start))
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return (_mix(rows[:, None] + steps) >> np.uint64(11)) * 2.0**-53  # 53 bits fill a float64


def normal(seed: int, stream: int, keys: np.ndarray, count: int) -> np.ndarray:
    """Return float64 (n, count) from N(0, 1). Source: Box & Muller 1958."""
    drawn = uniform(seed, stream, keys, 2 * count)
    radius = np.sqrt(-2 * np.log1p(-drawn[:, :count]))
    turned: np.ndarray = radius * np.cos(2 * np.pi * drawn[:, count:])
    return turned


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def _mix_int(value: int) -> int:
    return int(_mix(np.array([(value + _GOLDEN) & _MASK], dtype=np.uint64))[0])
