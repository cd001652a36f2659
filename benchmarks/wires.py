"""How rows are sent to each server and its answer is read: whole HTTP requests, and the way back."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from benchmarks.models import CLASSES, Model

Answer = tuple[Mapping[str, str], bytes]  # headers in lower case, body


@dataclass(frozen=True)
class Wire:
    """path: with `{model}`. encode: rows to headers and body. decode: an answer to float32 (n, 10).

    exact: whether the body of an answer has the size of its numbers, and nothing else.
    """

    path: str
    encode: Callable[[np.ndarray], tuple[dict[str, str], bytes]]
    decode: Callable[[Mapping[str, str], bytes], np.ndarray]
    exact: bool = False

    def request(self, model: Model, rows: np.ndarray, port: int) -> bytes:
        """Return one HTTP request, head and body."""
        headers, body = self.encode(rows)
        lines = [f"POST {self.path.format(model=model.name)} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        lines += [f"{name}: {value}" for name, value in (headers | {"Content-Length": str(len(body))}).items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def sizes(self, rows: int) -> tuple[int, int]:
        """Return the least and the most bytes that an answer for so many rows can have."""
        numbers = rows * len(CLASSES) * 4
        return (numbers, numbers) if self.exact else (rows * len(CLASSES) * 2, numbers * 16 + 4096)


def _raw(rows: np.ndarray) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "application/octet-stream"}, rows.tobytes()


def _json(rows: np.ndarray) -> tuple[dict[str, str], bytes]:
    return {"Content-Type": "application/json"}, orjson.dumps({"rows": rows}, option=orjson.OPT_SERIALIZE_NUMPY)


def _v2(rows: np.ndarray) -> tuple[dict[str, str], bytes]:
    tensor = {"name": "input", "datatype": "FP32", "shape": rows.shape, "parameters": {"binary_data_size": rows.nbytes}}
    wanted = {"name": "probabilities", "parameters": {"binary_data": True}}  # that alone: a server may have more
    head = orjson.dumps({"inputs": [tensor], "outputs": [wanted]})
    length = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return length, head + rows.tobytes()


def _v2_json(rows: np.ndarray) -> tuple[dict[str, str], bytes]:
    flat = orjson.dumps(rows.ravel(), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    shape = json.dumps(rows.shape)
    text = f'{{"inputs": [{{"name": "input", "datatype": "FP32", "shape": {shape}, "data": {flat}}}], '
    text += '"outputs": [{"name": "probabilities"}]}'
    return {"Content-Type": "application/json"}, text.encode()


def _table(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(-1, len(CLASSES))


def _from_raw(_: Mapping[str, str], body: bytes) -> np.ndarray:
    return _table(np.frombuffer(body, np.float32))


def _from_v2(headers: Mapping[str, str], body: bytes) -> np.ndarray:
    at = int(headers["inference-header-content-length"])
    for output in json.loads(body[:at])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        if output["name"] == "probabilities":
            return _from_raw(headers, body[at : at + size])
        at += size
    raise ValueError("the answer has no probabilities")


def _from_v2_json(_: Mapping[str, str], body: bytes) -> np.ndarray:
    named = {output["name"]: output["data"] for output in json.loads(body)["outputs"]}
    return _table(named["probabilities"])


def _from_json(_: Mapping[str, str], body: bytes) -> np.ndarray:
    said = json.loads(body)
    if isinstance(said, list):
        return _table(said)
    if "probabilities" in said:
        return _table(said["probabilities"])
    named = [row["probabilities"] for row in said["predictions"]]
    return _table([[row[name] for name in CLASSES] if isinstance(row, dict) else row for row in named])


RAW = Wire("/raw", _raw, _from_raw, exact=True)
JSON = Wire("/json", _json, _from_json)
V2 = Wire("/v2/models/{model}/infer", _v2, _from_v2)
V2_JSON = Wire(V2.path, _v2_json, _from_v2_json)
PREDICT = Wire("/predict", _json, _from_json)
OURS_RAW = Wire("/v1/predict", _raw, _from_raw, exact=True)
OURS_JSON = Wire("/v1/predict", _json, _from_json)
