"""What calls for a report: drift in a sample of the recorded rows, or quality under its floor."""

import sqlite3
from pathlib import Path

import numpy as np

from monitoring.backtest import counted
from monitoring.backtest.conditions import judged
from monitoring.backtest.counted import Batch
from monitoring.backtest.windows import Sliding
from monitoring.judge import intervals
from monitoring.log.opened import opened
from monitoring.monitor import state
from monitoring.monitor.parts import Look
from monitoring.monitor.tally import ALL
from monitoring.reports import traffic
from monitoring.reports.traffic import Window

SAMPLE_ROWS = 5_000
WINDOWS_S = {"short": 3600.0, "medium": 86_400.0}
MOST_NAMES = 3


def live(connection: sqlite3.Connection, model: str) -> str | None:
    """Return the version that answered the newest row of `model`, None without any."""
    query = "SELECT version FROM predictions WHERE model = ? ORDER BY time_s DESC LIMIT 1"
    found = connection.execute(query, (model,)).fetchone()
    return None if found is None else str(found[0])


def calling(look: Look, tag: str) -> list[str]:
    """Return what calls for a report on `tag`, each in words; empty if nothing does.

    Raises ReleaseError if the release cannot be read.
    """
    found = []
    for length, window_s in WINDOWS_S.items():
        moved = _moved(look.log, tag, length, Window(Path(), look.now_s - window_s, look.now_s, SAMPLE_ROWS))
        if moved:
            more = f" and {len(moved) - MOST_NAMES} more" if len(moved) > MOST_NAMES else ""
            found.append(f"drift over {window_s / 3600:g} h: {', '.join(moved[:MOST_NAMES])}{more}")
    return found + _under_floor(look, tag)


def _moved(connection: sqlite3.Connection, tag: str, length: str, window: Window) -> list[str]:
    known = opened(tag)
    rows, outputs = traffic.sample(connection, known.release, window)
    if not len(rows):
        return []
    batch = Batch(known.release.version, np.zeros(len(rows)), rows, outputs)
    seen = Sliding(counted.count(batch, known, bucket_s=1), length=1)
    seen.move(1)
    return [finding.signal for finding in judged(known, seen.window, length)]


def _under_floor(look: Look, tag: str) -> list[str]:
    model, version = tag.split(":")
    said = opened(tag).release.manifest.quality
    one = state.window(look.state, model, look.since_s).get((version, ALL))
    if one is None or not one.judged or one.judged < look.settings.min_rows:
        return []
    _, upper = intervals.wilson(one.right, one.judged)
    under = f"{said['metric']} under its floor: surely under {upper:.3f}, the floor is {said['floor']:.3f}"
    return [under] if upper < said["floor"] else []
