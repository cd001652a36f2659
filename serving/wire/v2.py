"""Open Inference Protocol v2 over HTTP, the infer call: JSON tensors, and the binary tensor extension.

One input tensor, named as in the graph, [n, *shape]. A column of text holds the index of its value; NaN (null in
JSON) stands for no value in a column that may be empty. A classifier also has the output `class`, the name of
what was decided, as BYTES.
"""

from functools import partial
from typing import Any

import numpy as np
import orjson

from registry.errors import RequestError
from registry.release import Release
from serving.http import Call, Reply
from serving.wire.numbers import is_suspect
from serving.wire.request import LONGEST_ID, Asked, Outputs, Part, Request, one_by_one, refuse, shown
from serving.wire.rows import Layout, demand_finite, layout_of, settle, view
from serving.wire.tensor import OCTETS
from serving.wire.text import read
from serving.wire.v2_ask import CLASS, DATATYPES, Ask, Form, ask_of, rows_of

LENGTH = b"inference-header-content-length"
LONGEST_KEPT = 8192  # bytes of the head of a binary request whose parse is remembered
_LEADING_ID = (b'{"id":"', b'{"id": "')


def decode(call: Call, release: Release) -> Request:
    """Return what an infer call asks; raises RequestError.

    Unknown parameters are left aside, as the protocol says; a tensor of another name, datatype or shape is refused.
    """
    length = call.head.headers.get(LENGTH)
    if length is None:
        return read(call.body, partial(_from_json, call.body, release))
    return _from_binary(call.body, _length(length, call.body), release)


def encode(release: Release, request: Request, ident: str, outputs: dict[str, np.ndarray]) -> Reply:
    """Return the tensors that were asked for, each as numbers in the JSON or as bytes after it."""
    form = request.form if isinstance(request.form, Form) else Form()
    main, names = release.manifest.output, form.names
    if names is None:
        names = (*outputs, CLASS) if release.manifest.classes else tuple(outputs)
    for name in names:
        if name not in (main, CLASS) and outputs[name].dtype.kind == "f":
            demand_finite(outputs[name])
    if CLASS not in names and all(map(form.is_binary, names)):
        return _repeated(release, ident, form, {name: outputs[name] for name in names})
    listed, raw = [], []
    for name in names:
        tensor = _classes(release, outputs[main]) if name == CLASS else outputs[name]
        said, content = _tensor(name, tensor, form.is_binary(name))
        listed.append(said)
        raw.append(content)
    head = _head(release, ident, listed)
    if not any(map(form.is_binary, names)):
        return Reply(200, head)
    return _binary(head, raw)


def encode_all(release: Release, asked: Asked, outputs: Outputs) -> list[Part]:
    """Return the answers to several requests, whose rows lie one after the other in `outputs`."""
    main, form = release.manifest.output, asked.requests[0].form
    same = isinstance(form, Form) and all(request.form is form for request in asked.requests)
    if not (isinstance(form, Form) and same and form.names == (main,) and form.is_binary(main)):
        return one_by_one(encode, release, asked, outputs)
    parts: list[Part] = []
    tensor, whole, at = outputs[main], outputs[main].tobytes(), 0
    row_bytes = len(whole) // len(tensor)
    for ident, size in zip(asked.idents, asked.sizes, strict=True):
        before, after = _parts(release, form, {main: tensor[:size]}, size)
        name, end = orjson.dumps(ident), at + size * row_bytes
        length = len(before) + len(name) + len(after)
        parts.append((((LENGTH, b"%d" % length),), b"".join((before, name, after, whole[at:end])), OCTETS))
        at = end
    return parts


def _from_json(body: bytes, release: Release, said: Any, loose: bool) -> Request:
    ask = ask_of(said, body, release, binary=False)
    rows = rows_of(ask, is_suspect(body, loose), layout_of(release))
    return Request(rows, None, ask.ident, ask.outputs, ask.form)


