"""What a release takes and gives, as JSON Schema: as strict as the codecs are, so that it may be held against them."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from registry.release import InputSpec, Release
from serving.wire.request import LONGEST_ID
from serving.wire.v2_ask import DATATYPES

Schema = dict[str, Any]

ID: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST_ID}
SCALARS = ["string", "number", "boolean", "null"]
COUNT: Schema = {"type": "integer", "minimum": 0}


def record(properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    """Return the schema of an object with these fields and no other; `optional` ones may be left out."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def many(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    """Return the schema of a list of `items`."""
    return {"type": "array", "items": items, "minItems": least} | ({} if most is None else {"maxItems": most})


def rows(release: Release) -> Schema:
    """Return what `/v1/predict` takes: rows by place or, of a table, by column name, and an id for each if wanted."""
    spec = release.manifest.input
    forms = [many(_row(spec), 1)]
    if spec.columns:
        by_name = {column: _cell(spec, column) for column in spec.columns}
        forms.append(many(record(by_name, tuple(spec.fills)), 1))
    ids = many(ID, 1) | {"type": ["array", "null"], "uniqueItems": True, "description": "One per row; left out, made."}
    return record({"rows": {"oneOf": forms}, "ids": ids}, ("ids",))


def answer(release: Release) -> Schema:
    """Return what `/v1/predict` gives."""
    classes = release.manifest.classes
    one: Schema = {"id": {"type": "string"}}
    if classes:
        probabilities = many({"type": "number"}, len(classes), len(classes))
        one |= {"class": {"enum": list(classes)}, "probability": {"type": "number"}, "probabilities": probabilities}
    else:
        one |= {"prediction": {"type": "number"}}
    said = {"model": {"const": release.name}, "version": {"type": "string"}, "id": {"type": "string"}}
    return record(said | {"predictions": many(record(one), 1)})


def labels(release: Release) -> Schema:
    """Return what `/v1/labels` takes."""
    classes = release.manifest.classes
    number: Schema = {"type": "number"}
    label = {"enum": [*classes, *range(len(classes))]} if classes else number
    return record({"labels": many(record({"id": ID, "label": label}), 1)})


def infer(release: Release) -> Schema:
    """Return what the Open Inference Protocol's `infer` takes in JSON; what it does not know it leaves aside."""
    spec = release.manifest.input
    sizes = [{"type": "integer", "minimum": 1}, *({"const": size} for size in spec.shape)]
    free: Schema = {"type": ["object", "null"], "additionalProperties": {"type": SCALARS}}
    tensor = {
        "name": {"const": spec.name},
        "datatype": {"const": DATATYPES[spec.dtype]},
        "shape": {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
        "data": {"anyOf": [many(_tensor_cell(spec), 1), many({"type": "array"}, 1)], "description": "Flat, or by row."},
    }
    wanted = {"name": {"type": "string"}, "parameters": free}
    said = {
        "id": {"type": ["string", "null"], "maxLength": LONGEST_ID},
        "inputs": many(_open(tensor | {"parameters": free}, tuple(tensor)), 1, 1),
        "outputs": many(_open(wanted, ("name",))) | {"type": ["array", "null"]},
        "parameters": free,
    }
    return _open(said, ("inputs",))


def _open(properties: Schema, required: tuple[str, ...]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _tensor_cell(spec: InputSpec) -> Schema:
    number = _number(spec)
    return number | {"type": [number["type"], "null"]} if spec.fills else number


def _row(spec: InputSpec) -> Schema:
    if spec.columns:
        cells = [_cell(spec, column) for column in spec.columns]
        return {"type": "array", "prefixItems": cells, "minItems": len(cells), "maxItems": len(cells)}
    schema = _number(spec)
    for size in reversed(spec.shape):
        schema = many(schema, size, size)
    return schema


def _cell(spec: InputSpec, column: str) -> Schema:
    empty = column in spec.fills
    if column in spec.categories:
        spellings = [spelling for value in spec.categories[column] for spelling in _spellings(value)]
        return {"enum": [*spellings, *([None] if empty else [])]}
    number = _number(spec)
    return number | {"type": [number["type"], "null"]} if empty else number


def _spellings(value: str) -> Iterator[str | int]:
    yield value
    if value in ("False", "True"):  # as Python writes them
        yield value == "True"
    try:
        read = json.loads(value)
    except ValueError:
        return
    if type(read) in (bool, int) and json.dumps(read) == value:  # the code 404 may be sent as a number
        yield read


def _number(spec: InputSpec) -> Schema:
    dtype = np.dtype(spec.dtype)
    if dtype == np.float64:
        return {"type": "number"}
    if dtype.kind == "f":
        info = np.finfo(dtype)
        beyond = float(2**info.maxexp - 2 ** (info.maxexp - info.nmant - 2))  # the first that is rounded to infinity
        return {"type": "number", "exclusiveMinimum": -beyond, "exclusiveMaximum": beyond}
    limits = np.iinfo(dtype)
    return {"type": "integer", "minimum": int(limits.min), "maximum": int(limits.max)}
