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

    A row is a nested list of the model's shape, or an object with its column names. A column of text takes
    one of its values, a code also as a whole number; null, or in an object no field at all, takes the fill
    of a column that has one. Raises RequestError that names the field and the row; nothing is reshaped,
    cast or guessed.
    """
    said = _object(_json(body), known=("rows", "ids"))
    given = said.get("rows")
    if not isinstance(given, list) or not given:
        _refuse("rows", None, f"must be a list of at least one row, found {_kind(given)}", "missing")
    if isinstance(given[0], dict):
        known = dict.fromkeys(spec.columns).keys()
        given = [
            [row[column] for column in spec.columns]
            if isinstance(row, dict) and row.keys() == known
            else _by_column(row, i, spec)
            for i, row in enumerate(given)
        ]
    if spec.categories or spec.fills:
        given = _coded(given, spec)
    rows = _array(given, body, spec)
    return Request(rows, _ids(said.get("ids"), len(rows)))


def encode_predict(release: Release, ids: list[str], outputs: np.ndarray) -> bytes:
    """Return the answer: model, version, and per row its id, class and probabilities (in class order).

    outputs: float32 (n, classes); or (n, 1) of a regression, whose rows say id and prediction.
    """
    classes = release.manifest.classes
    predictions: list[dict[str, Any]]
    if classes:
        decided = release.manifest.decide(outputs).tolist()
        predictions = [
            {"id": ident, "class": classes[k], "probability": row[k], "probabilities": row}
            for ident, k, row in zip(ids, decided, outputs, strict=True)
        ]
    else:
        predictions = [{"id": ident, "prediction": row[0]} for ident, row in zip(ids, outputs, strict=True)]
    answer = {"model": release.name, "version": release.version, "predictions": predictions}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def demand_finite(outputs: np.ndarray) -> None:
    """Raise RequestError naming the first row whose answer, in outputs (n, outputs), is not finite."""
    wrong = ~np.isfinite(outputs).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        _refuse("rows", row, "holds numbers so extreme that the model's answer is not finite", "no_answer")


def describe(release: Release) -> bytes:
    """Return what a client must send to `release`, and what it gets."""
    manifest, spec = release.manifest, release.manifest.input
    row = {
        "dtype": spec.dtype, "shape": spec.shape, "columns": spec.columns, "categories": spec.categories,
        "fills": {
            column: spec.categories[column][int(fill)] if column in spec.categories else np.float32(fill)
            for column, fill in spec.fills.items()
        },
    }  # fmt: skip
    said = {
        "model": release.name, "version": release.version, "task": manifest.task, "row": row,
        "classes": manifest.classes, "threshold": manifest.threshold, "tolerance": manifest.quality.get("tolerance"),
    }  # fmt: skip
    return orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)


def decode_labels(body: bytes, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the (id, label) pairs of `{"labels": [{"id": ..., "label": ...}, ...]}` as text.

    A label is a class name, or the number of a class; in a regression (no classes) a finite number.
    Raises RequestError naming the label.
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
        if column not in row and column not in spec.fills:
            _refuse("rows", index, f"column '{column}' is missing", "missing")
    return [row.get(column) for column in spec.columns]


def _coded(given: list[Any], spec: InputSpec) -> list[Any]:
    # The rows with numbers for text and for null where the columns allow it; what is left is judged after this.
    special = [
        (i, column, spec.codes.get(column), spec.fills.get(column))
        for i, column in enumerate(spec.columns)
        if column in spec.categories or column in spec.fills
    ]
    for index, row in enumerate(given):
        if isinstance(row, list) and len(row) == len(spec.columns):
            for i, column, codes, fill in special:
                if row[i] is None and fill is not None:
                    row[i] = fill
                elif codes is not None:
                    row[i] = _code(row[i], codes, index, column)
    return given


def _code(value: Any, codes: dict[str, float], row: int, column: str) -> float:
    text = value
    if type(value) in (bool, int):  # a code such as 404 may be sent as a number, the text "true" as true
        text = json.dumps(value)
    if not isinstance(text, str) or text not in codes:
        found = _shown(value) if isinstance(value, str) else _kind(value)
        _refuse("rows", row, f"must be one of {_some(codes)}, found {found}", "unknown_category", f"['{column}']")
    return codes[text]


def _array(given: list[Any], body: bytes, spec: InputSpec) -> np.ndarray:
    try:
        values = np.array(given)
    except (ValueError, OverflowError):  # ragged rows, or an int beyond 64 bits
        values = np.array(None)
    # numpy counts true as 1: only a body that says true or false can hold one, so only that is searched
    suspect = values.dtype.kind not in "iuf" or b"true" in body or b"false" in body
    if suspect or values.shape[1:] != spec.shape:
        for i, row in enumerate(given):
            _check(row, spec.shape, i, "", spec.columns)
    return _cast(values, spec)


def _check(value: Any, shape: tuple[int, ...], row: int, place: str, columns: tuple[str, ...] = ()) -> None:
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
        _check(inner, shape[1:], row, f"['{columns[i]}']" if columns else f"{place}[{i}]")


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
    if not classes:
        return ident, _number(said, index)
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


def _number(said: Any, index: int) -> str:
    try:
        number = math.nan if isinstance(said, bool) or not isinstance(said, int | float) else float(said)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        _refuse("labels", index, f"label must be a finite number, found {_kind(said)}", "malformed")
    return repr(number)


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
