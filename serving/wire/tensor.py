"""`/v1/predict` in binary: `application/octet-stream`, rows as they lie in memory, and `application/x-npy`.

Both are little-endian and in C order, in the model's dtype. A column of text holds the index of its value;
NaN stands for no value in a column that may be empty. The answer is the main output, float32.
"""

import re
from functools import lru_cache

import numpy as np

from registry.errors import RequestError
from registry.release import Release
from serving.http import Call, Reply
from serving.wire.request import Asked, Headers, Outputs, Part, Request, refuse
from serving.wire.rows import Layout, layout_of, settle, view

OCTETS = b"application/octet-stream"
NPY = b"application/x-npy"
MAGIC = b"\x93NUMPY"
SHAPE = b"shape %d"  # what is kept per number of rows
LONGEST_HEAD = 1024  # of an npy file; numpy writes 128 for any shape of fewer than six axes
_VALUE = rb"('[^'\\]{1,16}'|True|False|\((?:\d{1,18},\s?){0,32}\d{0,18}\))"
_PAIR = re.compile(rb"'(descr|fortran_order|shape)':\s*" + _VALUE)
_HEAD = re.compile(rb"\{\s*(?:'\w{5,13}':\s*" + _VALUE + rb",?\s*){3}\}\s*")
Shape = tuple[int, ...]


def decode_octets(call: Call, release: Release) -> Request:
    """Return the rows of a body that is nothing else; raises RequestError."""
    layout, size = layout_of(release), len(call.body)
    count, left = divmod(size, layout.row_bytes)
    if left or not count:
        why = f"must be whole rows of {layout.row_bytes} bytes ({layout.dtype} {layout.shape}), found {size} bytes"
        refuse("rows", None, why, "shape" if size else "missing")
    return Request(settle(view(call.body, 0, count, layout), layout))


def encode_octets(release: Release, request: Request, ident: str, outputs: dict[str, np.ndarray]) -> Reply:
    """Return the main output, with model, version, id and shape as headers; the lane adds the id."""
    layout = layout_of(release)
    main = outputs[release.manifest.output]
    return Reply(200, main.tobytes(), OCTETS, _headers(layout, main.shape))


def encode_joined(release: Release, asked: Asked, outputs: Outputs) -> list[Part]:
    """Return the answers to requests of as many rows each."""
    main = outputs[release.manifest.output]
    whole, headers = main.tobytes(), _headers(layout_of(release), (asked.sizes[0], *main.shape[1:]))
    size = len(whole) // len(asked.sizes)
    return [(headers, whole[start : start + size], OCTETS) for start in range(0, len(whole), size)]


def decode_npy(call: Call, release: Release) -> Request:
    """Return the rows of an npy file (version 1, 2 or 3); raises RequestError."""
    layout, body = layout_of(release), call.body
    start, descr, fortran, shape = _head(body[:LONGEST_HEAD])
    if descr != layout.dtype.str:
        cure = f"save rows.astype('{layout.dtype}')"
        refuse("rows", None, f"must be {layout.dtype} ({layout.dtype.str}), found {descr}; {cure}", "dtype")
    if fortran:
        refuse("rows", None, "must be in C order; save numpy.ascontiguousarray(rows)", "shape")
    if shape[1:] != layout.shape or not shape or not shape[0]:
        refuse("rows", None, f"must have the shape {_spelled(layout)} with n >= 1, found {shape}", "shape")
    needed = shape[0] * layout.row_bytes
    if len(body) - start != needed:
        refuse("rows", None, f"must be {needed} bytes for the shape {shape}, found {len(body) - start}", "shape")
    return Request(settle(view(body, start, shape[0], layout), layout))


def encode_npy(release: Release, request: Request, ident: str, outputs: dict[str, np.ndarray]) -> Reply:
    """Return the main output as an npy file, with model, version, id and shape as headers; the lane adds the id."""
    layout = layout_of(release)
    main = outputs[release.manifest.output]
    body = _npy_head(main.dtype.str, main.shape) + main.tobytes()
    return Reply(200, body, NPY, _headers(layout, main.shape))


def _headers(layout: Layout, shape: Shape) -> Headers:
    # The same object for the same shape: a lane need not write it out anew.
    said = SHAPE % shape[0]
    found: Headers | None = layout.kept.get(said)
    if found is None:
        spelled = b",".join([b"%d" % length for length in shape])
        found = (*layout.named, (b"vigil-shape", spelled))
        layout.keep(said, found)
    return found


def _spelled(layout: Layout) -> str:
    return f"({', '.join(['n', *map(str, layout.shape)])})"


def _head(body: bytes) -> tuple[int, str, bool, Shape]:
    # Where the numbers start, and what the head says of them.
    if len(body) < 12 or not body.startswith(MAGIC) or body[6] not in (1, 2, 3):
        raise RequestError("rows: not an npy file of version 1, 2 or 3", status=400, field="rows")
    before = 10 if body[6] == 1 else 12
    start = before + int.from_bytes(body[8:before], "little")
    if start > len(body):
        why = f"the head of the npy file ends after {len(body)} of {start} bytes; accepted are {LONGEST_HEAD}"
        raise RequestError(f"rows: {why}", status=400, field="rows")
    return start, *_said(body[before:start])


@lru_cache(256)  # a client that sends the same shape again sends the same head
def _said(head: bytes) -> tuple[str, bool, Shape]:
    # Read by a pattern: numpy's own reader evaluates the head as a Python literal.
    said = dict(_PAIR.findall(head))
    good = _HEAD.fullmatch(head) and len(said) == 3
    if not good or said[b"descr"][:1] != b"'" or said[b"shape"][:1] != b"(" or said[b"fortran_order"][:1] not in b"TF":
        raise RequestError(
            "rows: the head of the npy file is not {'descr': ..., 'fortran_order': ..., 'shape': ...} of plain numbers",
            status=400,
            field="rows",
        )
    shape = tuple(int(length) for length in re.findall(rb"\d+", said[b"shape"]))
    return said[b"descr"][1:-1].decode("latin-1"), said[b"fortran_order"] == b"True", shape


@lru_cache(256)
def _npy_head(descr: str, shape: Shape) -> bytes:
    said = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = -(-(len(MAGIC) + 4 + len(said) + 1) // 64) * 64  # padded, so that the numbers start at a multiple of 64
    said = said.ljust(length - len(MAGIC) - 5) + b"\n"
    return MAGIC + b"\x01\x00" + len(said).to_bytes(2, "little") + said
