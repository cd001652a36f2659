"""Rows as numpy arrays in, answers as numpy arrays out. Needs numpy alone: copy this file to where you call from.

    with Client("http://127.0.0.1:3000") as client:
        answer = client.predict(rows)                # rows: (n, *shape of the model)
        answer.outputs["probabilities"]              # (n, classes)
        client.label(zip(answer.ids, truth))         # when the truth is known

Speaks the Open Inference Protocol v2 with binary tensors over connections that are kept open.

ClientError
├─ Refused       the request is at fault, and would be refused again
└─ Unavailable   the service is: no answer within the deadline and the tries
"""

import email.utils
import functools
import http.client
import io
import itertools
import json
import random
import socket
import time
import urllib.parse
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DTYPES = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"} | {
    f"{kind.upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}
TRY_AGAIN = (429, 503)
FIRST_WAIT_S = 0.1  # doubled after each try, up to 3.2
LABELS_AT_ONCE = 1000


class ClientError(Exception):
    """What a call raises. status: the HTTP code, None without an answer; field, row: what the service named."""

    def __init__(self, message: str, status: int | None = None, field: str | None = None, row: int | None = None):
        super().__init__(message if status is None else f"{status}: {message}")
        self.message, self.status, self.field, self.row = message, status, field, row


class Refused(ClientError): ...  # noqa: N818 - no error of the program: named for what happened


class Unavailable(ClientError): ...  # noqa: N818


@dataclass(frozen=True)
class Answer:
    """outputs: by name, (n, ...). ident: the id of the request. ids: of the rows; labels are sent under them."""

    outputs: dict[str, np.ndarray]
    model: str
    version: str
    ident: str
    ids: list[str]


class Client:
    """One service, and one model of it. Any number of threads may share it."""

    def __init__(
        self, url: str, model: str | None = None, key: str | None = None, timeout_s: float = 10.0, retries: int = 3
    ) -> None:
        """model: None is the only one that is served. timeout_s: of a call, with its retries and waits."""
        self.model = model
        self._calls = _Calls(url, key, timeout_s, retries)
        self._input: tuple[str, str, str] | None = None  # path of the model, tensor, datatype

    def predict(self, rows: np.ndarray, outputs: Sequence[str] = (), ident: str | None = None) -> Answer:
        """Return the answer to `rows`, (n, *shape): the outputs of the model that `outputs` names, or its main one.

        outputs: also `class`, the names a classifier decided for. ident: of the request, at most 128 characters; made
        if left out. Row i goes by `<ident>-<i>`.
        Raises Refused, Unavailable, and ValueError where the numbers are not those of the model's type: floats
        are rounded to it, whole numbers must fit.
        """
        path, name, datatype = self._input or self._ask_input()
        tensor = _cast(rows, datatype)
        given = {"shape": tensor.shape, "datatype": datatype, "parameters": {"binary_data_size": tensor.nbytes}}
        said: dict[str, Any] = {"id": ident or uuid.uuid4().hex, "inputs": [{"name": name} | given]}
        said["outputs"] = [{"name": name} for name in outputs]
        said["parameters"] = {"binary_data_output": True}
        head = json.dumps(said).encode()
        kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        try:
            reply = self._calls.send(_Request("POST", f"{path}/infer", head + tensor.tobytes(), kind))
        except Refused:
            self._input = None  # the model may have changed: the next call asks again
            raise
        return _answer(reply, len(tensor))

    def predict_many(self, rows: Iterable[np.ndarray], batch_rows: int = 256, connections: int = 4) -> Iterator[Answer]:
        """Yield the answers to `rows`, single rows of the model's shape, in their order, a batch at a time.

        At most 2 * connections batches are held at once, however long `rows` is. Raises what `predict` does.
        """
        source, waiting = iter(rows), deque[Future[Answer]]()
        pool = ThreadPoolExecutor(connections, "predict_many")
        try:
            while batch := list(itertools.islice(source, batch_rows)):
                waiting.append(pool.submit(self.predict, np.stack(batch)))
                if len(waiting) == 2 * connections:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def label(self, pairs: Iterable[tuple[str, Any]]) -> int:
        """Send the truth of rows, as (id, label), and return how many were accepted; a label may be sent twice."""
        path = "/v1/labels" if self.model is None else f"/v1/models/{_quoted(self.model)}/labels"
        source, accepted = iter(pairs), 0
        while batch := list(itertools.islice(source, LABELS_AT_ONCE)):
            said = {"labels": [{"id": ident, "label": label} for ident, label in batch]}
            body = json.dumps(said, default=lambda number: number.item()).encode()  # numpy's
            reply = self._calls.send(_Request("POST", path, body, {"Content-Type": "application/json"}))
            accepted += json.loads(reply.body)["accepted"]
        return accepted

    def metadata(self) -> dict[str, Any]:
        """Return what the service says of the model: its version, task, columns, shape, classes."""
        return self._get("/v1/model" if self.model is None else f"/v1/models/{_quoted(self.model)}")

    def ready(self) -> bool:
        """Return whether the model answers now; asks once."""
        path = "/readyz" if self.model is None else f"/v2/models/{_quoted(self.model)}/ready"
        try:
            return self._calls.once(_Request("GET", path)).status == 200
        except (ClientError, OSError):
            return False

    def close(self) -> None:
        """Close the connections; a call that comes later opens new ones."""
        self._calls.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, path: str) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._calls.send(_Request("GET", path)).body)
        return said

    def _ask_input(self) -> tuple[str, str, str]:
        path = f"/v2/models/{_quoted(self.model or self._get('/v1/model')['model'])}"
        tensor = self._get(path)["inputs"][0]
        self._input = (path, tensor["name"], tensor["datatype"])
        return self._input


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


