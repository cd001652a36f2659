"""What our service does beside answering: swaps under load, a rollback, a cold start."""

import http.client
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import load, models, servers
from benchmarks.load import Found, Traffic
from benchmarks.servers import SERVERS, Place, Running
from demo import stack
from registry import aliases
from registry.errors import StackError

SERVER = "vigil-fast"
STARTS = 5
ROLLBACKS = 5
ROUNDS = 3
CONNECTIONS = 8
SWAP_EVERY_S = 1.0
LOAD_S = 6.0
SHARE = 0.5  # of what it can do: a server at its limit has no p99 to speak of


def measure(model: str, peers: Path) -> dict[str, Any]:
    """Return seconds to ready, seconds to the first answer after a rollback, and p99 with and without swaps."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder) / model, peers, models.make(model), stack.free_ports(1)[0])
        running, _ = _started(place)
        try:
            models.publish_and_promote(models.make(model, seed=1), place.folder / "bentoml")
            found = {"swap": _swaps(running), "rollback_s": _rollbacks(running)}
        finally:
            running.stop()
        return found | {"start_s": _starts(place)}


def _started(place: Place) -> tuple[Running, float]:
    server, begun = SERVERS[SERVER], time.monotonic()
    if (place.folder / "bentoml").exists():  # published before: only the start counts
        command = servers.Launch(stack.server_command(place.port), servers.vigil_environment(place, lane="fast"))
        server = servers.Server(lambda _: command, server.ready, server.wires)
    running = servers.start(SERVER, place, server)
    running.ready(server.ready)
    return running, time.monotonic() - begun


def _starts(place: Place) -> dict[str, Any]:
    took = []
    for _ in range(STARTS):
        running, seconds = _started(place)
        running.stop()
        took.append(round(seconds, 2))
    return {"median": statistics.median(took), "all": took}


def _traffic(running: Running, rate: float, seconds: float) -> Traffic:
    wire = SERVERS[SERVER].wires["json"]
    requests = [wire.request(running.place.model, running.place.model.rows(1, i), running.place.port) for i in range(8)]
    least, most = wire.sizes(1)
    return Traffic(requests, CONNECTIONS, seconds, rate, least, most)


def _swaps(running: Running) -> dict[str, Any]:
    capacity = load.send(running.place.port, _traffic(running, 0, 2.0)).requests_per_s
    still, moved = [], []
    swaps = 0
    for _ in range(ROUNDS):
        still.append(load.send(running.place.port, _traffic(running, capacity * SHARE, LOAD_S)))
        found, made = _under_swaps(running, _traffic(running, capacity * SHARE, LOAD_S))
        moved.append(found)
        swaps += made
    quiet, swapping = (statistics.median(f.p99_us for f in founds) for founds in (still, moved))
    return {
        "requests_per_s": round(capacity * SHARE),
        "swaps": swaps,
        "answered": sum(f.ok for f in moved),
        "failed": sum(f.failed for f in moved),
        "p99_us": quiet,
        "p99_us_with_swaps": swapping,
        "ratio": round(swapping / quiet, 2),
    }


def _under_swaps(running: Running, traffic: Traffic) -> tuple[Found, int]:
    model, swaps = running.place.model.name, 0
    with tempfile.TemporaryDirectory() as folder, models.served_from(running.place.folder / "bentoml"):
        versions = [pin.version for pin in aliases.read(model).line[-2:]]
        sending = load.start(running.place.port, traffic, Path(folder))
        until = time.monotonic() + traffic.seconds
        while time.monotonic() < until - SWAP_EVERY_S:
            aliases.promote(f"{model}:{versions[swaps % 2]}", "measured", force=True)
            swaps += 1
            time.sleep(SWAP_EVERY_S)
        return load.finish(sending), swaps


def _rollbacks(running: Running) -> dict[str, Any]:
    model, took = running.place.model.name, []
    with models.served_from(running.place.folder / "bentoml"):
        for _ in range(ROLLBACKS):
            new, old = aliases.read(model).champion, aliases.read(model).previous
            if new is None or old is None:
                raise StackError(f"{model}: needs two champions in its history to be rolled back")
            _answered_by(running, new.version)
            begun = time.monotonic()
            aliases.rollback(model, "measured")
            _answered_by(running, old.version)
            took.append(round(time.monotonic() - begun, 3))
            aliases.promote(f"{model}:{new.version}", "measured", force=True)
    return {"median": statistics.median(took), "all": took}


def _answered_by(running: Running, version: str, timeout_s: float = 20.0) -> None:
    wire = SERVERS[SERVER].wires["json"]
    headers, body = wire.encode(running.place.model.rows(1))
    connection = http.client.HTTPConnection("127.0.0.1", running.place.port, timeout=10)
    deadline = time.monotonic() + timeout_s
    try:
        while time.monotonic() < deadline:
            connection.request("POST", wire.path, body, headers)
            if json.loads(connection.getresponse().read()).get("version") == version:
                return
    finally:
        connection.close()
    raise StackError(f"{running.name}: {version} does not answer within {timeout_s:g} s")
