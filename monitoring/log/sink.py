"""The log in parts at any place fsspec knows: `file://`, `s3://`, `gs://`, `memory://`, ...

A part holds what was written between two places of the log, of one release and one hour, and has these places in its
name. Which places are next is written into the log before a part is, and that they are done after it. So whatever
kills the export, the same parts are written again under the same names: none twice, none missing.
"""

import fcntl
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from monitoring.log import logfile, parquet
from monitoring.log.decoded import Selection
from registry.errors import DataError
from registry.remote import unusable

HOUR_S = 3600
ROWS, LABELS, SHADOW = "rows", "labels", "shadow"
TABLES = {ROWS: "predictions", LABELS: "labels", SHADOW: "shadow"}
COLUMNS = {LABELS: "seq, id, time_s, label", SHADOW: "seq, id, time_s, model, version, predicted, outputs"}
KINDS = {"seq": pa.int64(), "time_s": pa.float64(), "outputs": pa.binary()}
BATCH_ROWS = 10_000
# Where a file that is closed is there as a whole, and one that is not is not there at all.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2"})
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Exported:
    """What was written. parts, rows, labels, shadow: how many. gone: rows deleted from the log before their turn."""

    to: str
    parts: int
    rows: int
    labels: int
    shadow: int
    gone: int

    def to_json(self) -> str:
        """Return one JSON object."""
        return json.dumps(asdict(self))

    def to_text(self) -> str:
        """Return one line for a person."""
        what = f"{self.rows} rows, {self.labels} labels, {self.shadow} answers of challengers"
        lost = f"; {self.gone} were deleted from the log before their turn" if self.gone else ""
        return f"{self.to}: {self.parts} new parts, {what}{lost}"


@dataclass(frozen=True)
class Span:
    """What is exported together: of one table from one seq to another, both included."""

    kind: str
    first: int
    last: int