def _from_binary(body: bytes, length: int, release: Release) -> Request:
    layout, left = layout_of(release), len(body) - length
    if length:
        ask, ident = _asked(body[:length], release, layout)
    else:  # the body is the one tensor
        count = left // layout.row_bytes
        ask, ident = Ask(count, count * layout.row_bytes, form=Form(binary=True)), None
    if left != ask.size_bytes or ask.size_bytes != ask.rows * layout.row_bytes or not left:
        why = f"must be whole rows of {layout.row_bytes} bytes ({layout.dtype} {layout.shape}), as many as its shape"
        refuse(layout.spec.name, None, f"{why} and binary_data_size say, found {left} bytes", "shape")
    rows = settle(view(body, length, ask.rows, layout), layout, layout.spec.name)
    return Request(rows, None, ident, ask.outputs, ask.form)


def _length(said: bytes, body: bytes) -> int:
    if not (said.isdigit() and len(said) <= 10 and int(said) <= len(body)):
        why = f"must be a number of bytes up to the {len(body)} of the body, found {shown(said.decode('latin-1'))}"
        raise RequestError(f"Inference-Header-Content-Length: {why}", status=400)
    return int(said)


def _asked(head: bytes, release: Release, layout: Layout) -> tuple[Ask, str | None]:
    # A client repeats its head but for the id, which most write first: what follows is read once.
    ident, rest = _leading_id(head)
    ask: Ask | None = layout.kept.get(rest)
    if ask is None:
        ask = read(head, partial(_ask, head, release))
        if len(rest) <= LONGEST_KEPT:
            layout.keep(rest, ask)
    return ask, ask.ident if ident is None else ident


def _ask(head: bytes, release: Release, said: Any, _: bool) -> Ask:
    return ask_of(said, head, release, binary=True)


def _leading_id(head: bytes) -> tuple[str | None, bytes]:
    # The plain id that a head begins with, and what is left of the head; None and all of it for any other.
    for start in _LEADING_ID:
        if head.startswith(start):
            end = head.find(b'"', len(start))
            given = head[len(start) : end]
            if 0 < len(given) <= LONGEST_ID and given.isascii() and b"\\" not in given:
                ident = given.decode()
                if ident.isprintable():
                    return ident, head[end:]
    return None, head


def _classes(release: Release, main: np.ndarray) -> list[str]:
    return [release.manifest.classes[k] for k in release.manifest.decide(main).tolist()]


def _tensor(name: str, tensor: np.ndarray | list[str], binary: bool) -> tuple[dict[str, Any], bytes]:
    said: dict[str, Any] = {"name": name}
    content = b""
    if isinstance(tensor, list):
        said |= {"datatype": "BYTES", "shape": [len(tensor)]}
        if binary:
            content = b"".join([len(one).to_bytes(4, "little") + one for one in map(str.encode, tensor)])
    else:
        said |= {"datatype": DATATYPES[tensor.dtype.name], "shape": tensor.shape}
        if binary:
            content = tensor.tobytes()
    if binary:
        return said | {"parameters": {"binary_data_size": len(content)}}, content
    return said | {"data": tensor if isinstance(tensor, list) else tensor.ravel()}, content


def _head(release: Release, ident: str, listed: list[dict[str, Any]]) -> bytes:
    answer = {"model_name": release.name, "model_version": release.version, "id": ident, "outputs": listed}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _repeated(release: Release, ident: str, form: Form, outputs: dict[str, np.ndarray]) -> Reply:
    # All binary and no text: for as many rows the head is the same but for the id, and is kept with the form.
    raw = [tensor.tobytes() for tensor in outputs.values()]
    before, after = _parts(release, form, outputs, len(next(iter(outputs.values()))))
    return _binary(before + orjson.dumps(ident) + after, raw)


def _parts(release: Release, form: Form, outputs: dict[str, np.ndarray], rows: int) -> tuple[bytes, bytes]:
    # What comes before and after the id in the head of an answer of so many rows.
    parts = form.heads.get(rows)
    if parts is None:
        head = _head(release, "", [_tensor(name, tensor, True)[0] for name, tensor in outputs.items()])
        before, _, after = head.partition(b'"id":""')
        parts = form.heads[rows] = before + b'"id":', after
    return parts


def _binary(head: bytes, raw: list[bytes]) -> Reply:
    return Reply(200, b"".join((head, *raw)), OCTETS, ((LENGTH, b"%d" % len(head)),))
