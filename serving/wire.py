"""Bytes <-> rows. What a request may hold is decided here, before any queue, by name of field and row."""

import json
import math
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import orjson

from registry.errors import RequestError
from registry.release import InputSpec, Release

LONGEST_ID = 128


@dataclass(frozen=True)
class Request:
    """rows: (n, *shape) in the model's dtype, all finite. ids: one per row."""

    rows: np.ndarray
    ids: list[str]


def decode_predict(body: bytes, spec: InputSpec) -> Request:
    """Return the rows of `{"rows": [...], "ids": [...]}`; `ids` may be left out.

    A row is a nested list of the model's shape, or an object with its column names. Raises
    RequestError that names the field and the row; nothing is reshaped, cast or guessed.
    """
    said = _object(_json(body), known=("rows", "ids"))
    given = said.get("rows")
    if not isinstance(given, list) or not given:
        _refuse("rows", None, f"must be a list of at least one row, found {_kind(given)}", "missing")
    if isinstance(given[0], dict):
        given = [_by_column(row, i, spec) for i, row in enumerate(given)]
    rows = _array(given, body, spec)
    return Request(rows, _ids(said.get("ids"), len(rows)))


def encode_predict(release: Release, ids: list[str], probabilities: np.ndarray) -> bytes:
    """Return the answer: model, version, and per row its id, class and probabilities (in class order)."""
    classes = release.manifest.classes
    best = probabilities.argmax(axis=1)
    predictions = [
        {"id": ident, "class": classes[k], "probability": row[k], "probabilities": row}
        for ident, k, row in zip(ids, best.tolist(), probabilities, strict=True)
    ]
    answer = {"model": release.name, "version": release.version, "predictions": predictions}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def decode_labels(body: bytes, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the (id, class) pairs of `{"labels": [{"id": ..., "label": ...}, ...]}`.

    A label is a class name, or the number of a class. Raises RequestError naming the label.
    """
    given = _object(_json(body), known=("labels",)).get("labels")
    if not isinstance(given, list) or not given:
        _refuse("labels", None, f"must be a list of at least one label, found {_kind(given)}", "missing")
    return [_label(label, i, classes) for i, label in enumerate(given)]


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        try:  # NaN and Infinity are not JSON, but many clients send them: read on to say in which row
            return json.loads(body)
        except (ValueError, RecursionError):
            raise RequestError(f"body: not valid JSON: {error}", status=400) from error


def _object(said: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise RequestError(f"body: must be an object with {', '.join(known)}, found {_kind(said)}")
    for key in said:
        if key not in known:
            raise RequestError(f"body: unknown field '{key}'; known: {', '.join(known)}", field=key)
    return said


def _by_column(row: Any, index: int, spec: InputSpec) -> list[Any]:
    if not spec.columns:
        _refuse("rows", index, f"must be a list of shape {spec.shape}: this model has no column names", "shape")
    if not isinstance(row, dict):
        _refuse("rows", index, f"must be an object like row 0, found {_kind(row)}", "shape")
    for column in row:
        if column not in spec.columns:
            _refuse(
                "rows",
                index,
                f"unknown column '{column}'; this model has {_some(spec.columns)}",
                "unknown_column",
            )
    for column in spec.columns:
        if column not in row:
            _refuse("rows", index, f"column '{column}' is missing", "missing")
    return [row[column] for column in spec.columns]


def _array(given: list[Any], body: bytes, spec: InputSpec) -> np.ndarray:
    try:
        values = np.array(given)
    except (ValueError, OverflowError):  # ragged rows, or an int beyond 64 bits
        values = np.array(None)
    # numpy counts true as 1: only a body that says true or false can hold one, so only that is searched
    suspect = values.dtype.kind not in "iuf" or b"true" in body or b"false" in body
    if suspect or values.shape[1:] != spec.shape:
        for i, row in enumerate(given):
            _check(row, spec.shape, i, "")
    return _cast(values, spec)


def _check(value: Any, shape: tuple[int, ...], row: int, place: str) -> None:
    if not shape:
        if isinstance(value, bool) or not isinstance(value, int | float):
            _refuse("rows", row, f"must be a number, found {_kind(value)}", "dtype", place)
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            _refuse("rows", row, "is out of range", "range", place)
        return
    if not isinstance(value, list):
        _refuse("rows", row, f"must be a list of {shape[0]}, found {_kind(value)}", "shape", place)
    if len(value) != shape[0]:
        _refuse("rows", row, f"must hold {shape[0]} values, found {len(value)}", "shape", place)
    for i, inner in enumerate(value):
        _check(inner, shape[1:], row, f"{place}[{i}]")


def _cast(values: np.ndarray, spec: InputSpec) -> np.ndarray:
    if spec.dtype == "uint8":
        wrong = ~((values >= 0) & (values <= 255) & (values == np.floor(values)))
        limits, reason = "a whole number from 0 to 255", "range"
    else:
        with np.errstate(over="ignore"):
            values = values.astype(spec.dtype)
        wrong = ~np.isfinite(values)
        limits, reason = f"a finite {spec.dtype}", "non_finite"
    if wrong.any():
        row, *rest = np.argwhere(wrong)[0].tolist()
        found = values[(row, *rest)]
        reason = reason if np.isfinite(found) else "non_finite"
        name = f"['{spec.columns[rest[0]]}']" if spec.columns else "".join(f"[{i}]" for i in rest)
        _refuse("rows", row, f"must be {limits}, found {found}", reason, name)
    return values.astype(spec.dtype, copy=False)


def _ids(given: Any, rows: int) -> list[str]:
    if given is None:
        request = uuid.uuid4().hex
        return [f"{request}-{i}" for i in range(rows)]
    if not isinstance(given, list) or len(given) != rows:
        _refuse("ids", None, f"must be a list of {rows} strings, one per row", "malformed")
    for i, ident in enumerate(given):
        if not isinstance(ident, str) or not 0 < len(ident) <= LONGEST_ID:
            _refuse(
                "ids",
                i,
                f"must be a string of 1 to {LONGEST_ID} characters, found {_kind(ident)}",
                "malformed",
            )
    if len(set(given)) != rows:
        _refuse("ids", None, "must differ from each other: labels are joined by id", "malformed")
    return given


def _label(label: Any, index: int, classes: tuple[str, ...]) -> tuple[str, str]:
    if not isinstance(label, dict) or label.keys() != {"id", "label"}:
        _refuse("labels", index, f"must be an object with id and label, found {_kind(label)}", "malformed")
    ident, said = label["id"], label["label"]
    if not isinstance(ident, str) or not 0 < len(ident) <= LONGEST_ID:
        _refuse("labels", index, f"id must be a string of 1 to {LONGEST_ID} characters", "malformed")
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < len(classes):
        return ident, classes[said]
    if not isinstance(said, str) or said not in classes:
        _refuse(
            "labels",
            index,
            f"label {_shown(said)} is not a class; this model has {_some(classes)}",
            "malformed",
        )
    return ident, said


def _refuse(field: str, row: int | None, why: str, reason: str, place: str = "") -> NoReturn:
    where = field if row is None else f"{field}[{row}]{place}"
    raise RequestError(f"{where}: {why}", reason=reason, field=field, **({} if row is None else {"row": row}))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    names: dict[type, str] = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), f"the number {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _some(known: Iterable[str]) -> str:
    listed = list(known)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")
