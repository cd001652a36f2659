"""The newest rows of the log as a person reads them."""

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from monitoring.log import decoded, logfile
from monitoring.log.decoded import Selection
from registry.errors import DataError
from registry.plain import plain

MOST_CHARACTERS = 400  # of the values of a row


def newest(log: Path, chosen: Selection, most_rows: int) -> list[dict[str, object]]:
    """Return the newest rows of the selection by name, the oldest of them first; see `decoded.as_dict`.

    Raises DataError if there is no log, it cannot be read, or holds rows, but none of the model or version.
    """
    if not log.exists():
        raise DataError(f"{log}: there is no prediction log; name the one of the service with --log")
    try:
        with closing(logfile.connect(log)) as connection:
            where, values = chosen.where()
            query = f"SELECT p.seq FROM predictions p WHERE {where} ORDER BY p.seq DESC LIMIT ?"
            seqs = [seq for (seq,) in connection.execute(query, [*values, most_rows])]
            if not seqs:
                _demand(connection, log, chosen)
                return []
            found = decoded.batches(connection, replace(chosen, from_seq=seqs[-1], to_seq=seqs[0]))
            rows = [row for batch in found for row in batch]
    except sqlite3.Error as error:
        raise DataError(f"{log}: cannot be read: {error}") from error
    forms = {release: decoded.form_of(*release) for release in {(row.model, row.version) for row in rows}}
    return [decoded.as_dict(forms[row.model, row.version], row) for row in rows]


def _demand(connection: sqlite3.Connection, log: Path, chosen: Selection) -> None:
    # That the model and version have rows, whenever they were answered.
    for kind, wanted, within in (("model", chosen.model, ""), ("version", chosen.version, chosen.model)):
        query = f"SELECT DISTINCT {kind} FROM predictions WHERE ?1 IN ('', model) ORDER BY 1"
        known = [str(name) for (name,) in connection.execute(query, (within,))] if wanted else []
        if known and wanted not in known:
            of = f"{kind} '{wanted}'" + (f" of {within}" if within else "")
            raise DataError(f"{log}: holds no row of {of}; there is {', '.join(known)}")


def as_text(rows: list[dict[str, object]]) -> str:
    """Return some lines for each row: when, which, what was answered, then the values."""
    return "\n".join(map(_lines, rows)) if rows else "no rows"


def _lines(row: dict[str, object]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(str(row["time"]))))
    label = "no label" if row["label"] is None else f"label {row['label']}"
    values = ", ".join(f"{name} {_short(value)}" for name, value in row.items() if name not in decoded.FACTS)
    cut = values if len(values) <= MOST_CHARACTERS else f"{values[:MOST_CHARACTERS]}..."
    what = plain(f"{row['id']}  {row['model']}:{row['version']}  {row['predicted']}, {label}")
    return f"{when}  {what}\n    {plain(cut)}"


def _short(value: object) -> str:
    if isinstance(value, list):
        return "[" + " ".join(map(_short, value)) + "]"
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
