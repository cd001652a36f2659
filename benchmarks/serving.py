"""`/v1/predict` beside the `@bentoml.api` route of the same process: requests per second, interleaved.

The release is digits, trained here; the clients share the cores with the service, so only the ratio is meant.
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
PATHS = ("/v1/predict", "/predict")


def measure() -> dict[str, Any]:
    """Return medians of requests per second by path and connections, and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"BENTOML_HOME": f"{folder}/bentoml", "VIGIL_MODEL": "digits"}
        _vigil(environment, "train", "examples/digits.toml", "--run-folder", f"{folder}/run")
        tag = json.loads(_vigil(environment, "models", "--json"))[0]["tag"]
        _vigil(environment, "promote", tag, "--why", "benchmark")
        port = stack.free_ports(1)[0]
        served = Stack(Path(folder), environment)
        served.start("service", stack.server_command(port))
        try:
            served.ready("service", port, "/readyz")
            return _compare(port)
        finally:
            served.stop()


def _compare(port: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for connections in CONNECTIONS:
            for path in PATHS:
                found.setdefault(f"{path} x{connections}", []).append(_rate(port, path, connections))
    rates = {name: round(statistics.median(values)) for name, values in found.items()}
    ratios = {f"x{c}": round(rates[f"{PATHS[0]} x{c}"] / rates[f"{PATHS[1]} x{c}"], 2) for c in CONNECTIONS}
    return {"requests_per_s": rates, "ratio": ratios}


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
