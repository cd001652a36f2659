"""What counting the signals costs the service, per row: in bulk and one row at a time."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from monitoring.shift import reference
from monitoring.shift.bulk import Counting, Tally
from registry.release import InputSpec

ROWS = 4096
CLASSES = 10
REPEATS = 15


def measure() -> dict[str, Any]:
    """Return microseconds per row for 8 x 8 images and for tables of 16 columns (20 signals)."""
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
    images = generator.integers(0, 17, (ROWS, 8, 8)).astype(np.uint8)
    table = generator.standard_normal((ROWS, 16)).astype(np.float32)
    columns = tuple(f"c{i}" for i in range(16))
    return {
        "image_8x8": _cost(InputSpec("uint8", (8, 8)), images, probabilities),
        "table_16_columns": _cost(InputSpec("float32", (16,), columns), table, probabilities),
    }


def _cost(spec: InputSpec, rows: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    normal = reference.build(reference.ReferenceSettings(), reference.HeldOut(spec, rows, probabilities))
    counting = Counting.of(normal, spec)
    values, tally = counting.meter.measure(rows, probabilities), Tally(counting)

    def one_by_one() -> None:
        for i in range(512):
            tally.add(rows[i : i + 1], probabilities[i : i + 1])

    return {
        "signals": len(normal.bins),
        "count_us_per_row": round(_median_s(lambda: counting.binner.count(values)) / ROWS * 1e6, 3),
        "compute_and_count_us_per_row": round(_median_s(lambda: tally.add(rows, probabilities)) / ROWS * 1e6, 3),
        "single_row_calls_us_per_row": round(_median_s(one_by_one) / 512 * 1e6, 3),
    }


def _median_s(call: Callable[[], object]) -> float:
    took = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return sorted(took)[REPEATS // 2]
