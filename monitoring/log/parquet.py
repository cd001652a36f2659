"""Rows of the log as Parquet, written in small parts: memory does not grow with the number of rows."""

import json
import math
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from monitoring.log import decoded, logfile
from monitoring.log.decoded import Form, Row, Selection
from registry.errors import DataError

SUFFIX = ".parquet"
TIME = pa.timestamp("us", tz="UTC")
KINDS = {"seq": pa.int64(), "time": TIME, "label_time": TIME}
WHOLE = "row"  # of images and tensors: their numbers in a row, of the shape that the file's metadata tell
RELEASES = "SELECT DISTINCT p.model, p.version FROM predictions p WHERE {where}"
HASHES = """SELECT DISTINCT j.key FROM predictions p, json_each(p.hashed) j
    WHERE p.hashed IS NOT NULL AND {where} ORDER BY j.key"""


@dataclass(frozen=True)
class Written:
    """A file. undecoded: releases that are not in the store, of whose rows only the facts are there."""

    file: str
    rows: int
    undecoded: tuple[str, ...]

    def to_json(self) -> str:
        """Return one JSON object."""
        return json.dumps(asdict(self))

    def to_text(self) -> str:
        """Return one line for a person."""
        gone = f"; without values and outputs, since the release is gone: {', '.join(self.undecoded)}"
        return f"{self.rows} rows: {self.file}" + (gone if self.undecoded else "")


def write_file(log: Path, file: Path, chosen: Selection, force: bool = False) -> Written:
    """Write the rows of the selection to a Parquet file, which is there as a whole or not at all.

    force: replace a file that is there. Raises DataError if the log cannot be read, the file cannot be written, is
    there already or has another kind of name, or releases do not go together.
    """
    if file.suffix != SUFFIX:
        raise DataError(f"{file}: must end in {SUFFIX}, which is what is written; pandas, DuckDB and Spark read it")
    if file.exists() and not force:
        raise DataError(f"{file}: is there already; choose another name, or replace it with --force")
    if not log.exists():
        raise DataError(f"{log}: there is no prediction log; name the one of the service with --log")
    unfinished = file.with_name(file.name + ".unfinished")
    try:
        with closing(logfile.connect(log)) as connection:
            table = Table(connection, chosen)
            with open(unfinished, "wb") as opened:
                rows = table.write(opened)
            os.replace(unfinished, file)
    except sqlite3.Error as error:
        raise DataError(f"{log}: cannot be read: {error}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror}; choose another place") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return Written(str(file), rows, table.undecoded)


class Table:
    """What a selection of the log looks like as a table."""

    def __init__(self, connection: sqlite3.Connection, chosen: Selection) -> None:
        """Raises DataError if two releases have a column of one name and different kinds."""
        self._connection = connection
        self._chosen = chosen
        where, values = chosen.where()
        releases = connection.execute(RELEASES.format(where=where), values).fetchall()
        self.forms = {release: decoded.form_of(*release) for release in releases}
        self.hashes = [column for (column,) in connection.execute(HASHES.format(where=where), values)]
        fields, shapes = _fields(self.forms)
        kinds = fields | {f"{column}_hash": pa.string() for column in self.hashes}
        self.schema = pa.schema(list(kinds.items()), metadata=shapes)

    @property
    def undecoded(self) -> tuple[str, ...]:
        """Return the releases that are gone."""
        return tuple(sorted(f"{model}:{version}" for (model, version), form in self.forms.items() if form is None))

    def write(self, to: IO[bytes]) -> int:
        """Write the rows into `to`, and return how many."""
        count = 0
        with pq.ParquetWriter(to, self.schema, compression="zstd") as writer:
            for rows in decoded.batches(self._connection, self._chosen):
                for release, some in groupby(rows, lambda row: (row.model, row.version)):
                    part = list(some)
                    writer.write_table(self._part(self.forms.get(release), part))
                    count += len(part)
        return count

    def _part(self, form: Form | None, rows: Sequence[Row]) -> pa.Table:
        columns: dict[str, Any] = {
            "seq": [row.seq for row in rows],
            "id": [row.id for row in rows],
            "time": [_micros(row.time_s) for row in rows],
            "model": [row.model for row in rows],
            "version": [row.version for row in rows],
            "predicted": [row.predicted for row in rows],
            "label": [row.label for row in rows],
            "label_time": [_micros(row.label_s) for row in rows],
        }
        if form is not None:
            columns |= _outputs(form, rows) | _inputs(form, rows)
        hashed = [json.loads(row.hashed) if row.hashed else {} for row in rows]
        columns |= {f"{column}_hash": [said.get(column) for said in hashed] for column in self.hashes}
        arrays = [_array(columns.get(one.name), one.type, len(rows)) for one in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _fields(forms: dict[tuple[str, str], Form | None]) -> tuple[dict[str, Any], dict[str, str]]:
    # The columns of all releases together, and the shapes of what has one.
    fields: dict[str, Any] = {name: KINDS.get(name, pa.string()) for name in decoded.FACTS}
    shapes: dict[str, str] = {}
    for (model, version), form in forms.items():
        if form is None:
            continue
        spec = form.manifest.input
        found = {name: pa.float32() if form.spread else pa.list_(pa.float32()) for name in form.outputs}
        for name, place in form.inputs.items():
            found[name] = pa.string() if form.categories(place) else pa.from_numpy_dtype(np.dtype(spec.dtype))
        if not form.inputs:
            found[WHOLE] = pa.list_(pa.from_numpy_dtype(np.dtype(spec.dtype)), math.prod(spec.shape))
            shapes[f"shape of {model}:{version}"] = json.dumps(spec.shape)
        for name, kind in found.items():
            if fields.setdefault(name, kind) != kind:
                raise DataError(
                    f"{model}:{version}: its column '{name}' is {kind}, in another release it is {fields[name]}; "
                    "choose one with --version"
                )
    return fields, shapes


def _outputs(form: Form, rows: Sequence[Row]) -> dict[str, Any]:
    outputs = decoded.outputs_of(form, rows)
    return dict(zip(form.outputs, outputs.T, strict=True)) if form.spread else {form.outputs[0]: list(outputs)}


def _inputs(form: Form, rows: Sequence[Row]) -> dict[str, Any]:
    inputs = decoded.inputs_of(form, rows)
    if not form.inputs:
        spec, absent = form.manifest.input, np.array([not row.row for row in rows])
        values = (
            np.where(absent[:, None], 0, inputs.reshape(len(rows), -1)).astype(spec.dtype) if absent.any() else inputs
        )
        whole = pa.FixedSizeListArray.from_arrays(
            pa.array(values.ravel()), math.prod(spec.shape), mask=pa.array(absent)
        )
        return {WHOLE: whole}
    found: dict[str, Any] = {}
    for name, place in form.inputs.items():
        column, known = inputs[:, place], form.categories(place)
        if known is None:
            found[name] = pa.array(column, mask=np.isnan(column))
        else:
            found[name] = [None if code != code else known[int(code)] for code in column.tolist()]
    return found


def _array(values: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(rows, kind)
    if isinstance(values, pa.Array):
        return values.cast(kind)
    return pa.array(values, kind)


def _micros(time_s: float | None) -> int | None:
    return None if time_s is None else round(time_s * 1e6)
