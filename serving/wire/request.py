"""What every codec makes of a request, and how it refuses one: by field and row."""

import math
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np

from registry.errors import RequestError
from registry.release import Release
from serving.http import Reply

LONGEST_ID = 128
EVERY = ("*",)  # as `Request.outputs`: all that the graph gives
Headers = tuple[tuple[bytes, bytes], ...]
Part = tuple[Headers, bytes, bytes]  # an answer with status 200: headers, body, content type


@dataclass(slots=True)
class Request:
    """What a client asks.

    rows: (n, *shape) in the model's dtype, C-contiguous, all finite; it may be read-only.
    ids: one per row, from the client; None stands for `<ident>-<i>`. ident: of the request, from its body.
    outputs: those of the graph that are asked for, see `wanted`; () is the main one alone.
    form: what `encode` needs to know.
    """

    rows: np.ndarray
    ids: list[str] | None = None
    ident: str | None = None
    outputs: tuple[str, ...] = ()
    form: object = None


class Asked(NamedTuple):
    """Several requests whose rows lie one after the other.

    requests: each of them; or one alone that has the rows of all, where they differ in nothing else. idents, sizes:
    what each goes by, and its rows.
    """

    requests: list[Request]
    idents: list[str]
    sizes: list[int]


Outputs = dict[str, np.ndarray]
Encode = Callable[[Release, Request, str, Outputs], Reply]


def one_by_one(encode: Encode, release: Release, asked: Asked, outputs: Outputs) -> list[Part]:
    """Return the answers to several requests, each written with `encode`."""
    parts: list[Part] = []
    at = 0
    for request, ident, size in zip(*asked, strict=True):
        here = slice(at, at + size)
        reply = encode(release, request, ident, {name: output[here] for name, output in outputs.items()})
        parts.append((reply.headers, reply.body, reply.content_type))
        at += size
    return parts


def ids_of(request: Request, ident: str) -> list[str]:
    """Return the id of each row of a request that goes by `ident`."""
    return request.ids if request.ids is not None else [f"{ident}-{i}" for i in range(len(request.rows))]


def wanted(request: Request, known: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the outputs to run for `request`, of those the graph has; () is the main one alone.

    Raises RequestError 400 if it asks for one that is not there.
    """
    if request.outputs == EVERY:
        return tuple(known)
    for name in request.outputs:
        if name not in known:
            why = f"outputs: the model has no output {shown(name)}; it has {some(known)}"
            raise RequestError(why, status=400, field="outputs")
    return request.outputs


def refuse(field: str, row: int | None, why: str, reason: str, place: str = "") -> NoReturn:
    """Raise RequestError that names the field, the row if there is one, and the place in it."""
    where = field if row is None else f"{field}[{row}]{place}"
    raise RequestError(f"{where}: {why}", reason=reason, field=field, **({} if row is None else {"row": row}))


def malformed(why: str) -> RequestError:
    """Return the error of a body that cannot be read at all."""
    return RequestError(f"body: {why}", status=400)


def kind(value: Any) -> str:
    """Return what a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value == []:
        return "an empty list"
    names: dict[type, str] = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value)) or f"the number {shown(value)}"


def shown(value: Any) -> str:
    """Return a JSON value as text of at most 40 characters, however large and deep it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxstring, _SHORT.maxlong = 2, 10, 60, 60


def some(known: Iterable[str]) -> str:
    """Return the first ten names, and how many more there are."""
    listed = list(known)
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")
