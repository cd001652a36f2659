"""Bytes <-> rows. What a request may hold is decided here, before any queue, by name of field and row."""

from serving.wire.codecs import Codec, codec_of
from serving.wire.describe import describe
from serving.wire.labels import decode_labels
from serving.wire.request import Asked, Headers, Part, Request, ids_of, wanted
from serving.wire.rows import demand_finite

__all__ = [
    "Asked", "Codec", "Headers", "Part", "Request", "codec_of", "decode_labels", "demand_finite", "describe", "ids_of",
    "wanted",
]  # fmt: skip
