"""Rows of a table in JSON: objects with column names, text for its index, null for a fill."""

import json
from typing import Any

from registry.release import InputSpec
from serving.wire.request import kind, refuse, shown, some


def by_place(given: list[Any], spec: InputSpec) -> list[Any]:
    """Return rows given as objects as lists in the order of the columns; null where an object has no field."""
    known = dict.fromkeys(spec.columns).keys()
    return [
        [row[column] for column in spec.columns]
        if isinstance(row, dict) and row.keys() == known
        else _by_column(row, i, spec)
        for i, row in enumerate(given)
    ]


def coded(given: list[Any], spec: InputSpec) -> list[Any]:
    """Return the rows with numbers for text and for null where the columns allow it; what is left is judged later."""
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


def _by_column(row: Any, index: int, spec: InputSpec) -> list[Any]:
    if not spec.columns:
        refuse("rows", index, f"must be a list of shape {spec.shape}: this model has no column names", "shape")
    if not isinstance(row, dict):
        refuse("rows", index, f"must be an object like row 0, found {kind(row)}", "shape")
    for column in row:
        if column not in spec.columns:
            why = f"unknown column '{column}'; this model has {some(spec.columns)}"
            refuse("rows", index, why, "unknown_column")
    missing = tuple(column for column in spec.columns if column not in row and column not in spec.fills)
    if missing:
        word = f"column '{missing[0]}' is" if len(missing) == 1 else f"columns {some(missing)} are"
        refuse("rows", index, f"{word} missing", "missing")
    return [row.get(column) for column in spec.columns]


def _code(value: Any, codes: dict[str, float], row: int, column: str) -> float:
    text = value
    if type(value) in (bool, int):  # a code such as 404 may be sent as a number, the text "true" as true
        text = json.dumps(value)
        if text not in codes:
            text = str(value)  # "True", as pandas writes it into a CSV file
    if not isinstance(text, str) or text not in codes:
        found = shown(value) if isinstance(value, str) else kind(value)
        refuse("rows", row, f"must be one of {some(codes)}, found {found}", "unknown_category", f"['{column}']")
    return codes[text]
