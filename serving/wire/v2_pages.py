"""Open Inference Protocol v2 over HTTP: the bodies of its other calls."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import orjson

from registry.release import Release
from serving.wire.v2_ask import CLASS, DATATYPES

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data",)


class Output(Protocol):
    """An output of a graph. dtype: as numpy names it. shape: of one row, None where the graph does not say."""

    @property
    def dtype(self) -> str: ...

    @property
    def shape(self) -> tuple[int | None, ...]: ...


def server_metadata(name: str, version: str) -> bytes:
    """Return the body of GET /v2."""
    return orjson.dumps({"name": name, "version": version, "extensions": EXTENSIONS})


def model_metadata(release: Release, outputs: Mapping[str, Output], versions: Iterable[str]) -> bytes:
    """Return the body of GET /v2/models/NAME; outputs: of its engine; versions: those that can be asked for."""
    spec = release.manifest.input
    listed = [_tensor(name, DATATYPES[output.dtype], output.shape) for name, output in outputs.items()]
    if release.manifest.classes:
        listed.append(_tensor(CLASS, "BYTES", ()))
    said = {
        "name": release.name,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [_tensor(spec.name, DATATYPES[spec.dtype], spec.shape)],
        "outputs": listed,
    }
    return orjson.dumps(said)


def model_ready(name: str, ready: bool) -> bytes:
    """Return the body of GET /v2/models/NAME/ready."""
    return orjson.dumps({"name": name, "ready": ready})


def server_live() -> bytes:
    """Return the body of GET /v2/health/live, which only a live server gives."""
    return b'{"live":true}'


def server_ready(ready: bool) -> bytes:
    """Return the body of GET /v2/health/ready."""
    return orjson.dumps({"ready": ready})


def _tensor(name: str, datatype: str, shape: tuple[int | None, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1, *(-1 if length is None else length for length in shape)]}
