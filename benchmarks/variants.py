"""What fp16 and int8 gain over fp32 for a network of convolutions on digits: three files, timed in turns."""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from training.export import export, variants

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"fp32": "release", "fp16": "release-fp16", "int8": "release-int8"}
# 375,000 parameters. The gates let everything pass: what is measured here is what they judge by.
SETTINGS = (
    "data.first_rows=0", "model.width=76", "loop.epochs=8", 'export.variants=["fp16", "int8"]',
    "export.most_accuracy_lost=1.0", "export.least_speedup=0.0",
)  # fmt: skip


def measure() -> dict[str, Any]:
    """Return accuracy, largest difference and size of each precision, and medians and ratios at 1 and 64 rows."""
    with tempfile.TemporaryDirectory() as folder:
        parity = _train(Path(folder))["parity"]
        sessions = {
            precision: export.open_file(Path(folder) / "run" / place / "model.onnx")
            for precision, place in FOLDERS.items()
        }
    rows = load_digits().images.astype(np.uint8)
    found: dict[str, Any] = {
        row["precision"]: {key: row[key] for key in ("value", "max_difference", "size_mb")}
        for row in parity["variants"]
    }
    for size in variants.BATCH_ROWS:
        calls = [partial(session.run, None, {"input": rows[:size]}) for session in sessions.values()]
        medians = variants.medians(calls)
        for precision, median in zip(sessions, medians, strict=True):
            found[precision][f"ms_batch_{size}"] = round(median * 1e3, 4)
            found[precision][f"times_as_fast_batch_{size}"] = round(medians[0] / median, 2)
    return found


def _train(folder: Path) -> dict[str, Any]:
    words = [sys.executable, "vigil.py", "train", "examples/digits.toml", "--run-folder", str(folder / "run"), "--json"]
    for setting in SETTINGS:
        words += ["--set", setting]
    environment = os.environ | {"BENTOML_HOME": str(folder / "bentoml")}
    done = subprocess.run(words, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
