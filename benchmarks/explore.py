"""How often `vigil explore` is wrong, and what it costs: false alarms, planted faults found, seconds."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from training.config import Config, Data, Split
from training.explore import demands, drift, label_hints, leakage, report
from training.explore.duplicates import part_of
from training.rows import data, places, split
from training.rows.data import Table


def sound(seed: int, rows: int = 700, columns: int = 12) -> Table:
    """Return rows without leak, copy or drift: half of the classes by two columns, half by chance."""
    g = np.random.default_rng(seed)
    x = g.normal(size=(rows, columns)).astype(np.float32)
    y = (x[:, 0] - x[:, 1] + g.normal(size=rows) > 0).astype(np.int64)
    return _table(x, y, ("no", "yes"))


def false_alarms(count: int = 1000) -> dict[str, Any]:
    """Return the share of `count` sound data sets with an alarm, by question; 0.01 is stated for each of drift."""
    alarms = {"drift_parts": 0, "drift_order": 0, "leak": 0}
    for seed in range(count):
        table = sound(seed)
        parts = split.deal(table.unit, Split())
        measured = drift.measure(table)
        apart = drift.between(measured, part_of(len(table.y), parts), table.unit)
        along = drift.along(measured, np.arange(len(measured.rows)))
        alarms["drift_parts"] += apart is not None and bool(apart.sure.any())
        alarms["drift_order"] += along is not None and bool(along.sure.any())
        alarms["leak"] += bool(len(demands.above(leakage.scores(table, np.arange(len(table.y))), 0.99)))
    return {"data_sets": count, **{name: found / count for name, found in alarms.items()}}


def flipped_digits(share: float = 0.05, seeds: int = 10) -> dict[str, Any]:
    """Return the mean share of flipped labels of the digits that is hinted at, and of the hints that are flipped."""
    table, found, right = data.load(Data("digits"), Path()), [], []
    for seed in range(seeds):
        g = np.random.default_rng(seed)
        wrong = g.permutation(len(table.y)) < share * len(table.y)
        y = np.where(wrong, (table.y + g.integers(1, 10, len(table.y))) % 10, table.y)
        hints = label_hints.find(replace(table, y=y), most=len(y))
        rows = [hint.row for hint in hints.listed]
        found.append(wrong[rows].sum() / wrong.sum())
        right.append(wrong[rows].mean())
    return {
        "flipped": share,
        "seeds": seeds,
        "hinted_at": round(float(np.mean(found)), 3),
        "right": round(float(np.mean(right)), 3),
    }


def seconds() -> dict[str, Any]:
    """Return seconds of the processor that it takes to check what training demands, and to look at all."""
    g = np.random.default_rng(0)
    pixels, columns = g.integers(0, 256, (60_000, 32, 32, 3), dtype=np.uint8), g.normal(size=(100_000, 30))
    images = _table(pixels, g.integers(0, 10, 60_000), tuple("0123456789"))
    numbers = _table(columns.astype(np.float32), g.integers(0, 2, 100_000), ("no", "yes"))
    found = {}
    for name, table in (("60000x32x32x3", images), ("100000x30", numbers)):
        config, parts, start = Config("rows"), split.deal(table.unit, Split()), time.process_time()
        demands.demand(table, parts, config)
        demanded = time.process_time()
        report.examine(config, table, parts, places.Outside(str), lambda line: None)
        found[name] = {"demand_s": round(demanded - start, 2), "look_s": round(time.process_time() - demanded, 1)}
    return found


def measure() -> dict[str, Any]:
    """Return all three."""
    return {
        "false_alarms": false_alarms(),
        "flipped_digits": [flipped_digits(share) for share in (0.05, 0.2)],
        "seconds": seconds(),
    }


def _table(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...]) -> Table:
    key = data.row_keys(x)
    names = tuple(f"x{column}" for column in range(x.shape[1])) if x.ndim == 2 else ()
    return Table(x, y, names, classes, key, key, "")
