"""Other drift detectors on the same rows, in a Python that has them: clean windows that alarm, CPU per row.

`ask` starts this file with that Python and reads the one line of JSON it prints; it imports nothing of the project.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROWS = (50, 100, 200, 500, 1000)
WINDOWS = 20
COST_ROWS = 10_000
COST_COLUMNS = 20
TIME_S = 900


def ask(name: str, python: str, reference: np.ndarray, traffic: np.ndarray) -> dict[str, Any]:
    """Return what a peer does on clean windows of `traffic` against `reference`, both (rows, columns)."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npz"
        np.savez(file, reference=reference, traffic=traffic)
        done = subprocess.run(
            [python, __file__, name, str(file)], capture_output=True, text=True, timeout=TIME_S, check=False
        )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def evidently(reference: np.ndarray, windows: list[np.ndarray]) -> list[bool]:
    """Say of each window whether the preset's own defaults call any column drifted."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(numerical_columns=[f"c{k}" for k in range(reference.shape[1])])
    normal = Dataset.from_pandas(_frame(reference), definition)
    found = []
    for window in windows:
        run = Report([DataDriftPreset()]).run(Dataset.from_pandas(_frame(window), definition), normal)
        said = [m["value"] for m in json.loads(run.json())["metrics"]]
        found.append(next(value["count"] for value in said if isinstance(value, dict) and "count" in value) > 0)
    return found


def nannyml(reference: np.ndarray, windows: list[np.ndarray]) -> list[bool]:
    """Say of each window whether any column alerts: Jensen-Shannon, limits at three deviations of the chunks."""
    import nannyml as nml

    columns = [f"c{k}" for k in range(reference.shape[1])]
    calculator = nml.UnivariateDriftCalculator(
        column_names=columns, continuous_methods=["jensen_shannon"], chunk_size=len(windows[0])
    )
    done = calculator.fit(_frame(reference)).calculate(_frame(np.concatenate(windows)))
    alerts = done.filter(period="analysis").to_df().xs("alert", axis=1, level=2)
    return [bool(row.any()) for row in alerts.to_numpy()]


def whylogs(reference: np.ndarray, windows: list[np.ndarray]) -> list[bool]:
    """Profile each window, which is what whylogs does in a service; it gives no verdict over all columns."""
    import whylogs as why

    for window in windows:
        why.log(_frame(window)).profile().view().to_pandas()
    return []


def measure(name: str, reference: np.ndarray, traffic: np.ndarray) -> dict[str, Any]:
    """Return the share of clean windows that alarm by rows, and microseconds of CPU per row."""
    judge = {"evidently": evidently, "nannyml": nannyml, "whylogs": whylogs}[name]
    generator = np.random.default_rng(0)
    found: dict[str, Any] = {"windows": WINDOWS, "columns": reference.shape[1]}
    if name != "whylogs":
        found["false_alarms"] = {}
        for rows in ROWS:
            if rows <= len(traffic):
                drawn = [traffic[generator.choice(len(traffic), rows, replace=False)] for _ in range(WINDOWS)]
                found["false_alarms"][rows] = round(float(np.mean(judge(reference, drawn))), 3)
    many = traffic[generator.integers(0, len(traffic), COST_ROWS), :COST_COLUMNS]
    took = []
    for _ in range(2):
        begun = time.process_time()
        judge(reference[:, :COST_COLUMNS], [many])
        took.append(time.process_time() - begun)
    return found | {"us_per_row_of_20": round(min(took) / COST_ROWS * 1e6, 2)}


def _frame(table: np.ndarray) -> Any:
    import pandas as pd

    return pd.DataFrame(table.astype(np.float64), columns=[f"c{k}" for k in range(table.shape[1])])


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    with np.load(sys.argv[2]) as rows:
        print(json.dumps(measure(sys.argv[1], rows["reference"], rows["traffic"])))
