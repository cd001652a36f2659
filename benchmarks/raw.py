"""ONNX Runtime alone, called in a loop without any server: what is there to be served.

python -m benchmarks.raw MODEL CORES measures in this process, bound to so many cores, and prints JSON.
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


def measure(model: str) -> dict[str, dict[str, int]]:
    """Return rows per second by batch size: on one core, which is what a busy client leaves of two, and on two."""
    found = {}
    for cores in (1, 2):
        command = [sys.executable, "-m", "benchmarks.raw", model, str(cores)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[f"{cores} core" + "s" * (cores > 1)] = json.loads(done.stdout)
    return found


def _here(model: str, cores: int) -> dict[str, int]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    made = models.make(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    session = onnxruntime.InferenceSession(made.content, options, providers=["CPUExecutionProvider"])
    return {str(batch): _rows_per_s(session, made, batch) for batch in BATCHES}


def _rows_per_s(session: onnxruntime.InferenceSession, model: models.Model, batch: int) -> int:
    rows = {"input": model.rows(batch)}
    session.run(None, rows)
    runs, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < SECONDS:
        session.run(None, rows)
        runs += 1
    return round(runs * batch / (time.perf_counter() - begun))


if __name__ == "__main__":
    print(json.dumps(_here(sys.argv[1], int(sys.argv[2]))))