class _Calls:
    """Requests over connections that are kept open, each used by one thread at a time."""

    def __init__(self, url: str, key: str | None, timeout_s: float, retries: int) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"url: must start with http:// or https://, found '{url}'")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._open = functools.partial(kind, parts.netloc)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._url, self._prefix = url, parts.path.rstrip("/")
        self._timeout_s, self._tries = timeout_s, 1 + retries
        self._idle: list[http.client.HTTPConnection] = []

    def send(self, request: _Request) -> "_Timed":
        """Return the answer of status 200, tried again where that may help; raises Refused, Unavailable."""
        deadline, status = time.monotonic() + self._timeout_s, None
        for tried in range(1, self._tries + 1):
            wait_s = random.uniform(0.5, 1.0) * FIRST_WAIT_S * 2 ** min(tried - 1, 5)  # lest all come back at once
            try:
                reply = self.once(request, deadline)
                if reply.status == 200:
                    return reply
                status, why = reply.status, _hopeful(reply)
                wait_s += _asked_s(reply)
            except OSError as error:
                status, why = None, str(error) or repr(error)
            if tried == self._tries or time.monotonic() + wait_s >= deadline:
                break
            time.sleep(wait_s)
        raise Unavailable(f"{self._url}: no answer in {tried} tries and {self._timeout_s:g} s: {why}", status)

    def once(self, request: _Request, deadline: float | None = None) -> "_Timed":
        """Return the answer of any status; raises OSError before its first byte, Unavailable after it."""
        until = time.monotonic() + self._timeout_s if deadline is None else deadline
        try:
            return self._exchange(self._idle.pop(), request, until)
        except (IndexError, ConnectionError):  # the service may close one that lies idle: that is no try
            return self._exchange(self._open(), request, until)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _exchange(self, connection: Any, request: _Request, deadline: float) -> "_Timed":
        keep = False
        try:
            answer = self._begin(connection, request, deadline)
            try:
                answer.body = answer.read()
            except OSError as error:
                raise Unavailable(f"{self._url}: the answer broke off: {error}", answer.status) from error
            keep = not answer.will_close
            return answer
        except http.client.RemoteDisconnected:  # an OSError too
            raise
        except http.client.HTTPException as error:
            raise Unavailable(f"{self._url}: no whole HTTP answer: {error!r}") from error
        finally:
            self._idle.append(connection) if keep else connection.close()

    def _begin(self, connection: Any, request: _Request, deadline: float) -> "_Timed":
        left_s = connection.timeout = _left_s(deadline)
        if connection.sock is not None:
            connection.sock.settimeout(left_s)
        connection.response_class = functools.partial(_Timed, deadline=deadline)
        headers = self._headers | request.headers | {"X-Request-Timeout": f"{max(left_s, 0.001):.3f}"}
        try:
            connection.request(request.method, self._prefix + request.path, request.body, headers)
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise
            # Refused before all of the body was read: the answer says why.
        answer: _Timed = connection.getresponse()
        return answer