class Target:
    """A folder or bucket at a URL."""

    def __init__(self, url: str) -> None:
        """Raises DataError if the URL is none, or needs a package that is not there."""
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise DataError(f"{_shown(url)}: {unusable(url, error)}") from error
        self._root = root.rstrip("/")
        protocol = self._files.protocol
        self._whole = bool(OBJECT_STORES & {*([protocol] if isinstance(protocol, str) else protocol)})
        self.name = str(self._files.unstrip_protocol(self._root))

    @contextmanager
    def create(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file that is there as a whole once this ends, and not at all before."""
        path = f"{self._root}/{name}"
        place = path if self._whole else path + UNFINISHED
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        with self._files.open(place, "wb") as file:
            yield file
        if place != path:
            self._files.mv(place, path)

    def parts(self) -> list[str]:
        """Return the names of the parts that are there."""
        self._files.invalidate_cache()
        found = self._files.glob(f"{self._root}/**/part-*.parquet")
        return sorted(str(path)[len(self._root) + 1 :] for path in found)

    def open(self, name: str) -> IO[bytes]:
        """Open a part to be read."""
        opened: IO[bytes] = self._files.open(f"{self._root}/{name}", "rb")
        return opened


def export(log: Path, url: str, now_s: float | None = None, whole: bool = False) -> Exported:
    """Write what is new on the log since the last export to `url`, up to the beginning of this hour.

    whole: also what this hour brought so far. Raises DataError if the log or the target cannot be used; what was not
    written then is written the next time.
    """
    if not log.exists():
        raise DataError(f"{log}: there is no prediction log; name the one of the service with --log")
    target = Target(url)
    try:
        with _alone(log), closing(logfile.connect(log)) as connection:
            return _export(connection, target, time.time() if now_s is None else now_s, whole)
    except sqlite3.Error as error:
        raise DataError(f"{log}: cannot be exported: {error}") from error
    except OSError as error:
        raise DataError(f"{target.name}: cannot be written: {error}; what is missing follows the next time") from error


@contextmanager
def _alone(log: Path) -> Iterator[None]:
    with open(log.with_name(log.name + ".export-lock"), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{log}: another export of it is under way; wait for it to end") from None
        yield


def erase(url: str, gone: Callable[[str], bool]) -> tuple[int, int]:
    """Write the parts at `url` anew without the rows and labels whose id is `gone`; return how many parts and rows.

    A part is there as a whole at each moment, with or without them. Raises DataError if one cannot be read or written.
    """
    target, parts, rows = Target(url), 0, 0
    try:
        for name in target.parts():
            with target.open(name) as file:
                idents = pq.read_table(file, columns=["id"])["id"].to_pylist()
            if not any(map(gone, idents)):
                continue
            with target.open(name) as file, target.create(name) as anew:
                rows += _without(pq.ParquetFile(file), anew, gone)
            parts += 1
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{target.name}: not all was erased: {error}; repeat it") from error
    return parts, rows


def _without(part: pq.ParquetFile, anew: IO[bytes], gone: Callable[[str], bool]) -> int:
    # In pieces, so that a large part needs no more memory than a small one.
    left_out = 0
    with pq.ParquetWriter(anew, part.schema_arrow, compression="zstd") as writer:
        for batch in part.iter_batches(BATCH_ROWS):
            kept = batch.filter(pa.array([not gone(ident) for ident in batch["id"].to_pylist()]))
            left_out += len(batch) - len(kept)
            writer.write_batch(kept)
    return left_out


def _export(connection: sqlite3.Connection, target: Target, now_s: float, whole: bool) -> Exported:
    counts = dict.fromkeys(TABLES, 0)
    parts = gone = 0
    for kind in TABLES:
        for span in [*_unfinished(connection, target, kind), *_next(connection, target, kind, now_s, whole)]:
            here = 0
            for name, rows in _write(connection, target, span):
                parts, here = parts + bool(name), here + rows
            with connection:
                done = "UPDATE exports SET done = 1 WHERE target = ? AND kind = ? AND first = ?"
                connection.execute(done, (target.name, kind, span.first))
            counts[kind] += here
            gone += span.last - span.first + 1 - here if kind == ROWS else 0
    return Exported(target.name, parts, counts[ROWS], counts[LABELS], counts[SHADOW], gone)


def _unfinished(connection: sqlite3.Connection, target: Target, kind: str) -> list[Span]:
    query = "SELECT first, last FROM exports WHERE target = ? AND kind = ? AND NOT done ORDER BY first"
    return [Span(kind, *found) for found in connection.execute(query, (target.name, kind)).fetchall()]


def _next(connection: sqlite3.Connection, target: Target, kind: str, now_s: float, whole: bool) -> Iterator[Span]:
    # Rows are written in the order of seq, so what is below the last one that can be seen is complete.
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # nobody writes meanwhile
        query = "SELECT coalesce(max(last), 0) FROM exports WHERE target = ? AND kind = ?"
        first = connection.execute(query, (target.name, kind)).fetchone()[0] + 1
        last = connection.execute(f"SELECT coalesce(max(seq), 0) FROM {TABLES[kind]}").fetchone()[0]
        if not whole:
            query = f"SELECT min(seq) FROM {TABLES[kind]} WHERE seq >= ? AND time_s >= ? AND time_s < ?"
            hour_s = now_s // HOUR_S * HOUR_S
            opened = connection.execute(query, (first, hour_s, now_s + HOUR_S)).fetchone()[0]  # not of a wrong clock
            last = last if opened is None else opened - 1
        if last < first:
            return
        connection.execute("INSERT INTO exports VALUES (?, ?, ?, ?, 0)", (target.name, kind, first, last))
    yield Span(kind, first, last)


def _write(connection: sqlite3.Connection, target: Target, span: Span) -> Iterator[tuple[str, int]]:
    # Each part that was written with its rows.
    table = TABLES[span.kind]
    release = "''" if span.kind == LABELS else "model || '/' || version"
    query = f"SELECT DISTINCT {release}, CAST(time_s / {HOUR_S} AS INTEGER) FROM {table} WHERE seq BETWEEN ? AND ?"
    for place, hour in connection.execute(query, (span.first, span.last)).fetchall():
        when = time.strftime("%Y-%m-%d/%H", time.gmtime(hour * HOUR_S))
        folder = "/".join(part for part in (span.kind, place, when) if part)
        name = f"{folder}/part-{span.first:012}-{span.last:012}.parquet"
        with target.create(name) as file:
            if span.kind == ROWS:
                model, version = place.split("/")
                chosen = Selection(model, version, hour * HOUR_S, (hour + 1) * HOUR_S, span.first, span.last)
                rows = parquet.Table(connection, chosen).write(file)
            else:
                rows = _plain(connection, span, (place, hour), file)
        yield name, rows


def _plain(connection: sqlite3.Connection, span: Span, group: tuple[str, int], file: IO[bytes]) -> int:
    # Labels and answers of challengers, as they are on the log.
    columns = COLUMNS[span.kind]
    release = "''" if span.kind == LABELS else "model || '/' || version"
    query = f"""SELECT {columns} FROM {TABLES[span.kind]} WHERE seq >= ? AND seq <= ? AND {release} = ?
        AND CAST(time_s / {HOUR_S} AS INTEGER) = ? ORDER BY seq LIMIT {BATCH_ROWS}"""
    names = columns.split(", ")
    schema = pa.schema([(name, KINDS.get(name, pa.string())) for name in names])
    start, count = span.first, 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while rows := connection.execute(query, (start, span.last, *group)).fetchall():
            columns_of: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
            writer.write_table(pa.Table.from_pydict(columns_of, schema=schema))
            start, count = rows[-1][0] + 1, count + len(rows)
    return count


def _shown(url: str) -> str:
    # Without what may be secret.
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
