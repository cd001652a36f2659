"""Requests of the proof: rows whose answers are compared bit for bit, a request under way while the service ends."""

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

TIMEOUT_S = 10.0
OCTETS = {"Content-Type": "application/octet-stream"}


def rows(release: Path) -> np.ndarray:
    """Return the held-out rows of a release, as its model takes them."""
    with np.load(io.BytesIO((release / "heldout.npz").read_bytes()), allow_pickle=False) as held:
        return np.asarray(held["x"])


def call(port: int, path: str, body: bytes | None = None, key: str = "") -> tuple[int, bytes]:
    """Return status and body of a reply; status 0 if there was none. key: sent along, where one is demanded."""
    headers = (OCTETS if body is not None else {}) | ({"X-Api-Key": key} if key else {})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("POST" if body is not None else "GET", path, body, headers)
        reply = connection.getresponse()
        return reply.status, reply.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def answers(port: int, x: np.ndarray, key: str = "") -> bytes:
    """Return the bytes of the probabilities of each row, asked for one by one and all at once."""
    single = [call(port, "/v1/predict", row.tobytes(), key) for row in x]
    together = call(port, "/v1/predict", x.tobytes(), key)
    if any(status != 200 for status, _ in [*single, together]):
        raise ValueError(f"the service on port {port} refused rows: {together}")
    return b"".join(body for _, body in single) + together[1]


def ready(port: int) -> bool:
    return call(port, "/readyz")[0] == 200


def live_version(port: int, key: str = "") -> str:
    """Return the version that serves; empty if none does."""
    status, body = call(port, "/v1/model", key=key)
    return str(json.loads(body)["version"]) if status == 200 else ""


class Halfway:
    """A request of which only the first half was sent."""

    def __init__(self, port: int, body: bytes) -> None:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: proof\r\nContent-Type: {OCTETS['Content-Type']}\r\n"
        sent = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._rest = sent[len(sent) // 2 :]
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._socket.sendall(sent[: len(sent) // 2])

    def finish(self) -> int:
        """Send the rest and return the status of the reply."""
        with self._socket:
            self._socket.sendall(self._rest)
            reply = http.client.HTTPResponse(self._socket)
            reply.begin()
            reply.read()
            return reply.status


@dataclass
class Load:
    """Requests one after the other, each on a connection of its own; statuses: of all replies so far."""

    port: int
    body: bytes
    key: str = ""
    statuses: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def _go(self) -> None:
        while not self._stop.is_set():
            self.statuses.append(call(self.port, "/v1/predict", self.body, self.key)[0])
            time.sleep(0.002)  # two cores carry the service, too

    @contextmanager
    def running(self) -> Iterator["Load"]:
        thread = threading.Thread(target=self._go)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    @property
    def failed(self) -> int:
        return sum(status != 200 for status in self.statuses)
