"""Measure what the README claims, side by side where two ways are compared, and write one JSON file.

python -m benchmarks.run [signals|serving|start|training|loading|evaluate|variants|explore|recording|shadow ...]
"""

import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import evaluate, explore, loading, recording, serving, shadow, signals, start, training, variants

RESULTS = Path(__file__).resolve().parent / "results"
MEASURES: dict[str, Callable[[], dict[str, Any]]] = {
    "signals": signals.measure,
    "start": start.measure,
    "serving": serving.measure,
    "training": training.measure,
    "loading": loading.measure,
    "evaluate": evaluate.measure,
    "variants": variants.measure,
    "explore": explore.measure,
    "recording": recording.measure,
    "shadow": shadow.measure,
}
PACKAGES = ("bentoml", "onnxruntime", "numpy", "torch")


def main(names: list[str]) -> None:
    """Run the named measures, or all, print them and write them with machine, date and command."""
    found = {}
    for name in names or list(MEASURES):
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        found[name] = MEASURES[name]()
    now = datetime.now(UTC)
    about = {
        "date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "machine": {"processor": platform.machine(), "cores": _cores(), "python": platform.python_version()},
        "versions": {package: version(package) for package in PACKAGES},
    }
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"cpu-{now:%Y-%m-%d}.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}  # what else was measured on this day stays
    commands = {name: f"python -m benchmarks.run {name}" for name in found}
    text = json.dumps(earlier | about | found | {"commands": earlier.get("commands", {}) | commands}, indent=1) + "\n"
    file.write_text(text)
    print(text)


def _cores() -> int:
    return os.cpu_count() or 1


if __name__ == "__main__":
    main(sys.argv[1:])
