"""Check and time serving on an NVIDIA GPU in one call: answers, throughput beside a bare loop, refusals.

python -m benchmarks.gpu [--provider cuda|tensorrt|cpu] [--size full|small] [--seconds 0.5] [--out FILE]

Needs `pip install 'vigil[gpu]' onnx` and no torch. `--provider cpu --size small` runs every line of it but
those of CUDA on any machine, through the same bound buffers; its times say nothing of a GPU.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import residual
from registry import store
from registry.release import Draft, InputSpec, Release
from serving import gpu
from serving.engine import Engine, EngineError, GpuSettings
from serving.settings import PROVIDERS

RESULTS = Path(__file__).resolve().parent / "results"
BATCHES = (1, 8, 64)
ROUNDS = 7
LIMITS = {"fp32": 1e-4, "fp16": 2e-2}  # of the certificate: the largest difference of a probability
CPU = "CPUExecutionProvider"

Run = Callable[[], object]


def main(words: list[str]) -> None:
    """Measure, print and write the results."""
    asked = _parser().parse_args(words)
    if asked.refusal:
        print(json.dumps(_asked_for_cuda(Path(asked.refusal))))
        return
    if asked.provider == "cpu":
        gpu.DEVICES[CPU] = "cpu"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENTOML_HOME"] = str(Path(folder) / "bentoml")
        found = measure(asked, Path(folder))
    now = datetime.now(UTC)
    out = Path(asked.out) if asked.out else RESULTS / f"gpu-{now:%Y-%m-%d}.json"
    about = {"date": f"{now:%Y-%m-%dT%H:%M:%SZ}", "command": " ".join(["python -m benchmarks.gpu", *words])}
    text = json.dumps(about | _machine() | found, indent=1) + "\n"
    out.parent.mkdir(exist_ok=True)
    out.write_text(text)
    print(text)


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return what was found for each precision, and what happens where there is no GPU."""
    size = residual.SIZES[asked.size]
    rows = np.random.default_rng(1).standard_normal((max(BATCHES), 3, size.pixels, size.pixels)).astype(np.float32)
    found: dict[str, Any] = {"model": {"size": asked.size, "provider": asked.provider}}
    full = residual.build(size, half=False)
    expected = onnxruntime.InferenceSession(full, providers=[CPU]).run(["probabilities"], {"input": rows})[0]
    for precision in LIMITS:
        model = full if precision == "fp32" else residual.build(size, half=True)
        made = _publish(folder / precision, model, rows, expected, precision)
        found["model"][f"{precision}_mb"] = round(len(model) / 1e6, 1)
        found[precision] = _measure_release(asked, made, rows, expected)
        if precision == "fp32":
            found["without_a_gpu"] = _refusal(made)
    return found


def _measure_release(
    asked: argparse.Namespace, made: Release, rows: np.ndarray, expected: np.ndarray
) -> dict[str, Any]:
    providers = {"cuda": ("cuda", "cpu"), "tensorrt": ("tensorrt", "cuda", "cpu"), "cpu": ("cpu",)}[asked.provider]
    engines, found = {}, {}
    for name, graphs in (("graphs", True), ("no_graphs", False)):
        begun = time.perf_counter()
        cache = store.home() / "tensorrt"
        engines[name] = Engine(made, providers, 0, GpuSettings(cuda_graphs=graphs, tensorrt_cache=cache))
        found[name] = {"load_s": round(time.perf_counter() - begun, 2)} | engines[name].facts()
    engine, precision = engines["graphs"], made.manifest.precision
    found["parity"] = _parity(engine, rows, expected, LIMITS[precision])
    # The bare loop computes as the engine does: the certificate may have cost it TF32, which is faster.
    coarse = {PROVIDERS["cuda"]: {"use_tf32": str(int(found["graphs"]["tf32"]))}}
    told = [(PROVIDERS[name], coarse.get(PROVIDERS[name], {})) for name in providers]
    session = onnxruntime.InferenceSession(made.read("model.onnx"), providers=told)
    found["rows_per_s"] = {str(size): _throughput(asked, session, engines, rows[:size]) for size in BATCHES}
    return found


