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
WINDOWS = 40
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


def evidently(reference: np.ndarray, current: np.ndarray) -> bool:
    """Say whether the preset's own defaults call any column drifted."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    columns = [f"c{k}" for k in range(reference.shape[1])]
    definition = DataDefinition(numerical_columns=columns)
    frames = [Dataset.from_pandas(_frame(part), definition) for part in (current, reference)]
    said = json.loads(Report([DataDriftPreset()]).run(*frames).json())
    counts = [m["value"]["count"] for m in said["metrics"] if isinstance(m["value"], dict) and "count" in m["value"]]
    return bool(counts[0] > 0)


def nannyml(reference: np.ndarray, current: np.ndarray) -> bool:
    """Say whether any column alerts: Jensen-Shannon, limits at three deviations of the reference's chunks."""
    import nannyml as nml

    columns = [f"c{k}" for k in range(reference.shape[1])]
    chunk = len(current)
    calculator = nml.UnivariateDriftCalculator(
        column_names=columns, continuous_methods=["jensen_shannon"], chunk_size=chunk
    )
    frame = calculator.fit(_frame(reference)).calculate(_frame(current)).filter(period="analysis").to_df()
    return bool(frame.xs("alert", axis=1, level=2).to_numpy().any())


def whylogs(reference: np.ndarray, current: np.ndarray) -> bool:
    """Profile the window, which is what whylogs does in a service; it gives no verdict over all columns."""
    import whylogs as why

    why.log(_frame(current)).profile().view().to_pandas()
    return False


def measure(name: str, reference: np.ndarray, traffic: np.ndarray) -> dict[str, Any]:
    """Return the share of clean windows that alarm by rows, and microseconds of CPU per row."""
    judge = {"evidently": evidently, "nannyml": nannyml, "whylogs": whylogs}[name]
    generator = np.random.default_rng(0)
    found: dict[str, Any] = {"windows": WINDOWS, "columns": reference.shape[1]}
    if name != "whylogs":
        found["false_alarms"] = {
            rows: float(
                np.mean(
                    [judge(reference, traffic[generator.choice(len(traffic), rows, False)]) for _ in range(WINDOWS)]
                )
            )
            for rows in ROWS
            if rows <= len(traffic)
        }
    many = traffic[generator.integers(0, len(traffic), COST_ROWS), :COST_COLUMNS]
    took = []
    for _ in range(3):
        begun = time.process_time()
        judge(reference[:, :COST_COLUMNS], many)
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
