"""Everything that `vigil explore` looks at, from one TOML file: gathered here, judged, told and drawn elsewhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training import config as configuration
from training.config import Config
from training.explore import column_facts, demands, drift, duplicates, label_hints, leakage, near_copies, order
from training.explore.column_facts import Column
from training.explore.drift import Drift, Signals
from training.explore.duplicates import Copies
from training.explore.label_hints import Hints
from training.explore.near_copies import NearCopy
from training.rows import data, places, split
from training.rows.data import Table
from training.rows.places import Outside, Place
from training.rows.split import Parts

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Look:
    """What was seen. described: the rows behind `columns`. scores: of single columns, see `leakage.scores`.

    by_order: see `order.scores`. apart: drift between the parts. along: drift along the file or the time,
    None where that order says nothing. place: see `places`.
    """

    config: Config
    table: Table
    parts: Parts
    place: Place
    columns: list[Column]
    twins: list[tuple[str, str]]
    codes: list[tuple[str, float, int]]
    copies: Copies
    near: list[NearCopy]
    scores: np.ndarray
    by_order: dict[str, float]
    hints: Hints
    signals: Signals
    apart: Drift | None
    along: Drift | None

    @property
    def is_image(self) -> bool:
        """Return whether a row is an image."""
        return not self.table.names

    @property
    def ordered_by(self) -> str:
        """Return what the windows of `along` follow: "time" or "file"."""
        return "file" if self.table.time is None else "time"


def look(config_path: Path, overrides: Mapping[str, Any], say: Progress) -> Look:
    """Return what there is to see in the data of a TOML file; overrides: see `config.load`.

    Raises a UserError if the data cannot be read or split.
    """
    config = configuration.load(config_path, overrides)
    table = data.load(config.data, config_path.parent, config.task)
    parts = split.checked(table, config.split)
    say(f"data: {len(table.y)} rows")
    folder = config_path.parent
    return examine(config, table, parts, places.outside(config, folder, table), say)


def examine(config: Config, table: Table, parts: Parts, outside: Outside, say: Progress) -> Look:
    """Return what there is to see in a table and its parts."""
    table = data.filled(table, parts.train)
    described = np.sort(np.argsort(table.key, kind="stable")[: column_facts.MOST_ROWS])
    is_image = not table.names
    columns = [] if is_image else column_facts.describe(table, described)
    twins = [] if is_image else column_facts.twins(table, described)
    codes = [] if is_image else column_facts.codes(table, described)
    copies = duplicates.find(table.key, parts)
    near = near_copies.find(table, parts) if is_image else []
    say("duplicates: done")
    scores = leakage.scores(table, np.concatenate([parts.train, parts.validation]))
    by_order = order.scores(table, outside.ids)
    say("leakage: done")
    leaks = demands.above(scores, config.explore.leak_score)
    hints = label_hints.find(table, set(leaks.tolist()))
    say("label hints: done")
    signals = drift.measure(table)
    apart = drift.between(signals, copies.part, table.unit)
    sequence = "file" if table.time is None else "time"
    sorted_by_target = order.told(table, by_order.get(sequence, 0.0))
    along = None if sorted_by_target else drift.along(signals, _sequence(table, signals.rows))
    say("drift: done")
    return Look(
        config,
        table,
        parts,
        outside.place,
        columns,
        twins,
        codes,
        copies,
        near,
        scores,
        by_order,
        hints,
        signals,
        apart,
        along,
    )


def _sequence(table: Table, rows: np.ndarray) -> np.ndarray:
    return np.arange(len(rows)) if table.time is None else np.argsort(table.time[rows], kind="stable")
