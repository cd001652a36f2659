"""JSON as it is read here: strict where the standard is, and no key twice in an object."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import orjson

from registry.errors import RequestError
from serving.wire.request import kind, malformed, shown

COLON = ord(":")
MOST_FOUND = 8
Read = TypeVar("Read")


def read(body: bytes, use: Callable[[Any, bool], Read]) -> Read:
    """Return what `use` makes of the JSON value in `body`; raises RequestError 400 if it is none.

    `use` is also told whether the text is loose, no JSON but for NaN and Infinity; what it then makes is dropped,
    but it can say in which row they are.
    """
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        use(_loose(body, error), True)
        raise malformed(f"not valid JSON: {error}") from error
    return use(said, False)


def known_object(said: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """Return `said` when it is an object that has no other fields than the known."""
    if not isinstance(said, dict):
        raise RequestError(f"body: must be an object with {', '.join(known)}, found {kind(said)}")
    for key in said:
        if key not in known:
            raise RequestError(f"body: unknown field '{key}'; known: {', '.join(known)}", field=key)
    return said


def demand_unique(body: bytes, pairs: int) -> None:
    """Raise RequestError 400 if an object in `body`, a JSON text, has a key twice; pairs: those that were read.

    Each pair has a colon, and only pairs and texts have one: with no more colons than pairs none was lost. Fewer
    pairs than there are only make this slower.
    """
    if not _has_more_colons(body, pairs):
        return
    try:
        json.loads(body, object_pairs_hook=_unique)
    except RecursionError:
        raise malformed("nested too deeply") from None
    except ValueError as error:  # such as an integer of thousands of digits
        raise malformed(f"not valid JSON: {error}") from error


def pairs_in(said: Any, depth: int = 8) -> int:
    """Return how many pairs of key and value the objects in a JSON value have, down to `depth`."""
    if isinstance(said, dict):
        return len(said) + sum(pairs_in(value, depth - 1) for value in said.values()) if depth else 0
    if isinstance(said, list) and said and isinstance(said[0], dict):  # a list of numbers is long and has none
        return sum(pairs_in(value, depth - 1) for value in said) if depth else 0
    return 0


def _has_more_colons(body: bytes, count: int) -> bool:
    if count > MOST_FOUND:
        return body.count(b":") > count
    at = body.find(COLON)  # a few are found three times faster than all are counted
    while at >= 0 and count:
        at, count = body.find(COLON, at + 1), count - 1
    return at >= 0


def _unique(pairs: list[tuple[str, Any]]) -> None:
    keys = set()
    for key, _ in pairs:
        if key in keys:
            raise RequestError(f"body: the field {shown(key)} is given twice", status=400, field=key)
        keys.add(key)


def _loose(body: bytes, error: orjson.JSONDecodeError) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise malformed(f"not valid JSON: {error}") from error
