"""Clients of the service: rows at a steady rate, the truth some seconds later, every loss counted."""

import http.client
import json
import threading
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

ATTEMPT_S = 5.0
IDLE_S = 2.0  # the service closes a connection that is silent for 5 s; a client that waits longer opens a new one


@dataclass(frozen=True)
class Rows:
    """x: (n, *shape) raw rows in the order they are sent; truth: class names, "" where it never comes."""

    x: np.ndarray
    truth: list[str]


class Sender:
    """Sends rows one by one from its own thread, and each row's label `label_delay_s` later."""

    def __init__(self, port: int, rate_s: float, label_delay_s: float) -> None:
        """rate_s: requests per second."""
        self._port = port
        self._interval_s = 1 / rate_s
        self._label_delay_s = label_delay_s
        self._rows: deque[tuple[np.ndarray, str]] = deque()
        self._due: deque[tuple[float, str, str]] = deque()
        self._stop = threading.Event()
        self._connection = self._connect()
        self._used_s = 0.0
        self.sent = 0
        self.lost: list[str] = []
        self.labels = 0
        self.holds_labels = False  # True keeps them back; those that are due by then follow together
        self._thread = threading.Thread(target=self._send_on, name="sender", daemon=True)
        self._thread.start()

    def send(self, rows: Rows) -> None:
        """Queue rows; they leave in order."""
        self._rows.extend(zip(rows.x, rows.truth, strict=True))

    def only(self, rows: Rows) -> None:
        """Send these rows from now on, and none that still waits."""
        self._rows = deque(zip(rows.x, rows.truth, strict=True))

    def idle(self) -> bool:
        """Return whether every row and every label has left."""
        return not self._rows and not self._due

    def close(self) -> None:
        """Stop sending; the labels that are due by then are sent."""
        self._stop.set()
        self._thread.join(timeout=30.0)
        self._connection.close()

    def _send_on(self) -> None:
        following = time.monotonic()
        while not self._stop.is_set():
            if rows := self._rows:
                self._send(*rows.popleft())
            self._send_labels()
            following = max(following + self._interval_s, time.monotonic() - self._interval_s)
            self._stop.wait(max(0.0, following - time.monotonic()))

    def _send(self, row: np.ndarray, truth: str) -> None:
        self.sent += 1
        ident = f"demo-{self.sent}"
        status, answer = self._post("/v1/predict", {"rows": [row.tolist()], "ids": [ident]})
        if status != 200:
            self.lost.append(f"request {self.sent}: {status} {answer[:200]!r}")
            return
        if truth:
            self._due.append((time.monotonic() + self._label_delay_s, ident, truth))

    def _send_labels(self) -> None:
        due = []
        while self._due and not self.holds_labels and self._due[0][0] <= time.monotonic():
            _, ident, label = self._due.popleft()
            due.append({"id": ident, "label": label})
        if due:
            status, answer = self._post("/v1/labels", {"labels": due})
            if status != 200:
                self.lost.append(f"labels: {status} {answer[:200]!r}")
            self.labels += len(due)

    def _post(self, path: str, said: object) -> tuple[int, bytes]:
        if time.monotonic() - self._used_s > IDLE_S:
            self._connection.close()
        self._used_s = time.monotonic()
        try:
            self._connection.request("POST", path, json.dumps(said), {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:  # a loss is a loss: no retry hides it
            self._connection.close()
            self._connection = self._connect()
            return 0, repr(error).encode()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=ATTEMPT_S)
