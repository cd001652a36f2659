"""The load generator: built from load.c when first used, run against a port, its findings as one dataclass."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry.errors import StackError

SOURCE = Path(__file__).with_name("load.c")
BUILD = SOURCE.parents[1] / "build"
DIFFERENT_BODIES = 8


@dataclass(frozen=True)
class Traffic:
    """What is sent: whole requests in turn, and how large an answer may be.

    rate: requests per second at their own times (open loop), 0 as fast as answers come (closed loop).
    """

    requests: Sequence[bytes]
    connections: int
    seconds: float
    rate: float = 0.0
    least_bytes: int = 0
    most_bytes: int = 1 << 40
    warmup_s: float = 0.3


@dataclass(frozen=True)
class Found:
    """What came back in the counted time. Latencies in microseconds; client_cores: what the generator itself used.

    broken: connections that ended under a request. refused: connections that nobody took. unfinished: without
    an answer when the time was over and 2 s more. wrong_size: status 200 with a body that cannot be right.
    """

    ok: int
    requests_per_s: float
    statuses: dict[str, int]
    wrong_size: int
    broken: int
    refused: int
    unfinished: int
    last_body_bytes: int
    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    client_cores: float

    @property
    def failures(self) -> dict[str, int]:
        """Return how many requests did not get a right answer, by what they got instead."""
        named = {"wrong size": self.wrong_size, "broken": self.broken, "unfinished": self.unfinished}
        other = {f"status {status}": count for status, count in self.statuses.items() if status != "200"}
        return {what: count for what, count in (other | named).items() if count}

    @property
    def failed(self) -> int:
        """Return how many requests did not get a right answer."""
        return sum(self.failures.values())


def compiled(source: Path, target: str, *options: str) -> Path:
    """Return the program or library built from `source`, built anew if older; raises StackError without a compiler."""
    made = BUILD / target
    if made.exists() and made.stat().st_mtime > source.stat().st_mtime:
        return made
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise StackError(f"{source.name}: no C compiler on this machine; install one: apt-get install gcc libc6-dev")
    BUILD.mkdir(exist_ok=True)
    command = [compiler, "-std=gnu17", "-O2", "-Wall", "-o", str(made), str(source), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise StackError(f"{source.name}: cannot be compiled:\n{done.stderr[-2000:]}")
    return made


def send(port: int, traffic: Traffic) -> Found:
    """Send `traffic` to a loopback port and return what came back; raises StackError if nothing listens."""
    with tempfile.TemporaryDirectory() as folder:
        return Found(**json.loads(_ended(start(port, traffic, Path(folder)))))


def start(port: int, traffic: Traffic, folder: Path) -> subprocess.Popen[str]:
    """Start sending and return the process; `finish` waits for it. `folder` must live as long."""
    files = []
    for i, request in enumerate(traffic.requests):
        files.append(folder / f"request-{i}")
        files[-1].write_bytes(request)
    numbers = {
        "port": port, "connections": traffic.connections, "seconds": traffic.seconds, "warmup": traffic.warmup_s,
        "rate": traffic.rate, "least": traffic.least_bytes, "most": traffic.most_bytes,
    }  # fmt: skip
    options = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    command = [str(compiled(SOURCE, "load")), *options, *map(str, files)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Found:
    """Wait until the sending has ended and return what came back."""
    return Found(**json.loads(_ended(process)))


def _ended(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate()
    if process.returncode:
        raise StackError(error.strip() or f"load: ended with status {process.returncode}")
    return out