def _parity(engine: Engine, rows: np.ndarray, expected: np.ndarray, limit: float) -> dict[str, Any]:
    # Sizes that are padded are among them, and the same size again after another one.
    worst = {}
    for count in (1, 3, 8, 33, 64, 3):
        worst[str(count)] = float(np.abs(engine.run(rows[:count])[0] - expected[:count]).max())
    largest = max(worst.values())
    return {"max_difference": largest, "limit": limit, "within": largest <= limit, "by_rows": worst}


def _throughput(
    asked: argparse.Namespace, session: onnxruntime.InferenceSession, engines: dict[str, Engine], rows: np.ndarray
) -> dict[str, Any]:
    # In turns, so that a clock that falls with the heat meets all alike; ratios are those of one round.
    runs: dict[str, Run] = {"bare": _bare(session, rows, gpu.DEVICES[session.get_providers()[0]])}
    for name, engine in engines.items():
        runs[name] = lambda engine=engine: engine.run(rows)  # type: ignore[misc]
        parts = [rows[i : i + 1] for i in range(len(rows))]
        runs[f"{name}_joined"] = lambda engine=engine, parts=parts: engine.run(engine.join(parts))  # type: ignore[misc]
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            rates[name].append(len(rows) * _runs_per_s(run, asked.seconds))
    found: dict[str, Any] = {name: round(median(values), 1) for name, values in rates.items()}
    found["of_bare"] = {
        name: round(median(a / b for a, b in zip(values, rates["bare"], strict=True)), 3)
        for name, values in rates.items() if name != "bare"
    }  # fmt: skip
    return found


def _bare(session: onnxruntime.InferenceSession, rows: np.ndarray, device: str) -> Run:
    # What a loop by hand would do: buffers on the device, bound once; rows go in and answers come out each time.
    def on_device(values: np.ndarray) -> onnxruntime.OrtValue:
        return onnxruntime.OrtValue.ortvalue_from_numpy(values, device, 0)

    classes = session.get_outputs()[0].shape[1]
    given, answer = on_device(rows), on_device(np.zeros((len(rows), classes), np.float32))
    binding = session.io_binding()
    binding.bind_ortvalue_input("input", given)
    binding.bind_ortvalue_output("probabilities", answer)

    def run() -> np.ndarray:
        given.update_inplace(rows)
        session.run_with_iobinding(binding)
        numbers: np.ndarray = answer.numpy()
        return numbers

    return run


def _runs_per_s(run: Run, seconds: float) -> float:
    run()
    count, begun = 0, time.perf_counter()
    while True:
        run()
        count += 1
        took = time.perf_counter() - begun
        if took > seconds:
            return count / took


def _publish(folder: Path, model: bytes, rows: np.ndarray, answers: np.ndarray, precision: str) -> Release:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model)
    np.savez(folder / "heldout.npz", x=rows, probabilities=answers)
    classes = tuple(str(k) for k in range(answers.shape[1]))
    draft = Draft(
        f"residual-{precision}", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "a benchmark", "classification",
        InputSpec("float32", rows.shape[1:]), classes, {}, {}, {"max_difference": 0.0, "limit": LIMITS[precision]},
        {"margin": 0.0, "confidence": 0.95}, {"floor": 0.0}, {}, {}, {}, precision=precision,
    )  # fmt: skip
    return store.publish(draft, folder)


def _refusal(made: Release) -> dict[str, Any]:
    # In a process that sees no GPU: CUDA is asked for, with and without the CPU behind it.
    command = [sys.executable, "-m", "benchmarks.gpu", "--refusal", str(made.path)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _asked_for_cuda(folder: Path) -> dict[str, Any]:
    made, found = store.open_folder(folder, f"{folder.parent.name}:{folder.name}"), {}
    for providers in (("cuda",), ("cuda", "cpu")):
        try:
            Engine(made, providers, 1)
        except EngineError as error:
            found[",".join(providers)] = {"reason": error.reason, "message": str(error)}
        else:
            found[",".join(providers)] = {"reason": "none: it serves"}
    return found


def _machine() -> dict[str, Any]:
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        cards = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()
    except (OSError, subprocess.CalledProcessError):
        cards = []
    versions = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"gpu": cards, "cores": os.cpu_count(), "versions": versions}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--provider", choices=("cuda", "tensorrt", "cpu"), default="cuda")
    parser.add_argument("--size", choices=tuple(residual.SIZES), default="full")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--out", default="", help="file; default benchmarks/results/gpu-DATE.json")
    parser.add_argument("--refusal", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
