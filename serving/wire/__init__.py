"""Bytes <-> rows. What a request may hold is decided here, before any queue, by name of field and row."""

import uuid

import numpy as np

from registry.release import InputSpec, Release
from serving.wire import json_rows
from serving.wire.codecs import Codec, codec_of
from serving.wire.describe import describe
from serving.wire.labels import decode_labels
from serving.wire.request import Request, ids_of, wanted
from serving.wire.rows import Layout, demand_finite

__all__ = [
    "Codec", "Request", "codec_of", "decode_labels", "decode_predict", "demand_finite", "describe", "encode_predict",
    "ids_of", "wanted",
]  # fmt: skip


def decode_predict(body: bytes, spec: InputSpec) -> Request:
    """Return the rows of a JSON body, each with an id; see `json_rows.decode`."""
    request = json_rows.decode_body(body, Layout(spec))
    request.ids = ids_of(request, uuid.uuid4().hex)
    return request


def encode_predict(release: Release, ids: list[str], outputs: np.ndarray) -> bytes:
    """Return the answer as JSON; see `json_rows.encode`."""
    return json_rows.encode(release, Request(outputs, ids), ids[0], {release.manifest.output: outputs}).body
