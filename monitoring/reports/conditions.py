"""What calls for a report: drift in a sample of the recorded rows, or quality under its floor."""

import functools
import sqlite3
from pathlib import Path

import numpy as np
from prometheus_client import Gauge

from monitoring import drift, reference
from monitoring.metrics import MonitorMetrics
from monitoring.reference import Reference
from monitoring.reports import traffic
from monitoring.reports.traffic import Window
from registry import store
from registry.release import REFERENCE, Release

SAMPLE_ROWS = 5_000
WINDOWS_S = {"short": 3600.0, "medium": 86_400.0}
MOST_NAMES = 3


def live(connection: sqlite3.Connection, model: str) -> str | None:
    """Return the version that answered the newest row of `model`, None without any."""
    query = "SELECT version FROM predictions WHERE model = ? ORDER BY time_s DESC LIMIT 1"
    found = connection.execute(query, (model,)).fetchone()
    return None if found is None else str(found[0])


def calling(connection: sqlite3.Connection, tag: str, metrics: MonitorMetrics, now_s: float) -> list[str]:
    """Return what calls for a report on `tag`, each in words that name the alert; empty if nothing does.

    Raises ReleaseError if the release cannot be read.
    """
    found = []
    for length, window_s in WINDOWS_S.items():
        moved = _moved(connection, tag, length, Window(Path(), now_s - window_s, now_s, SAMPLE_ROWS))
        if moved:
            more = f" and {len(moved) - MOST_NAMES} more" if len(moved) > MOST_NAMES else ""
            found.append(f"drift over {window_s / 3600:g} h: {', '.join(moved[:MOST_NAMES])}{more}")
    return found + _under_floor(metrics, tag)


def _moved(connection: sqlite3.Connection, tag: str, length: str, window: Window) -> list[str]:
    release, known = _opened(tag)
    manifest = release.manifest
    rows, outputs = traffic.sample(connection, release, window)
    whole = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))  # where a policy kept less, nothing can be said
    rows, outputs = rows[whole], outputs[whole]
    if len(rows) < known.min_rows:
        return []
    seen = drift.window_of(known, manifest.input, rows, outputs, manifest.threshold)
    return [finding.signal for finding in drift.judge(known, seen, length)]


@functools.lru_cache(maxsize=8)
def _opened(tag: str) -> tuple[Release, Reference]:
    release = store.open_release(tag)
    return release, reference.parse(release.read(REFERENCE))


def _under_floor(metrics: MonitorMetrics, tag: str) -> list[str]:
    # What the monitor measured last, and the alert reads.
    model, version = tag.split(":")
    upper, floor, rows = (
        _values(gauge, model, version) for gauge in (metrics.quality_upper, metrics.quality_floor, metrics.quality_rows)
    )
    fewest = _values(metrics.quality_min_rows, model).get("", 0.0)
    return [
        f"{metric} under its floor: {value:.3f} is under {floor[metric]:.3f}"
        for metric, value in upper.items()
        if metric in floor and value < floor[metric] and rows.get(metric, 0.0) >= fewest
    ]


def _values(gauge: Gauge, *place: str) -> dict[str, float]:
    samples = [sample for family in gauge.collect() for sample in family.samples]
    return {
        sample.labels.get("metric", ""): sample.value
        for sample in samples
        if (sample.labels["model"], sample.labels.get("version", ""))[: len(place)] == place
    }
