"""Which codec reads a request and which writes its answer: by path, Content-Type and Accept."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from registry.errors import RequestError
from registry.release import Release
from serving.http import JSON, Call, Head
from serving.wire import json_rows, tensor, v2
from serving.wire.request import Asked, Encode, Outputs, Part, Request, one_by_one

Decode = Callable[[Call, Release], Request]
EncodeAll = Callable[[Release, Asked, Outputs], list[Part]]


@dataclass(frozen=True, slots=True)
class Codec:
    """How a request is read and its answer written.

    name: of the encoding of the request, for metrics. encode_all: writes the answers to several requests. joins:
    whether bodies put one after the other are the body of all their rows.
    """

    name: str
    decode: Decode
    encode: Encode
    encode_all: EncodeAll
    joins: bool = False


ROWS: dict[bytes, Codec] = {
    JSON: Codec("json", json_rows.decode, json_rows.encode, json_rows.encode_all),
    tensor.OCTETS: Codec(
        "octets", tensor.decode_octets, tensor.encode_octets, partial(one_by_one, tensor.encode_octets)
    ),
    tensor.NPY: Codec("npy", tensor.decode_npy, tensor.encode_npy, partial(one_by_one, tensor.encode_npy)),
}
LONGEST_KEPT = 512  # bytes of headers whose codec is remembered
JOINED = Codec("octets", tensor.decode_octets, tensor.encode_octets, tensor.encode_joined, joins=True)
V2 = Codec("v2", v2.decode, v2.encode, v2.encode_all)
V2_TYPES = (JSON, tensor.OCTETS, b"")  # tritonclient names none


def codec_of(head: Head) -> Codec:
    """Return the codec of a request; raises RequestError 415 if the body is in no accepted form.

    The answer is in the encoding of the request, unless `Accept` prefers another of those known. A path under
    `/v2/` speaks the Open Inference Protocol, where the body says how the answer is written.
    """
    headers = head.headers
    if b"content-encoding" in headers:
        raise RequestError("Content-Encoding: a compressed body is not accepted; send it as it is", status=415)
    given, accept = headers.get(b"content-type", b""), headers.get(b"accept", b"")
    chosen = _chosen if len(given) + len(accept) <= LONGEST_KEPT else _chosen.__wrapped__
    return chosen(head.path.startswith("/v2/"), given, accept)


@lru_cache(512)  # clients repeat their headers
def _chosen(protocol: bool, given: bytes, accept: bytes) -> Codec:
    kind = given.partition(b";")[0].strip().lower()
    accepted = V2_TYPES if protocol else tuple(ROWS)
    if kind not in accepted:
        listed = ", ".join(one.decode() for one in accepted if one)
        shown = kind.decode("latin-1")[:100] or "none"
        raise RequestError(f"Content-Type: accepted is {listed}, found {shown}", status=415)
    if protocol:
        return V2
    codec, answer = ROWS[kind], _wanted(accept, kind)
    if kind == answer == tensor.OCTETS:
        return JOINED
    return Codec(codec.name, codec.decode, ROWS[answer].encode, ROWS[answer].encode_all)


def _wanted(accept: bytes, kind: bytes) -> bytes:
    # The most preferred type that is known, the first of equals; a range such as */* is content with any.
    best, preferred = 0.0, kind
    for one in accept.lower().split(b","):
        name, *parameters = [part.strip() for part in one.split(b";")]
        weight = min([_weight(part) for part in parameters if part.startswith(b"q=")], default=1.0)
        if weight > best and (name in ROWS or name in (b"*/*", b"application/*")):
            best, preferred = weight, name if name in ROWS else kind
    return preferred


def _weight(parameter: bytes) -> float:
    try:
        return float(parameter[2:])
    except ValueError:
        return 0.0
