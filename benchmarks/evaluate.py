"""How long the numbers of a manifest take, with their intervals: a model and two baselines on large test sets."""

import resource
import time
from typing import Any

import numpy as np

from training.config import Config
from training.judge import verdict

SIZES = ((10_000, 10), (10_000, 100), (10_000, 1000), (100_000, 10))


def measure() -> dict[str, Any]:
    """Return seconds by number of test rows and classes, and the most memory that this process held, in MB."""
    found: dict[str, Any] = {f"{rows} rows, {classes} classes, s": _seconds(rows, classes) for rows, classes in SIZES}
    return found | {"most memory, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)}


def _seconds(rows: int, classes: int) -> float:
    generator = np.random.default_rng(0)
    y = generator.integers(0, classes, rows)
    z = generator.normal(size=(rows, classes)).astype(np.float32)
    z[np.arange(rows), y] += 2.5
    model = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    baselines = {"majority": np.full(model.shape, 1 / classes, dtype=np.float32), "linear": model}
    answered = verdict.Answered(y, tuple(map(str, range(classes))), model, baselines, {"site": (y % 7).astype(str)})
    started = time.perf_counter()
    verdict.judge(Config("benchmark"), answered)
    return round(time.perf_counter() - started, 2)
