"""What recording costs: per row in the recorder, and to the clients of a running service, also when the log hangs.

python -m benchmarks.recording [--models tiny,resnet] [--rounds 7] [--seconds 1]

The services run side by side, all but the one that is measured stopped; every round measures each, and the ratio
to the one that records nothing in the same round is told, as a median: machines change from one round to the next.
"""

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import load, models, servers, wires
from benchmarks.load import Found, Traffic
from benchmarks.servers import SERVERS, Launch, Place, Running, Server
from demo import stack
from monitoring.log import logfile, redaction
from monitoring.log.pseudonym import Pseudonyms
from monitoring.log.recorder import Recorder, Records
from monitoring.log.redaction import Redaction
from registry.release import InputSpec

COLUMNS = 20
BATCH_ROWS = 100
BATCHES = 100
CONNECTIONS = 8
OPEN_SHARE = 0.3  # of the capacity, which the machine may not have all the time
EVERY = {"VIGIL_RECORD_ROWS_PER_S": "1e9", "VIGIL_RECORD_MB_PER_S": "1e9"}
VARIANTS: dict[str, dict[str, str]] = {
    "off": {"VIGIL_RECORD": "false"},
    "usual rate": {},
    "every row": EVERY,
    "every row, log hangs": EVERY,
}
HANGS = "every row, log hangs"


def measure(names: tuple[str, ...] = ("tiny", "resnet"), rounds: int = 7, seconds: float = 1.0) -> dict[str, Any]:
    """Return microseconds per row, and by model rows per second and latencies against recording nothing."""
    return {"recorder": _costs(), "service": {name: _service(name, rounds, seconds) for name in names}}


def _costs() -> dict[str, dict[str, float]]:
    spec = InputSpec("float32", (COLUMNS,), tuple(f"c{i}" for i in range(COLUMNS)))
    buckets = tuple((place, redaction.of_edges([-1, 0, 1])) for place in range(5))
    keyed = Pseudonyms(bytes(range(32)))
    policies = {
        "no policy": None,
        "5 columns dropped": Redaction(spec, dropped=tuple(range(5))),
        "5 columns in buckets": Redaction(spec, buckets=buckets),
        "2 columns hashed": Redaction(spec, hashed=(0, 1), pseudonyms=keyed),
    }
    found = {name: _cost(spec, policy, None) for name, policy in policies.items()}
    return found | {"ids hashed": _cost(spec, None, keyed)}


def _cost(spec: InputSpec, policy: Redaction | None, keyed: Pseudonyms | None) -> dict[str, float]:
    # put: of the thread that answers. writer: processor time of all else in this process.
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((BATCH_ROWS, *spec.shape)).astype(np.float32)
    outputs = np.full((BATCH_ROWS, 2), 0.5, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "log.sqlite", limit_rows=10**9, limit_bytes=10**12, pseudonyms=keyed)
        batches = [
            Records("m", "v", 1.0, [f"{i}-{k}" for k in range(BATCH_ROWS)], ["a"] * BATCH_ROWS, outputs, rows, policy)
            for i in range(BATCHES)
        ]
        everyone_s, own_s = time.process_time(), time.thread_time()
        for batch in batches:
            recorder.put(batch)
        put_s = time.thread_time() - own_s
        recorder.flush(60)
        writer_s = time.process_time() - everyone_s - put_s
        recorder.close()
        with closing(logfile.connect(Path(folder) / "log.sqlite")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            size_bytes = (Path(folder) / "log.sqlite").stat().st_size
    count = BATCHES * BATCH_ROWS
    return {
        "put_us_per_row": round(put_s / count * 1e6, 3),
        "writer_us_per_row": round(writer_s / count * 1e6, 2),
        "bytes_per_row": round(size_bytes / count),
    }


def _service(model: str, rounds: int, seconds: float) -> dict[str, Any]:
    with ExitStack() as opened:
        running = {name: opened.enter_context(_served(model, variables)) for name, variables in VARIANTS.items()}
        opened.enter_context(_held(running[HANGS].place.folder / "log.sqlite"))
        for one in running.values():
            one.pause()
        rate = OPEN_SHARE * _closed(running["off"], seconds).requests_per_s
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for _ in range(rounds):
            for name, one in running.items():
                closed, spaced = _closed(one, seconds), _open(one, seconds, rate)
                taken[name].append({
                    "rows_per_s": closed.requests_per_s, "p50_us": spaced.p50_us, "p99_us": spaced.p99_us,
                    "unanswered": float(closed.failed + spaced.failed),
                })  # fmt: skip
        return {name: _medians(found, taken["off"]) for name, found in taken.items()}


@contextmanager
def _served(model: str, variables: dict[str, str]) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), Path(folder), models.make(model), stack.free_ports(1)[0])
        log = {"VIGIL_LOG": str(place.folder / "log.sqlite")}
        running = servers.start("vigil-fast", place, _with(SERVERS["vigil-fast"], log | variables))
        try:
            running.ready("/readyz")
            yield running
        finally:
            running.go_on()
            running.stop()


def _with(server: Server, variables: dict[str, str]) -> Server:
    def launch(place: Place) -> Launch:
        usual = server.launch(place)
        return replace(usual, environment=usual.environment | variables)

    return replace(server, launch=launch)


@contextmanager
def _held(log: Path) -> Iterator[None]:
    # Another writer that never ends: as a disk that hangs, for those who wait for it.
    with closing(sqlite3.connect(log, isolation_level=None, timeout=60)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def _closed(one: Running, seconds: float) -> Found:
    return _sent(one, Traffic(_requests(one), CONNECTIONS, seconds))


def _open(one: Running, seconds: float, rate: float) -> Found:
    return _sent(one, Traffic(_requests(one), CONNECTIONS, seconds, rate=rate))


def _sent(one: Running, traffic: Traffic) -> Found:
    one.go_on()
    try:
        return load.send(one.place.port, traffic)
    finally:
        one.pause()


def _requests(one: Running) -> list[bytes]:
    place = one.place
    rows = (place.model.rows(1, seed) for seed in range(load.DIFFERENT_BODIES))
    return [wires.OURS_RAW.request(place.model, some, place.port) for some in rows]


def _medians(found: list[dict[str, float]], without: list[dict[str, float]]) -> dict[str, float]:
    medians = {what: round(statistics.median(one[what] for one in found), 1) for what in found[0]}
    ratios = [a["rows_per_s"] / b["rows_per_s"] for a, b in zip(found, without, strict=True)]
    added = [a["p99_us"] - b["p99_us"] for a, b in zip(found, without, strict=True)]
    return medians | {
        "rows_per_s to off": round(statistics.median(ratios), 3),
        "p99_us above off": round(statistics.median(added), 1),
    }


def main() -> None:
    """Measure and print one JSON object."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--models", default="tiny,resnet")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=float, default=1.0)
    asked = options.parse_args()
    print(json.dumps(measure(tuple(asked.models.split(",")), asked.rounds, asked.seconds), indent=1))


if __name__ == "__main__":
    main()
