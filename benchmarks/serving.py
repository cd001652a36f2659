"""Our service beside other servers with the same ONNX file: rows per second and latency, interleaved in one run.

python -m benchmarks.serving [--full] [--only "fastapi raw,vigil-fast"] [--models tiny,cnn] [--peers FOLDER]

Every server is checked first: its answers must be those of ONNX Runtime in this process. Then all lanes (a server
and a wire) are measured in turn, round after round, while the others stand still; medians are told. Client and
servers share the cores, so ratios are meant. The peers come from benchmarks/peers/install.sh; those that are
missing are left out. Open loop: requests have their own times, so that waiting counts (see load.c).
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import behaviour, load, models, raw, servers, tables
from benchmarks.load import Found, Traffic
from benchmarks.servers import SERVERS, Place, Running
from demo import stack
from registry.errors import StackError

RESULTS = Path(__file__).resolve().parent / "results"
REFERENCE = "fastapi raw"
QUICK = ((1, 1), (8, 1), (32, 1), (128, 1), (8, 32))
FULL = tuple((connections, rows) for rows in (1, 32) for connections in (1, 8, 32, 128))
MOST_CONNECTIONS = {"resnet": 32}
SHARES = (0.5, 0.8, 0.95)
OPEN_CONNECTIONS = 64
CAPACITY = (32, 1)  # the cell whose rate is the capacity that the open loop takes shares of

Cell = tuple[int, int]  # connections, rows per request


@dataclass(frozen=True)
class Plan:
    """What is measured. only: lanes, each as words of its name; empty means all."""

    models: tuple[str, ...]
    only: tuple[str, ...]
    cells: tuple[Cell, ...]
    peers: Path
    rounds: int = 3
    seconds: float = 2.0

    def lanes(self) -> list[tuple[str, str]]:
        """Return the chosen pairs of server and wire."""
        every = [(name, wire) for name, server in SERVERS.items() for wire in server.wires]
        return [lane for lane in every if not self.only or any(_chosen(part, lane) for part in self.only)]

    def cells_of(self, model: str) -> list[Cell]:
        """Return the cells that fit the model."""
        return [cell for cell in self.cells if cell[0] <= MOST_CONNECTIONS.get(model, cell[0])]


def _chosen(part: str, lane: tuple[str, str]) -> bool:
    return set(part.split()) <= set(lane)


class Field:
    """All servers with one model, started and paused."""

    def __init__(self, model: str, plan: Plan, folder: Path) -> None:
        self.model = models.make(model)
        self._plan = plan
        self._folder = folder
        self.running: dict[str, Running] = {}
        self.lanes: list[tuple[str, str]] = []

    def start(self) -> None:
        """Start every chosen server and keep the lanes that answer rightly; the others are named on stderr."""
        for name in dict.fromkeys(server for server, _ in self._plan.lanes()):
            if SERVERS[name].missing(self._plan.peers):
                _tell(f"{name}: left out, it is not installed in {self._plan.peers}; benchmarks/peers/install.sh does")
                continue
            place = Place(self._folder / self.model.name / name, self._plan.peers, self.model, stack.free_ports(1)[0])
            self.running[name] = servers.start(name, place)
            self._admit(name)

    def _admit(self, name: str) -> None:
        try:
            self.running[name].ready(SERVERS[name].ready)
        except StackError as error:
            _tell(f"left out: {error}")
            return
        lane = servers.other_lane(self.running[name], SERVERS[name])
        for server, wire in self._plan.lanes():
            if server == name:
                why = lane or servers.check(self.running[name], SERVERS[name].wires[wire])
                _tell(f"{name} {wire}: {why or 'answers rightly'}")
                self.lanes += [] if why else [(name, wire)]
        self.running[name].pause()

    def send(self, lane: tuple[str, str], cell: Cell, seconds: float, rate: float = 0.0) -> Found:
        """Measure one lane while the others stand still."""
        server, wire = self.running[lane[0]], SERVERS[lane[0]].wires[lane[1]]
        connections, rows = cell
        port, least_most = server.place.port, wire.sizes(rows)
        bodies = [wire.request(self.model, self.model.rows(rows, seed), port) for seed in range(load.DIFFERENT_BODIES)]
        server.go_on()
        try:
            return load.send(port, Traffic(bodies, connections, seconds, rate, *least_most))
        finally:
            server.pause()

    def leave_out(self, lane: tuple[str, str], why: Exception) -> None:
        """Measure a lane no more; why it could not be is named on stderr."""
        self.lanes.remove(lane)
        _tell(f"left out from here on: {' '.join(lane)}: {why}")

    def stop(self) -> None:
        """End all servers."""
        for running in self.running.values():
            running.stop()


@contextlib.contextmanager
def field(model: str, plan: Plan) -> Iterator[Field]:
    """Give the started servers of one model; they end with the block."""
    with tempfile.TemporaryDirectory() as folder:
        made = Field(model, plan, Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()


def closed_loop(served: Field, plan: Plan) -> dict[str, dict[str, Any]]:
    """Return, by cell and lane, the median rows per second and p99 over all rounds, and what failed."""
    found: dict[tuple[Cell, str], list[Found]] = {}
    cells = plan.cells_of(served.model.name)
    for n in range(plan.rounds):
        for cell in cells:
            for lane in list(served.lanes):
                try:
                    sent = served.send(lane, cell, plan.seconds)
                except StackError as error:  # one that died must not take the figures of the others along
                    served.leave_out(lane, error)
                    continue
                found.setdefault((cell, " ".join(lane)), []).append(sent)
            _tell(f"{served.model.name}: round {n + 1} of {plan.rounds}, {_name(cell)}")
    table: dict[str, dict[str, Any]] = {}
    for (cell, name), founds in found.items():
        table.setdefault(_name(cell), {})[name] = _medians(founds, cell[1])
    return table


def _medians(founds: list[Found], rows: int) -> dict[str, Any]:
    return {
        "rows_per_s": round(statistics.median(f.requests_per_s for f in founds) * rows),
        "all": [round(f.requests_per_s * rows) for f in founds],
        "p50_us": statistics.median(f.p50_us for f in founds),
        "p99_us": statistics.median(f.p99_us for f in founds),
        "failed": sum(f.failed for f in founds),
        "failures": dict(sum((Counter(f.failures) for f in founds), Counter())),
        "client_cores": statistics.median(f.client_cores for f in founds),
    }


def open_loop(served: Field, plan: Plan, closed: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, by share of capacity and lane, latencies when requests come at their own times."""
    found: dict[tuple[float, str], list[Found]] = {}
    for _ in range(plan.rounds):
        for share in SHARES:
            for lane in served.lanes:
                rate = closed[_name(CAPACITY)][" ".join(lane)]["rows_per_s"] * share
                sent = served.send(lane, (OPEN_CONNECTIONS, 1), plan.seconds, rate) if rate else None
                found.setdefault((share, " ".join(lane)), []).extend([sent] if sent else [])
    table: dict[str, dict[str, Any]] = {}
    for (share, name), founds in found.items():
        if founds:
            table.setdefault(f"{share:.0%}", {})[name] = _medians(founds, 1)
    return table