class _Timed(http.client.HTTPResponse):
    """An answer that is read until a deadline, however slowly it drips."""

    body: bytes

    def __init__(self, sock: socket.socket, deadline: float, method: str | None = None) -> None:
        super().__init__(sock, method=method)
        self.fp = io.BufferedReader(_Source(sock, self.fp.detach(), deadline))


class _Source(io.RawIOBase):
    def __init__(self, sock: socket.socket, raw: io.RawIOBase, deadline: float) -> None:
        self._sock, self._raw, self._deadline = sock, raw, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left_s(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s


def _asked_s(answer: _Timed) -> float:
    # The wait that Retry-After asks for, in seconds or until a date; 0 if it is neither. The date is of the server's
    # clock, which the answer shows in `Date`.
    after = answer.headers.get("Retry-After", "")
    if after.isdecimal():
        return float(after)
    until_s, now_s = _date_s(after), _date_s(answer.headers.get("Date", ""))
    if until_s is None:
        return 0.0
    return max(0.0, until_s - (time.time() if now_s is None else now_s))


def _date_s(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _hopeful(answer: _Timed) -> str:
    # What the service says; raises unless the same request may be answered later.
    try:
        said = json.loads(answer.body)
        message, place = str(said["error"]), (said.get("field"), said.get("row"))
    except (ValueError, TypeError, KeyError):  # a proxy's page
        message, place = answer.body[:200].decode("utf-8", "replace"), (None, None)
    if answer.status in TRY_AGAIN:
        return message
    raise (Refused if answer.status < 500 else Unavailable)(message, answer.status, *place)


def _cast(rows: np.ndarray, datatype: str) -> np.ndarray:
    given, dtype = np.asarray(rows), np.dtype(DTYPES[datatype])
    if given.dtype == dtype:
        return given
    if given.dtype.kind not in "iuf":
        raise ValueError(f"rows: must hold numbers, found {given.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = given.astype(dtype)
    if dtype.kind != "f" and not np.array_equal(cast, given):
        raise ValueError(f"rows: hold numbers that are no {dtype}, which is what this model takes")
    return cast


def _answer(reply: _Timed, rows: int) -> Answer:
    try:
        start = int(reply.headers["Inference-Header-Content-Length"])
        said, outputs = json.loads(reply.body[:start]), {}
        for tensor in said["outputs"]:
            end = start + tensor["parameters"]["binary_data_size"]
            outputs[tensor["name"]] = _array(bytearray(reply.body[start:end]), tensor["datatype"]).reshape(
                tensor["shape"]
            )
            start = end
        ids = [f"{said['id']}-{i}" for i in range(rows)]
        return Answer(outputs, said["model_name"], said["model_version"], said["id"], ids)
    except (ValueError, TypeError, KeyError) as error:
        raise Unavailable(f"the answer is not of Open Inference Protocol v2 with binary tensors: {error!r}") from error


def _array(content: bytearray, datatype: str) -> np.ndarray:
    if datatype != "BYTES":
        return np.frombuffer(content, DTYPES[datatype])  # over a bytearray: may be written to
    found, start = [], 0
    while start < len(content):  # each is its length in 4 bytes, and itself in UTF-8
        end = start + 4 + int.from_bytes(content[start : start + 4], "little")
        found.append(content[start + 4 : end].decode())
        start = end
    return np.array(found)


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")
