"""Evidently's report of recorded traffic against the reference: for people, beside the alerts.

The only importer of evidently, and only in a child process with limits on time and memory: an odd
column must not take the monitor down. Columns are the monitoring signals, so images and tables read alike.
"""

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from monitoring.reports import blank, index, shelf, traffic
from monitoring.reports.findings import Findings, parse
from monitoring.reports.shelf import Retention
from registry import durable
from registry.errors import DataError, UserError

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 5_000
MOST_COLUMNS = 50
TIME_S = 300
MEMORY_BYTES = 8 << 30
NICENESS = 10  # a report waits for the service, never the service for a report
RISK = 0.05  # of any false finding in one report: each column is tested at RISK / columns
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """tag: whose rows are read and whose held-out rows are the reference. window_s: how far back from `until_s`.

    out: the page, or None to put it into the folder `reports` with its findings, as a report of `kind`.
    reason: who asked for it, in words.
    """

    log: Path
    tag: str
    window_s: float
    out: Path | None = None
    reports: Path | None = None
    kind: str = "asked"
    reason: str = "a person"
    until_s: float = field(default_factory=time.time)
    retention: Retention = Retention()


@dataclass(frozen=True)
class Compared:
    """What two tables of the same columns say; fields as in `findings.Findings`."""

    rows: int
    reference_rows: int
    drifted: dict[str, float]
    passed: dict[str, float]
    broken: dict[str, str]
    empty: str = ""


def write_report(job: Job) -> Findings:
    """Write the HTML report and return what it found; a window without rows is a finding too.

    Raises DataError if there is no log, no folder for the file or one in its place, or the report outgrows its limits.
    """
    with start(job) as child:
        try:
            said, complaint = child.communicate(timeout=TIME_S)
        except subprocess.TimeoutExpired as error:
            child.kill()
            raise DataError(f"report: not done after {TIME_S} s; choose a shorter --window") from error
    if child.returncode == 2:
        raise DataError(complaint.strip())
    if child.returncode != 0:
        raise DataError(f"report: failed in its own process: {complaint.strip()[-2000:]}")
    return parse(said)


def start(job: Job, said: int | IO[str] = subprocess.PIPE) -> "subprocess.Popen[str]":
    """Return the child process that writes the report, begun; said: where what it found and its complaints go.

    Raises DataError if there is no log or no folder for the file.
    """
    if job.out is not None and job.out.is_dir():
        raise DataError(f"{job.out}: is a folder; name a file with --out, or a folder of reports with --reports")
    if job.out is not None and not job.out.parent.is_dir():
        raise DataError(f"{job.out}: there is no folder {job.out.parent}; make it or choose another --out")
    if not job.log.exists():
        raise DataError(f"{job.log}: there is no prediction log; name the one of the service with --log")
    words = json.dumps(asdict(job), default=str)
    command = [sys.executable, "-m", "monitoring.reports.report", words]
    environment = os.environ | {"DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=said, stderr=said, text=True, env=environment)


def make(job: Job) -> Findings:
    """Write the report in this process, which loads evidently; return what it found."""
    out = job.out or shelf.place(_folder(job), job.tag, job.kind, job.until_s)
    window = traffic.Window(job.log, job.until_s - job.window_s, job.until_s, MOST_ROWS)
    reference, current, quality = traffic.frames(job.tag, window)
    if len(current):
        compared = build(reference, current, out)
    else:
        compared = Compared(0, len(reference), {}, {}, {}, _no_rows(job))
    found = Findings(
        job.tag, job.reason, job.until_s, job.window_s, **asdict(compared), quality=quality, out=str(out)
    )  # fmt: skip
    if found.empty:
        durable.write_atomically(out, blank.html(found).encode())
    if job.out is None:
        shelf.add(_folder(job), found, job.retention)
    return found


def build(reference: "pd.DataFrame", current: "pd.DataFrame", out: Path) -> Compared:
    """Write the report of two tables with the same columns to `out`; broken columns become findings, not errors.

    Methods are named, since the default changes with the number of rows: Kolmogorov-Smirnov for numbers,
    total variation with a permutation test for text, both at RISK over all columns together.
    """
    reference, current = (_capped(frame).replace([np.inf, -np.inf], np.nan) for frame in (reference, current))
    usable, broken = comparable(reference, current)
    if not usable:
        return Compared(len(current), len(reference), {}, {}, broken, "no column can be compared")
    limit = RISK / len(usable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside evidently and pandas
        values = _tested(reference[usable], current[usable], limit, out)
    drifted = {c: p for c, p in values.items() if p < limit}
    passed = {c: p for c, p in values.items() if p >= limit}
    return Compared(len(current), len(reference), drifted, passed, broken)


def comparable(reference: "pd.DataFrame", current: "pd.DataFrame") -> tuple[list[str], dict[str, str]]:
    """Return the columns of two tables that can be compared, at most MOST_COLUMNS, and why the others are left out."""
    broken = _broken(reference, current)
    sound = [column for column in reference.columns if column not in broken]
    return sound[:MOST_COLUMNS], broken | dict.fromkeys(sound[MOST_COLUMNS:], f"more than {MOST_COLUMNS} columns")


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
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    run.save_html(str(part))
    os.replace(part, out)  # whoever reads the page sees all of it
    return _p_values(json.loads(run.json()))


def _folder(job: Job) -> Path:
    return job.reports or shelf.usual_place(job.log)


def _no_rows(job: Job) -> str:
    return f"{job.log} holds no row of {job.tag} in the {index.span(job.window_s)} before; send some, or widen --window"


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
        elif not _is_text(reference[column]) and not _are_numbers(reference[column], current[column]):
            found[column] = "is neither text nor a number"
    return found


def _is_text(column: "pd.Series[Any]") -> bool:
    return bool(column.dtype.kind == "O")


def _are_numbers(*columns: "pd.Series[Any]") -> bool:
    return all(column.dtype.kind in "iufb" for column in columns)


def _p_values(said: dict[str, Any]) -> dict[str, float]:
    drift = [m for m in said["metrics"] if m["config"]["type"].endswith(":ValueDrift")]
    return {m["config"]["column"]: float(m["value"]) for m in drift}


def _job(words: str) -> Job:
    said = json.loads(words)
    paths = {name: Path(said[name]) if said[name] else None for name in ("out", "reports")}
    return Job(**said | paths | {"log": Path(said["log"]), "retention": Retention(**said["retention"])})


def _child(words: str) -> int:
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        print(make(_job(words)).to_json())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_child(sys.argv[1]))
