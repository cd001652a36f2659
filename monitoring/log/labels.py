"""The truth that comes late: read from a file, written to the log, joined to the answers by id.

Labels may come early, twice, or corrected: the last one written for an id counts.
"""

import csv
import io
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from monitoring.judge import quality
from monitoring.judge.quality import Joined
from monitoring.log import logfile, recorder
from monitoring.log.logfile import Added
from registry import aliases, store
from registry.errors import AliasError, DataError
from registry.release import Manifest

__all__ = ["Added", "add", "add_file", "join", "read_file"]

COLUMNS = ("id", "label")


def read_file(path: Path) -> list[tuple[str, str]]:
    """Return the (id, label) pairs in a CSV file with a header, or in JSON lines.

    Raises DataError that names the file, the line and the column.
    """
    return [(ident, label) for _, ident, label in _lines(path)]


def add_file(log: Path, path: Path) -> Added:
    """Append the labels of a file; see `read_file` and `add`. What does not fit is named by its line."""
    lines = _lines(path)
    return add(log, [line[1:] for line in lines], [f"{path}:{line[0]}" for line in lines])


def add(log: Path, pairs: Sequence[tuple[str, str]], places: Sequence[str] = ()) -> Added:
    """Append labels to the log; they are committed when this returns.

    places: where each label stands, for a message. Raises DataError if the log cannot be written, or if a
    label is not one that the release which answered that row can have, or for a row that is not on the log (yet)
    no release of the models at hand, if all that ever served are; then none of them is on it.
    """
    try:
        connection = recorder.connect(log)
        try:
            known_as = logfile.known_as(connection, log)
            named = [(known_as(ident), label) for ident, label in pairs]
            checked, known = _checked(connection, named, places or [f"labels[{i}]" for i in range(len(pairs))])
            accepted = recorder.add_labels(connection, checked)
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        cure = "see that its disk has space, that it is a prediction log and that nothing locks it, then repeat"
        raise DataError(f"{log}: the labels were not written: {error}; {cure}") from error
    return Added(accepted, accepted - known)


def join(connection: sqlite3.Connection, model: str, since_s: float) -> list[Joined]:
    """Return every answer of `model` since a Unix time with the last label of its id, or None."""
    query = """
        SELECT p.version, p.predicted, l.label, l.time_s - p.time_s, length(p.probabilities) = 4
        FROM predictions p LEFT JOIN labels l ON l.seq = (SELECT max(seq) FROM labels WHERE id = p.id)
        WHERE p.model = ? AND p.time_s >= ? ORDER BY p.seq"""
    found = connection.execute(query, (model, since_s))  # one float32 is a regression; classes are two or more
    return [
        Joined(version, predicted, label, delay_s, bool(number)) for version, predicted, label, delay_s, number in found
    ]


def _checked(
    connection: sqlite3.Connection, pairs: Sequence[tuple[str, str]], places: Sequence[str]
) -> tuple[list[tuple[str, str]], int]:
    # The pairs as they are written, and how many are of a row on the log.
    manifests: dict[tuple[str, str] | None, list[Manifest]] = {}
    checked, known = [], 0
    for (ident, label), place in zip(pairs, places, strict=True):
        found = connection.execute("SELECT model, version FROM predictions WHERE id = ?", (ident,)).fetchone()
        known += found is not None
        if found not in manifests:
            one = quality.manifest_of(*found) if found else None
            manifests[found] = _at_hand(connection) if found is None else [one] if one else []
        checked.append((ident, _fitting(label, manifests[found], place)))
    return checked, known


def _at_hand(connection: sqlite3.Connection) -> list[Manifest]:
    # Of which a row may be that is not on the log: none where a model of the log or a version that was promoted is not
    # in the store any more, so nobody can tell.
    names, name = set[str](), ""
    while name := connection.execute("SELECT min(model) FROM predictions WHERE model > ?", (name,)).fetchone()[0]:
        names.add(name)
    found = {name: _manifests(name) for name in names}
    if not all(found.values()):
        return []
    found |= {name: _manifests(name) for name in aliases.models()}
    if not all(map(_all_kept, found)):
        return []
    return [manifest for manifests in found.values() for manifest in manifests]


def _manifests(model: str) -> list[Manifest]:
    folders = (folder for folder in sorted((store.models() / model).glob("*")) if folder.is_dir())
    found = (quality.manifest_of(model, folder.name) for folder in folders)
    return [manifest for manifest in found if manifest]


def _all_kept(model: str) -> bool:
    try:
        promoted = {change.to_version for change in aliases.read(model).history}
    except AliasError:  # nobody knows what was promoted
        return False
    return all((store.models() / model / version).is_dir() for version in promoted)


def _fitting(label: str, manifests: Sequence[Manifest], place: str) -> str:
    # The label as it is written, if one of the manifests allows it, or if there is none to tell.
    if not manifests or any(label in manifest.classes for manifest in manifests):
        return label
    value = quality.number(label)
    if value is not None and any(manifest.task == "regression" for manifest in manifests):
        return repr(value)
    raise DataError(f"{place}: label '{label}' {'; '.join(dict.fromkeys(map(_unlike, manifests)))}")


def _unlike(manifest: Manifest) -> str:
    if manifest.task == "regression":
        return f"is not a finite number, and {manifest.name} is a regression"
    listed = ", ".join(manifest.classes[:10]) + (", ..." if len(manifest.classes) > 10 else "")
    return f"is not a class; {manifest.name} has {listed}"


def _lines(path: Path) -> list[tuple[int, str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    reader = _json_lines if text.lstrip().startswith("{") else _csv
    lines = list(reader(path, text))
    if not lines:
        raise DataError(f"{path}: holds no labels; accepted are CSV with columns id,label or JSON lines with both")
    return lines


def _csv(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            found = ", ".join(reader.fieldnames or ()) or "none"
            raise DataError(f"{path}:1: column '{missing[0]}' is missing; found {found}; accepted are id,label")
        for row in reader:
            yield _pair(path, reader.line_num, row)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num + 1}: not valid CSV: {error}") from error


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines also cuts at U+2028, legal in JSON
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
        if not isinstance(said, dict):
            raise DataError(f"{path}:{number}: must be an object with id and label")
        yield _pair(path, number, said)


def _pair(path: Path, line: int, said: dict[str, object]) -> tuple[int, str, str]:
    for column in COLUMNS:
        if said.get(column) in (None, ""):
            raise DataError(f"{path}:{line}: '{column}' is missing or empty")
    return line, str(said["id"]), str(said["label"])
