"""ONNX Runtime alone, called in a loop without any server: what is there to be served.

On one core, on all, and on all less what the client used: a second process burns as much as the load generator did.
python -m benchmarks.raw MODEL CORES SECONDS measures in this process, bound to so many cores, and prints JSON;
python -m benchmarks.raw burn SHARE uses that share of a core until it is ended.
"""

import json
import os
import subprocess
import sys
import time

import onnxruntime

from benchmarks import models

BATCHES = (1, 8, 32, 64, 128)
SECONDS = 0.5
TURN_S = 0.002


def measure(model: str, client_cores: float, seconds: float = SECONDS) -> dict[str, dict[str, int]]:
    """Return rows per second by batch size, for each way to share the cores. seconds: of one batch size."""
    cores = len(os.sched_getaffinity(0))
    found = {"1 core": _run(model, 1, seconds), f"{cores} cores": _run(model, cores, seconds)}
    burning = subprocess.Popen([sys.executable, "-m", "benchmarks.raw", "burn", str(client_cores)])
    try:
        found[f"{cores} cores less a client of {client_cores:.2f}"] = _run(model, cores, seconds)
    finally:
        burning.kill()
        burning.wait()
    return found


def _run(model: str, cores: int, seconds: float) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.raw", model, str(cores), str(seconds)]
    found: dict[str, int] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def _here(model: str, cores: int, seconds: float) -> dict[str, int]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    made = models.make(model)
    best: dict[str, int] = {}
    for threads in sorted({1, cores}):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(made.content, options, providers=["CPUExecutionProvider"])
        for batch in BATCHES:
            best[str(batch)] = max(best.get(str(batch), 0), _rows_per_s(session, made, batch, seconds))
    return best


def _rows_per_s(session: onnxruntime.InferenceSession, model: models.Model, batch: int, seconds: float) -> int:
    rows = {"input": model.rows(batch)}
    session.run(None, rows)
    runs, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        session.run(None, rows)
        runs += 1
    return round(runs * batch / (time.perf_counter() - begun))


def _burn(share: float) -> None:
    while True:
        begun = time.perf_counter()
        while time.perf_counter() - begun < TURN_S * share:
            pass
        time.sleep(TURN_S * (1 - min(share, 1.0)))


if __name__ == "__main__":
    if sys.argv[1] == "burn":
        _burn(float(sys.argv[2]))
    else:
        print(json.dumps(_here(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
