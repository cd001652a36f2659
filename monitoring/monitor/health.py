"""The monitor's own pages: /metrics for Prometheus, /healthz for whoever restarts it."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from registry.errors import StackError

CLIENT_S = 10.0  # for a request that comes in bit by bit
STALE_INTERVALS = 3.0
STALE_S = 60.0  # at least


@dataclass(frozen=True)
class Answer:
    """What a page answers with."""

    status: int
    kind: str
    body: bytes


Page: TypeAlias = Callable[[str, str], Answer]  # (path, what the client accepts)


@dataclass(frozen=True)
class Said:
    """What /healthz says. status: "ok"; "behind" while it reads old rows; "stale". Ages in seconds.

    last_success_s: Unix time of the last good run, None before the first; age_s: since then, or since the start.
    lag: of the log at the last look.
    """

    alive: bool
    status: str
    last_success_s: float | None
    age_s: float
    lag_rows: int
    lag_s: float
    failing: dict[str, str]


class Health:
    """Whether the monitor gets on: alive while runs end well, or one is reading rows. Any thread may ask."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stale_s = max(STALE_INTERVALS * interval_s, STALE_S)
        self._begun = self._moved = clock()
        self._reading = False
        self._last: tuple[float, float] | None = None
        self._lag = (0, 0.0)
        self._failing: dict[str, str] = {}

    def moved(self, lag: tuple[int, float]) -> None:
        """Note that a run has read rows, and how many rows and seconds are left."""
        self._moved, self._lag, self._reading = self._clock(), lag, True

    def ended(self, failing: Mapping[str, str]) -> None:
        """Note the end of a run; failing: what of it, with the kind of error."""
        self._failing, self._reading = dict(failing), False
        if not failing:
            self._last = (self._clock(), time.time())

    def said(self) -> Said:
        """Return how it is now."""
        now, last = self._clock(), self._last
        good = last[0] if last else self._begun
        stale = now - max(good, self._moved if self._reading else good) > self._stale_s
        status = "stale" if stale else "behind" if last is None or self._lag[0] else "ok"
        return Said(not stale, status, last[1] if last else None, round(now - good, 3), *self._lag, self._failing)

    def page(self, path: str, accepts: str) -> Answer:
        """Answer /healthz: 200, or 503 when stale."""
        said = self.said()
        return Answer(200 if said.alive else 503, "application/json", json.dumps(asdict(said)).encode() + b"\n")


class WholeRegistry(CollectorRegistry):
    """A registry whose scrape waits for a run to be written down: it shows one run or the next, never half."""

    def __init__(self) -> None:
        self.writing = threading.RLock()
        super().__init__()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics of one moment."""
        with self.writing:
            return list(super().collect())

    def page(self, path: str, accepts: str) -> Answer:
        """Answer /metrics."""
        encoder, kind = choose_encoder(accepts)
        return Answer(200, kind, encoder(self))


@contextmanager
def served(host: str, port: int, pages: Mapping[str, Page]) -> Iterator[None]:
    """Serve pages by the beginning of their path, the longest that fits, in threads beside.

    Raises StackError if the port is taken.
    """

    class Handler(_Handler):
        known = dict(pages)

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise StackError(f"{host}:{port}: {error.strerror}; stop what listens there or choose --port") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_S
    known: Mapping[str, Page] = {}

    def do_GET(self) -> None:  # noqa: N802 - the name that the base class looks for
        self.wfile.write(self._begin())

    def do_HEAD(self) -> None:  # noqa: N802 - as above
        self._begin()

    def _begin(self) -> bytes:
        # Send all but the body, and return that.
        path = self.path.partition("?")[0]
        fitting = [start for start in self.known if path == start or path.startswith(start.rstrip("/") + "/")]
        if not fitting:
            answer = Answer(
                404, "text/plain; charset=utf-8", f"no such page; there are {', '.join(self.known)}\n".encode()
            )
        else:
            answer = self.known[max(fitting, key=len)](path, self.headers.get("Accept", ""))
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        return answer.body

    def log_message(self, *_: object) -> None:
        """Say nothing: Prometheus asks every few seconds."""
