"""`/v1/predict` in JSON: rows as nested lists or as objects with column names."""

from functools import partial
from typing import Any

import numpy as np
import orjson

from registry.release import Release
from serving.http import JSON, Call, Reply
from serving.wire import columns
from serving.wire.numbers import array_of, is_suspect
from serving.wire.request import LONGEST_ID, Asked, Outputs, Part, Request, kind, refuse
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
    texts, decided = _rows(release, outputs)
    return Reply(200, _body(layout_of(release), _names(request, ident, len(texts)), texts, decided))


def encode_all(release: Release, asked: Asked, outputs: Outputs) -> list[Part]:
    """Return the answers to several requests, whose rows lie one after the other in `outputs`."""
    parts: list[Part] = []
    layout, at = layout_of(release), 0
    texts, decided = _rows(release, outputs)
    for request, ident, size in zip(*asked, strict=True):
        here = slice(at, at + size)
        body = _body(layout, _names(request, ident, size), texts[here], decided[here])
        parts.append(((), body, JSON))
        at += size
    return parts


def _rows(release: Release, outputs: dict[str, np.ndarray]) -> tuple[list[bytes], list[int]]:
    # The numbers of each row as text, and its class, of which a regression has none.
    manifest = release.manifest
    main = outputs[manifest.output]
    texts = orjson.dumps(main, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
    return texts, manifest.decide(main).tolist() if manifest.classes else []


def _names(request: Request, ident: str, rows: int) -> list[bytes]:
    # The id of the request and of each row, in JSON.
    name = orjson.dumps(ident)
    if request.ids is None:
        return [name, *[b'%b-%d"' % (name[:-1], i) for i in range(rows)]]
    return [name, *map(orjson.dumps, request.ids)]


def _body(layout: Layout, names: list[bytes], texts: list[bytes], decided: list[int]) -> bytes:
    # As text, because the numbers are a text already and objects would cost a third more than they.
    parts, said = [layout.opening, names[0], b',"predictions":[{"id":'], layout.said
    if said:
        for one, k, text in zip(names[1:], decided, texts, strict=True):
            parts += one, said[k], text.split(b",", k + 1)[k], b',"probabilities":[', text, b']},{"id":'
        parts[-1] = b"]}]}"
    else:
        for one, text in zip(names[1:], texts, strict=True):
            parts += one, b',"prediction":', text, b'},{"id":'
        parts[-1] = b"}]}"
    return b"".join(parts)


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
        found = f"{len(given)} of them" if isinstance(given, list) and given else kind(given)
        refuse("ids", None, f"must be a list of {rows} strings, one per row, found {found}", "malformed")
    for i, one in enumerate(given):
        if not isinstance(one, str) or not 0 < len(one) <= LONGEST_ID:
            why = f"must be a string of 1 to {LONGEST_ID} characters, found {kind(one)}"
            refuse("ids", i, why, "malformed")
    if len(set(given)) != rows:
        refuse("ids", None, "must differ from each other: labels are joined by id", "malformed")
    return given
