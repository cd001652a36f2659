"""Random numbers without state: each is a hash of what it is for.

A generator that is advanced from call to call makes a draw depend on every draw before it. Here the
draw for (seed, stream, key) is the same on every machine, in any batch and after any restart.
The mixer is SplitMix64: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
"""

import statistics
from functools import cache

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def uniform(seed: int, stream: int, keys: np.ndarray, count: int = 1) -> np.ndarray:
    """Return float64 (n, count) in [0, 1), one row per key of uint64 (n,).

    stream: what the numbers are for; streams are independent of each other.
    """
    drawn: np.ndarray = (_hashes(seed, stream, keys, count) >> np.uint64(11)) * 2.0**-53  # 53 bits fill a float64
    return drawn


def normal(seed: int, stream: int, keys: np.ndarray, count: int) -> np.ndarray:
    """Return float32 (n, count) from N(0, 1): quantiles picked by 16 random bits, so none is above 4.3."""
    bits = _hashes(seed, stream, keys, -(-count // 4)).astype("<u8").view("<u2")  # four numbers in each hash
    picked: np.ndarray = _quantiles()[bits[:, :count]]
    return picked


@cache
def _quantiles() -> np.ndarray:
    inverse = statistics.NormalDist().inv_cdf
    values = np.array([inverse((i + 0.5) / 2**16) for i in range(2**16)])
    scaled: np.ndarray = values / values.std()
    return scaled.astype(np.float32)


def _hashes(seed: int, stream: int, keys: np.ndarray, count: int) -> np.ndarray:
    start = _mix_int(_mix_int(seed & _MASK) ^ (stream & _MASK))
    rows = _mix(keys.astype(np.uint64) ^ np.uint64(start))
    drawn: np.ndarray = _mix(rows[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    return drawn


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def _mix_int(value: int) -> int:
    return int(_mix(np.array([(value + _GOLDEN) & _MASK], dtype=np.uint64))[0])