def _client_cores(closed: dict[str, dict[str, Any]]) -> float:
    """Return what the client used beside the fastest lane at CAPACITY, or at the first cell without that."""
    lanes = closed.get(_name(CAPACITY)) or next(iter(closed.values()), {})
    fastest = max(lanes.values(), key=lambda found: float(found["rows_per_s"]), default={"client_cores": 0.0})
    return float(fastest["client_cores"])


def _name(cell: Cell) -> str:
    return f"{cell[0]} x {cell[1]}"


def measure() -> dict[str, Any]:
    """Return the small comparison that `make proof` makes: JSON, ours beside BentoML as documented, tiny model."""
    peers = load.BUILD / "peers"
    plan = Plan(("tiny",), ("vigil-fast json", "bentoml json"), ((1, 1), (8, 1)), peers)
    with field("tiny", plan) as served:
        cells = closed_loop(served, plan)
    rates = {f"{lane} {cell}": found["rows_per_s"] for cell, lanes in cells.items() for lane, found in lanes.items()}
    ratios = {cell: tables.ratio(lanes, "vigil-fast json", "bentoml json") for cell, lanes in cells.items()}
    return {"requests_per_s": rates, "vigil_over_plain": ratios}


def run(name: str, plan: Plan, with_open_loop: bool, with_behaviour: bool) -> dict[str, Any]:
    """Return everything that was asked for of one model."""
    found: dict[str, Any] = {}
    with field(name, plan) as served:
        found["closed_loop"] = closed_loop(served, plan)
        if with_open_loop:
            found["open_loop"] = open_loop(served, plan, found["closed_loop"])
    found["onnxruntime_rows_per_s"] = raw.measure(name, _client_cores(found["closed_loop"]))
    if with_behaviour:
        found["behaviour"] = behaviour.measure(name, plan.peers)
    return found


def cells_asked(asked: argparse.Namespace) -> tuple[Cell, ...]:
    """Return the cells that the words name; the open loop needs the one that tells the capacity."""
    wanted = set(map(int, asked.connections.split(","))) if asked.connections else None
    needed = {CAPACITY} if asked.full or asked.open else set()
    return tuple(c for c in (FULL if asked.full else QUICK) if wanted is None or c[0] in wanted or c in needed)


def main(words: list[str]) -> None:
    """Measure what the words ask for, model by model; print tables, write JSON and picture."""
    asked = _parser().parse_args(words)
    plan = Plan(
        tuple(asked.models.split(",")),
        tuple(part.strip() for part in asked.only.split(",") if part.strip()),
        cells_asked(asked),
        asked.peers,
        asked.rounds,
        asked.seconds,
    )
    now = datetime.now(UTC)
    about = {
        "date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "command": " ".join(["python -m benchmarks.serving", *words]),
        "machine": tables.machine() | {"load_before": round(os.getloadavg()[0], 2)},
    }
    file = asked.out or RESULTS / f"serving-{now:%Y-%m-%d}.json"
    found: dict[str, Any] = {}
    for name in plan.models:
        found[name] = run(name, plan, asked.full or asked.open, asked.full or asked.behaviour)
        print(tables.text(name, found[name], REFERENCE), flush=True)
        earlier = json.loads(file.read_text())["models"] if file.exists() else {}
        file.write_text(json.dumps(about | {"models": earlier | found}, indent=1) + "\n")  # now: the next may fail
        tables.draw(found, REFERENCE, file.with_suffix(".svg"))
    _tell(f"written: {file} and {file.with_suffix('.svg')}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--full", action="store_true", help="the whole grid, the open loop and the behaviour")
    parser.add_argument("--open", action="store_true", help="the open loop too: p99 at 50, 80 and 95 %% of capacity")
    parser.add_argument("--behaviour", action="store_true", help="swaps under load, rollback, cold start too")
    parser.add_argument("--only", default="", help='lanes, as words: "fastapi raw,triton,vigil-fast v2"')
    parser.add_argument("--models", default=",".join(models.MODELS), help="tiny,cnn,resnet")
    parser.add_argument("--connections", default="", help="only these, for example 1,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument(
        "--peers", type=Path, default=load.BUILD / "peers", help="the virtual environments of the peers"
    )
    parser.add_argument("--out", type=Path, help="the JSON file; benchmarks/results/serving-DATE.json")
    return parser


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
