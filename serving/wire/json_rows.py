"""`/v1/predict` in JSON: rows as nested lists or as objects with column names."""

from functools import partial
from typing import Any

import numpy as np
import orjson

from registry.release import Release
from serving.http import Call, Reply
from serving.wire import columns
from serving.wire.numbers import array_of, is_suspect
from serving.wire.request import LONGEST_ID, Request, ids_of, kind, refuse
from serving.wire.rows import Layout, layout_of
from serving.wire.text import demand_unique, known_object, read


def decode(call: Call, release: Release) -> Request:
    """Return the rows of `{"rows": [...], "ids": [...]}`; `ids` may be left out.

    A row is a nested list of the model's shape, or an object with its column names. A column of text takes
    one of its values, a code also as a whole number; null, or in an object no field at all, takes the fill
    of a column that has one. Raises RequestError that names the field and the row; nothing is reshaped,
    cast or guessed.
    """
    return decode_body(call.body, layout_of(release))


def encode(release: Release, request: Request, ident: str, outputs: dict[str, np.ndarray]) -> Reply:
    """Return the answer: model, version, id, and per row its id, class and probabilities (in class order).

    The main output is float32 (n, classes); or (n, 1) in a regression, whose rows say id and prediction.
    """
    manifest, main = release.manifest, outputs[release.manifest.output]
    classes, ids = manifest.classes, ids_of(request, ident)
    predictions: list[dict[str, Any]]
    if classes:
        decided = manifest.decide(main).tolist()
        predictions = [
            {"id": one, "class": classes[k], "probability": row[k], "probabilities": row}
            for one, k, row in zip(ids, decided, main, strict=True)
        ]
    else:
        predictions = [{"id": one, "prediction": row[0]} for one, row in zip(ids, main, strict=True)]
    rows = orjson.dumps(predictions, option=orjson.OPT_SERIALIZE_NUMPY)
    return Reply(200, b'%b%b,"predictions":%b}' % (layout_of(release).opening, orjson.dumps(ident), rows))


def decode_body(body: bytes, layout: Layout) -> Request:
    """Return the request in a JSON text; see `decode`."""
    return read(body, partial(_request, body, layout))


def _request(body: bytes, layout: Layout, said: Any, loose: bool) -> Request:
    spec = layout.spec
    given = known_object(said, known=("rows", "ids")).get("rows")
    if not isinstance(given, list) or not given:
        refuse("rows", None, f"must be a list of at least one row, found {kind(given)}", "missing")
    pairs = len(said)
    if isinstance(given[0], dict):
        pairs += sum(map(len, given)) if spec.columns and all(isinstance(row, dict) for row in given) else 0
        given = columns.by_place(given, spec)
    demand_unique(body, pairs)
    if spec.categories or spec.fills:
        given = columns.coded(given, spec)
    rows = array_of(given, is_suspect(body, loose), layout)
    return Request(rows, _ids(said.get("ids"), len(rows)))


def _ids(given: Any, rows: int) -> list[str] | None:
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != rows:
        refuse("ids", None, f"must be a list of {rows} strings, one per row", "malformed")
    for i, one in enumerate(given):
        if not isinstance(one, str) or not 0 < len(one) <= LONGEST_ID:
            why = f"must be a string of 1 to {LONGEST_ID} characters, found {kind(one)}"
            refuse("ids", i, why, "malformed")
    if len(set(given)) != rows:
        refuse("ids", None, "must differ from each other: labels are joined by id", "malformed")
    return given
