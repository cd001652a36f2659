"""Releases without files, calls, and bodies in every encoding: what the tests of the wire share."""

import io
import json

import numpy as np
from tiny_release import DIGITS, HOMES, IMAGE, TABLE, make_draft

from registry.release import InputSpec, Manifest, Release
from serving.http import Call, Head

WIDE = InputSpec("float32", (64,))


def release_of(spec=WIDE, classes=DIGITS, **changed):
    draft = make_draft("tiny", spec, classes, **changed)
    return Release("tiny:20261124-110000-00000000", None, Manifest(**vars(draft)), "0" * 64)


RELEASES = {
    "wide": release_of(WIDE), "image": release_of(IMAGE), "table": release_of(TABLE, ("no", "yes"), threshold=0.2),
    "homes": release_of(HOMES, ()),
}  # fmt: skip
DATATYPES = {"float32": "FP32", "uint8": "UINT8"}


def call(body, content_type=b"application/json", path="/v1/predict", **headers):
    named = {key.replace("_", "-").encode(): value for key, value in headers.items()}
    return Call(Head("POST", path, b"", {b"content-type": content_type} | named), body)


def npy(rows, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, rows, version, allow_pickle=False)
    return file.getvalue()


def binary(rows, outputs=None, parameters=None, **changed):
    """Return the call of protocol v2 that sends rows as bytes."""
    tensor = {"name": "input", "datatype": DATATYPES.get(rows.dtype.name, "?"), "shape": rows.shape}
    tensor |= {"parameters": {"binary_data_size": rows.nbytes}} | changed.pop("tensor", {})
    said = {"inputs": [tensor], "parameters": parameters or {}} | changed
    if outputs is not None:
        said["outputs"] = outputs
    head = json.dumps(said).encode()
    length = b"%d" % len(head)
    return call(
        head + rows.tobytes(), b"application/octet-stream", "/v2/models/tiny/infer",
        inference_header_content_length=length,
    )  # fmt: skip


def spelled(rows, outputs=None, flat=False, **changed):
    """Return the call of protocol v2 that sends rows as JSON."""
    data = (rows.ravel() if flat else rows).tolist()
    tensor = {"name": "input", "datatype": DATATYPES[rows.dtype.name], "shape": rows.shape, "data": data}
    said = {"inputs": [tensor | changed.pop("tensor", {})]} | changed
    if outputs is not None:
        said["outputs"] = outputs
    return call(json.dumps(said).encode(), path="/v2/models/tiny/infer")


def calls_of(rows):
    """Return the same rows as a call in every encoding."""
    return {
        "json": call(json.dumps({"rows": rows.tolist()}).encode()),
        "octets": call(rows.tobytes(), b"application/octet-stream"),
        "npy": call(npy(rows), b"application/x-npy"),
        "v2 binary": binary(rows),
        "v2 json": spelled(rows),
        "v2 flat json": spelled(rows, flat=True),
    }
