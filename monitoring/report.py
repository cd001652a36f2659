"""Evidently's report of recorded traffic against the reference: for people, beside the alerts.

The only importer of evidently, and only in a child process with limits on time and memory: an odd
column must not take the monitor down. Columns are the monitoring signals, so images and tables read alike.
"""

import io
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monitoring import recorder, signals
from registry import store
from registry.errors import DataError, UserError
from registry.release import HELDOUT, Release

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 5_000
MOST_COLUMNS = 50
TIME_S = 300
MEMORY_BYTES = 8 << 30
RISK = 0.05  # of any false finding in one report: each column is tested at RISK / columns
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Job:
    """tag: whose rows are read and whose held-out rows are the reference. window_s: how far back."""

    log: Path
    tag: str
    window_s: float
    out: Path


@dataclass(frozen=True)
class Findings:
    """drifted, passed: columns with the p-value of their test. broken: columns left out, with the reason."""

    rows: int
    reference_rows: int
    drifted: dict[str, float]
    passed: dict[str, float]
    broken: dict[str, str]
    out: str

    def to_json(self) -> str:
        """Return one JSON object."""
        return json.dumps(asdict(self))

    def to_text(self) -> str:
        """Return lines for a person."""
        head = f"{self.rows} recorded rows against {self.reference_rows} reference rows: {self.out}"
        drifted = [f"  drifted  {name:20} p = {p:.2g}" for name, p in sorted(self.drifted.items(), key=lambda i: i[1])]
        broken = [f"  left out {name:20} {why}" for name, why in self.broken.items()]
        return "\n".join([head, *(drifted or ["  no column drifted"]), *broken])


def write_report(job: Job) -> Findings:
    """Write the HTML report to `job.out` and return what it found.

    Raises DataError if there are no rows in the window, no folder for the file, or the report outgrows its limits.
    """
    if not job.out.parent.is_dir():
        raise DataError(f"{job.out}: there is no folder {job.out.parent}; make it or choose another --out")
    said = json.dumps({key: str(value) for key, value in asdict(job).items()})
    command = [sys.executable, "-m", "monitoring.report", said]
    environment = os.environ | {"DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_S, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(f"report: not done after {TIME_S} s; choose a shorter --window-s") from error
    if done.returncode == 2:
        raise DataError(done.stderr.strip())
    if done.returncode != 0:
        raise DataError(f"report: failed in its own process: {done.stderr.strip()[-2000:]}")
    return Findings(**json.loads(done.stdout))


def build(reference: "pd.DataFrame", current: "pd.DataFrame", out: Path) -> Findings:
    """Write the report of two tables with the same columns; broken columns become findings, not errors.

    Methods are named, since the default changes with the number of rows: Kolmogorov-Smirnov for numbers,
    total variation with a permutation test for text, both at RISK over all columns together.
    """
    reference, current = _capped(reference), _capped(current)
    broken = _broken(reference, current)
    usable = [c for c in reference.columns if c not in broken][:MOST_COLUMNS]
    broken |= {c: f"more than {MOST_COLUMNS} columns" for c in reference.columns if c not in usable and c not in broken}
    if not usable:
        raise DataError(f"report: no usable column: {broken}")
    limit = RISK / len(usable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside evidently and pandas
        values = _tested(reference[usable], current[usable], limit, out)
    drifted = {c: p for c, p in values.items() if p < limit}
    passed = {c: p for c, p in values.items() if p >= limit}
    return Findings(len(current), len(reference), drifted, passed, broken, str(out))


def frames(job: Job) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Return the reference and the recorded rows of the window as tables of signals."""
    release = store.open_release(job.tag)
    with np.load(io.BytesIO(release.read(HELDOUT)), allow_pickle=False) as heldout:
        reference = _table(release, heldout["x"], heldout[release.manifest.output])
    return reference, _table(release, *_recorded(release, job))


def _tested(reference: "pd.DataFrame", current: "pd.DataFrame", limit: float, out: Path) -> dict[str, float]:
    # Writes the HTML; returns the p-value of each column.
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import DataSummaryPreset

    columns = list(reference.columns)
    texts = [c for c in columns if _is_text(reference[c])]
    definition = DataDefinition(numerical_columns=[c for c in columns if c not in texts], categorical_columns=texts)
    tests = [ValueDrift(column=c, method="TVD" if c in texts else "ks", threshold=limit) for c in columns]
    datasets = [Dataset.from_pandas(frame, definition) for frame in (current, reference)]
    run = Report([*tests, DataSummaryPreset()], include_tests=True).run(*datasets)
    run.save_html(str(out))
    return _p_values(json.loads(run.json()))


def _recorded(release: Release, job: Job) -> tuple[np.ndarray, np.ndarray]:
    query = """SELECT row, probabilities FROM predictions
        WHERE model = ? AND version = ? AND time_s >= ? ORDER BY seq DESC LIMIT ?"""
    connection = recorder.connect(job.log)
    try:
        since = time.time() - job.window_s
        found = connection.execute(query, (release.name, release.version, since, MOST_ROWS)).fetchall()
    finally:
        connection.close()
    if not found:
        raise DataError(
            f"{job.log}: holds no row of {release.tag} in the last {job.window_s:g} s; send some, or widen --window-s"
        )
    spec = release.manifest.input
    rows = np.frombuffer(b"".join(row for row, _ in found), dtype=spec.dtype).reshape(-1, *spec.shape)
    flat = np.frombuffer(b"".join(p for _, p in found), dtype=np.float32)
    return rows, flat.reshape(len(rows), -1)


def _table(release: Release, rows: np.ndarray, outputs: np.ndarray) -> "pd.DataFrame":
    import pandas as pd

    manifest = release.manifest
    spec, classes = manifest.input, manifest.classes
    values = signals.compute(spec, rows, outputs, manifest.threshold)
    table = pd.DataFrame(values, columns=list(signals.names(spec, len(classes))))
    for name, known in signals.indices(spec, classes).items():
        table[name] = [known[int(k)] for k in table[name]]
    return table


def _capped(frame: "pd.DataFrame") -> "pd.DataFrame":
    return frame if len(frame) <= MOST_ROWS else frame.sample(MOST_ROWS, random_state=0)


def _broken(reference: "pd.DataFrame", current: "pd.DataFrame") -> dict[str, str]:
    found = {str(c): "is not in the reference" for c in current.columns if c not in reference.columns}
    for column in reference.columns:
        if column not in current.columns:
            found[column] = "is absent"
        elif current[column].isna().all() or reference[column].isna().all():
            found[column] = "holds no value"
        elif _is_text(reference[column]) != _is_text(current[column]):
            found[column] = "is not text" if _is_text(reference[column]) else "is not a number"
    return found


def _is_text(column: "pd.Series[Any]") -> bool:
    return bool(column.dtype.kind == "O")


def _p_values(said: dict[str, Any]) -> dict[str, float]:
    drift = [m for m in said["metrics"] if m["config"]["type"].endswith(":ValueDrift")]
    return {m["config"]["column"]: float(m["value"]) for m in drift}


def _child(said: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    given = json.loads(said)
    job = Job(Path(given["log"]), given["tag"], float(given["window_s"]), Path(given["out"]))
    try:
        print(build(*frames(job), job.out).to_json())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1]))
