"""Rows of the log as a person reads them: columns by name, categories as text, what was not recorded as nothing."""

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from monitoring.judge import quality
from monitoring.log import redaction
from registry.release import Manifest

BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20
MOST_SPREAD = 50  # classes that get a column each
FACTS = ("seq", "id", "time", "model", "version", "predicted", "label", "label_time")
# Of a row its last label, from when on it held: one that is sent again says nothing new.
QUERY = """SELECT p.seq, p.id, p.time_s, p.model, p.version, p.predicted, p.probabilities, p.row, p.hashed,
    l.label, l.time_s FROM predictions p LEFT JOIN labels l ON l.seq = (
        SELECT min(seq) FROM labels WHERE id = p.id AND seq > coalesce((
            SELECT max(seq) FROM labels WHERE id = p.id AND label <> (
                SELECT label FROM labels WHERE id = p.id ORDER BY seq DESC LIMIT 1)), -1))
    WHERE {where} ORDER BY p.seq LIMIT ?"""


@dataclass(frozen=True)
class Selection:
    """Which rows: of a model and version ("": any), answered from one Unix time to before another, by seq."""

    model: str = ""
    version: str = ""
    from_s: float = 0.0
    to_s: float = math.inf
    from_seq: int = 0
    to_seq: int = 2**62

    def where(self) -> tuple[str, list[object]]:
        """Return the condition on predictions p, and its values."""
        parts: list[tuple[str, object]] = [("p.seq >= ?", self.from_seq), ("p.seq <= ?", self.to_seq)]
        parts += [("p.model = ?", self.model)] if self.model else []
        parts += [("p.version = ?", self.version)] if self.version else []
        parts += [("p.time_s >= ?", self.from_s)] if self.from_s else []
        parts += [("p.time_s < ?", self.to_s)] if math.isfinite(self.to_s) else []
        return " AND ".join(text for text, _ in parts), [value for _, value in parts]


@dataclass(frozen=True)
class Row:
    """One row as it is stored, with its last label. label_s: since when that label has held, however often it came."""

    seq: int
    id: str
    time_s: float
    model: str
    version: str
    predicted: str
    outputs: bytes
    row: bytes
    hashed: str | None
    label: str | None
    label_s: float | None


@dataclass(frozen=True)
class Form:
    """The columns of one release. inputs: by the name they get here, the place in the row; whole: a name for all."""

    manifest: Manifest
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    @property
    def spread(self) -> bool:
        """Return whether each output has a column."""
        return len(self.outputs) == max(1, len(self.manifest.classes))

    def categories(self, place: int) -> tuple[str, ...] | None:
        """Return the values of a column of text, None for numbers."""
        return self.manifest.input.categories.get(self.manifest.input.columns[place])


def form_of(model: str, version: str) -> Form | None:
    """Return the columns of a release, None if it is not in the store."""
    manifest = quality.manifest_of(model, version)
    if manifest is None:
        return None
    classes = manifest.classes
    spread = tuple(f"probability_{name}" for name in classes) if 0 < len(classes) <= MOST_SPREAD else ()
    outputs = spread or (("probabilities",) if classes else ("prediction",))
    taken = {*FACTS, *outputs}
    inputs = {}
    for place, column in enumerate(manifest.input.columns):
        while column in taken:
            column = f"input_{column}"
        taken.add(column)
        inputs[column] = place
    return Form(manifest, inputs, outputs)


def batches(connection: sqlite3.Connection, chosen: Selection, most_rows: int | None = None) -> Iterator[list[Row]]:
    """Yield the rows in the order they were written, in lists of bounded size; memory does not grow with the log.

    Each list is read anew: nobody who writes meanwhile waits, and nothing of the write-ahead file is held.
    """
    where, values = chosen.where()
    query = QUERY.format(where=where)
    start, left = _first(connection, chosen), most_rows
    while left is None or left > 0:
        rows, size_bytes = [], 0
        found = connection.execute(query, [start, *values[1:], BATCH_ROWS if left is None else min(left, BATCH_ROWS)])
        for said in found:
            rows.append(Row(*said))
            size_bytes += len(rows[-1].row) + len(rows[-1].outputs)
            if size_bytes >= BATCH_BYTES:
                break
        found.close()
        if not rows:
            return
        yield rows
        start = rows[-1].seq + 1
        left = left if left is None else left - len(rows)


def inputs_of(form: Form, rows: Sequence[Row]) -> np.ndarray:
    """Return the inputs (n, *shape); NaN for what was not recorded."""
    return redaction.decode(form.manifest.input, [row.row for row in rows])


def outputs_of(form: Form, rows: Sequence[Row]) -> np.ndarray:
    """Return what was answered, float32 (n, outputs)."""
    return np.frombuffer(b"".join(row.outputs for row in rows), dtype=np.float32).reshape(len(rows), -1)


def as_dict(form: Form | None, row: Row) -> dict[str, object]:
    """Return one row by name; of an image or tensor, and of a release that is gone, the facts and outputs alone."""
    facts = (row.seq, row.id, row.time_s, row.model, row.version, row.predicted, row.label, row.label_s)
    said: dict[str, object] = dict(zip(FACTS, facts, strict=True))
    if form is None:
        return said
    outputs = outputs_of(form, [row])[0].tolist()
    said |= dict(zip(form.outputs, outputs, strict=True)) if form.spread else {form.outputs[0]: outputs}
    if form.inputs:
        values = inputs_of(form, [row])[0].tolist()
        said |= {name: _value(form, place, values[place]) for name, place in form.inputs.items()}
        hashed = json.loads(row.hashed) if row.hashed else {}
        said |= {f"{column}_hash": digest for column, digest in hashed.items()}
    return said


def _value(form: Form, place: int, value: float) -> object:
    known = form.categories(place)
    if math.isnan(value):
        return None
    return value if known is None else known[int(value)]


def _first(connection: sqlite3.Connection, chosen: Selection) -> int:
    # Where to begin, by the index, so that a late hour of a long log is not looked for from its beginning.
    if not chosen.model or not chosen.from_s:
        return chosen.from_seq
    query = "SELECT min(seq) FROM predictions WHERE model = ? AND time_s >= ?"
    found = connection.execute(query, (chosen.model, chosen.from_s)).fetchone()[0]
    return max(chosen.from_seq, chosen.to_seq + 1 if found is None else int(found))
