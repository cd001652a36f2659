"""What a challenger costs the champion's clients: none, 10 % and all of the requests, in turn on one running service.

python -m benchmarks.shadow [--models tiny,cnn] [--rounds 9] [--seconds 1]

Closed loop gives rows per second; open loop, at a fixed rate, gives the latencies of a service that has time to
spare. The challenger stays loaded, only its share changes, and every round has every share: medians are told, and
the median of the ratio to no share in the same round, since machines are not the same from one round to the next.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import load, models, servers, wires
from benchmarks.load import Found, Traffic
from benchmarks.servers import SERVERS, Place, Running
from demo import stack
from registry import aliases
from registry.errors import StackError

NONE = 1e-9  # a challenger that is loaded and gets nothing
SHARES = (NONE, 0.1, 1.0)
CONNECTIONS = 8
OPEN_SHARE = 0.3  # of the capacity, which the machine may not have all the time
READY_S = 60.0


def measure(names: tuple[str, ...] = ("tiny", "cnn"), rounds: int = 9, seconds: float = 1.0) -> dict[str, Any]:
    """Return, per model and share, rows per second, latencies at half load, and what the challenger did."""
    return {name: _model(name, rounds, seconds) for name in names}


def _model(name: str, rounds: int, seconds: float) -> dict[str, Any]:
    with _served(name) as (running, challenger):
        requests = [
            wires.OURS_RAW.request(running.place.model, running.place.model.rows(1, seed), running.place.port)
            for seed in range(load.DIFFERENT_BODIES)
        ]
        closed = Traffic(requests, CONNECTIONS, seconds)
        capacity = load.send(running.place.port, closed).requests_per_s
        traffics = {"closed": closed, "open": Traffic(requests, CONNECTIONS, seconds, rate=OPEN_SHARE * capacity)}
        taken: dict[float, list[dict[str, Any]]] = {share: [] for share in SHARES}
        for _ in range(rounds):
            for share in SHARES:
                _challenge(running, challenger, share)
                taken[share].append(_once(running, traffics))
        return {f"share {share:g}": _medians(found, taken[NONE]) for share, found in taken.items()}


@contextmanager
def _served(name: str) -> Iterator[tuple[Running, str]]:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), Path(folder), models.make(name), stack.free_ports(1)[0])
        running = servers.start("vigil-fast", place, SERVERS["vigil-fast"])
        home = place.folder / "bentoml"
        try:
            with models.served_from(home):
                challenger = models.publish(models.make(name, seed=1), home / "files")
                running.ready("/readyz")
                yield running, challenger
        finally:
            running.stop()


def _challenge(running: Running, tag: str, share: float) -> None:
    aliases.challenge(tag, share, "measured")
    deadline = time.monotonic() + READY_S
    while _metric(running, "vigil_model_info", 'stage="challenger"') != 1:
        if time.monotonic() > deadline:
            raise StackError(f"{tag}: the service does not follow the challenge; see {running.log}")
        time.sleep(0.05)
    time.sleep(0.5)  # until the service has read a share that changed


def _once(running: Running, traffics: dict[str, Traffic]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for kind, traffic in traffics.items():
        before = {what: _rows(running, what) for what in ("run", "dropped", "failed")}
        found = load.send(running.place.port, traffic)
        shadow = {f"{kind}_{what}": _rows(running, what) - count for what, count in before.items()}
        shadow[f"{kind}_unanswered"] = found.failed
        said |= shadow | _numbers(kind, found)
    return said


def _numbers(kind: str, found: Found) -> dict[str, float]:
    if kind == "closed":
        return {"rows_per_s": found.requests_per_s}
    return {"p50_us": found.p50_us, "p99_us": found.p99_us, "p999_us": found.p999_us}


def _medians(found: list[dict[str, Any]], without: list[dict[str, Any]]) -> dict[str, float]:
    medians = {what: round(statistics.median(one[what] for one in found), 1) for what in found[0]}
    ratios = {
        f"{what} to none": round(statistics.median(a[what] / b[what] for a, b in zip(found, without, strict=True)), 3)
        for what in ("rows_per_s", "p50_us", "p99_us")
    }
    return medians | ratios


def _rows(running: Running, outcome: str) -> float:
    return _metric(running, "vigil_shadow_rows_total", f'outcome="{outcome}"')


def _metric(running: Running, name: str, label: str) -> float:
    lines = stack.get(running.place.port, "/metrics")[1].decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{") and label in line)


def main() -> None:
    """Measure and print one JSON object."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--models", default="tiny,cnn")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--seconds", type=float, default=1.0)
    chosen = options.parse_args()
    print(json.dumps(measure(tuple(chosen.models.split(",")), chosen.rounds, chosen.seconds), indent=1))


if __name__ == "__main__":
    main()
