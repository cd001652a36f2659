"""A closed-loop load on the service that counts everything: each connection sends, waits for the answer, sends again.

A connection that ends before its answer is an error, also when the answer before it did not say
`Connection: close`; so is one that cannot be opened.
"""

import asyncio
import json
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """What came back. statuses: answers by status. errors: what ended without an answer. seconds: of each answer."""

    statuses: Counter = field(default_factory=Counter)
    errors: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    answers: list = field(default_factory=list)

    @property
    def failed(self):
        """Return what was not a 200, for a message."""
        bad = {status: count for status, count in self.statuses.items() if status != 200}
        return (bad, Counter(self.errors)) if bad or self.errors else None

    def quantile(self, share, status=200):
        """Return the seconds that `share` of the answers with `status` took at most."""
        took = sorted(seconds for seen, seconds in self.seconds if seen == status)
        return took[min(len(took) - 1, int(share * len(took)))]


def address(service):
    """Return host and port of a running service."""
    place = urllib.parse.urlparse(service.url)
    return place.hostname, place.port


def request(body, path="/v1/predict", headers=()):
    """Return the bytes of one POST of JSON."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode() + body


class Load:
    """Keeps `connections` busy from `with` to its end, in a thread of its own.

    keep: how to keep each answer. every_s: from one request of a connection to its next, at least.
    """

    def __init__(self, address, content, connections, keep=None, every_s=0.0):
        self.tally = Tally()
        self._address, self._content, self._keep, self._every_s = address, content, keep, every_s
        self._connections = connections
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self):
        self._thread.start()
        return self.tally

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    async def _run(self):
        await asyncio.gather(*(self._client(k / self._connections) for k in range(self._connections)))

    async def _client(self, turn):
        await asyncio.sleep(turn * self._every_s)  # so that they do not all come at once, again and again
        stream = None
        while not self._stop.is_set():
            started = time.perf_counter()
            try:
                if stream is None:
                    stream = await asyncio.open_connection(*self._address)
                if not await self._one(*stream):
                    stream = _close(stream)
            except (OSError, EOFError, ValueError, IndexError) as error:
                self.tally.errors.append(type(error).__name__)
                stream = _close(stream)
                await asyncio.sleep(0.005)  # so that a port that refuses is not asked a million times
            if self._every_s:
                await asyncio.sleep(max(0.0, started + self._every_s - time.perf_counter()))
        _close(stream)

    async def _one(self, reader, writer):
        started = time.perf_counter()
        writer.write(self._content)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:-2])
        body = await reader.readexactly(int(headers[b"content-length"]))
        status = int(lines[0].split()[1])
        self.tally.statuses[status] += 1
        self.tally.seconds.append((status, time.perf_counter() - started))
        if self._keep is not None:
            self.tally.answers.append(self._keep(status, headers, body))
        return headers.get(b"connection") != b"close"


def version_of(status, _headers, body):
    """Keep which version answered."""
    return json.loads(body).get("version") if status == 200 else None


def _close(stream):
    if stream is not None:
        stream[1].close()
