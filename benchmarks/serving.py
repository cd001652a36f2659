"""Our service beside the documented BentoML one with the same release: requests per second, interleaved.

One 8 x 8 image per request as JSON. Ours checks, counts signals and records every row; the plain one does none of it.
The clients share the cores with the services, so only the ratio is meant.
"""

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from demo import stack
from demo.stack import Stack

ROUNDS = 3
SECONDS = 3.0
CONNECTIONS = (1, 8)
SERVICES = {"vigil": ("service:Vigil", "/v1/predict"), "plain": ("benchmarks.plain_service:Plain", "/predict")}


def measure() -> dict[str, Any]:
    """Return medians of requests per second by path and connections, and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"BENTOML_HOME": f"{folder}/bentoml", "VIGIL_MODEL": "digits", "VIGIL_DRAIN_S": "0"}
        _vigil(environment, "train", "examples/digits.toml", "--run-folder", f"{folder}/run")
        tag = json.loads(_vigil(environment, "models", "--json"))[0]["tag"]
        _vigil(environment, "promote", tag, "--why", "benchmark")
        ports = dict(zip(SERVICES, stack.free_ports(len(SERVICES)), strict=True))
        served = Stack(Path(folder), environment)
        try:
            for name, (target, _) in SERVICES.items():
                served.start(name, stack.server_command(ports[name], target))
                served.ready(name, ports[name], "/readyz")
            return _compare(ports)
        finally:
            served.stop()


def _compare(ports: dict[str, int]) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for connections in CONNECTIONS:
            for name, (_, path) in SERVICES.items():
                found.setdefault(f"{name} x{connections}", []).append(_rate(ports[name], path, connections))
    rates = {name: round(statistics.median(values)) for name, values in found.items()}
    ratios = {f"x{c}": round(rates[f"vigil x{c}"] / rates[f"plain x{c}"], 2) for c in CONNECTIONS}
    return {"requests_per_s": rates, "vigil_over_plain": ratios}


def _rate(port: int, path: str, connections: int) -> float:
    done = [0] * connections
    until = time.monotonic() + SECONDS
    body = json.dumps({"rows": [np.ones((8, 8), dtype=int).tolist()]})

    def client(index: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while time.monotonic() < until:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            done[index] += answer.status == 200
        connection.close()

    threads = [threading.Thread(target=client, args=(i,)) for i in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / SECONDS


def _vigil(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "vigil", *words]
    where = {"cwd": stack.ROOT, "env": os.environ | environment}
    return subprocess.run(command, capture_output=True, text=True, check=True, **where).stdout  # type: ignore[call-overload, no-any-return]
