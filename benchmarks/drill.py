"""Run the drill and keep its result: every fault, or some of them, which then replace what the file says of these.

python -m benchmarks.drill [--only NAME,...] [--clean-s 600] [--good HOME]
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import tables
from drill import run, table, verbs

RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: list[str]) -> int:
    """Run the drill, write benchmarks/results/drill-DATE.json and print the table; return 0 if all is well."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with tempfile.TemporaryDirectory() as folder:
        order = run.Order(Path(folder) / "drill", options.only, options.clean_s, options.good or None)
        keep = keeper(RESULTS, arguments, bool(options.only))
        report = run.run(order, lambda line: print(line, file=sys.stderr, flush=True), keep)
    keep(report)
    print(table.text(report))
    return 0 if report.ok else 1


def keeper(folder: Path, arguments: list[str], some: bool) -> Callable[[run.Report], None]:
    """Return what writes a report, whole or not, into today's file; some: only some faults, so the rest is kept."""
    now = datetime.now(UTC)
    about = {"date": f"{now:%Y-%m-%dT%H:%M:%SZ}", "machine": tables.machine()}
    file = folder / f"drill-{now:%Y-%m-%d}.json"
    earlier = json.loads(file.read_text()) if some and file.exists() else {}
    command = " ".join(["python -m benchmarks.drill", *arguments])

    def keep(report: run.Report) -> None:
        written = about | merged(earlier, run.as_dict(report), command)
        file.write_text(json.dumps(written, indent=1) + "\n")

    return keep


def merged(earlier: dict[str, Any], said: dict[str, Any], command: str) -> dict[str, Any]:
    """Return a result with what `said` does not tell taken from `earlier`; each fault names its command."""
    faults = {one["name"]: one for one in earlier.get("faults", [])}
    faults |= {one["name"]: one | {"command": command} for one in said["faults"]}
    clean = said["clean"] and said["clean"] | {"command": command}
    clean = clean or earlier.get("clean")
    ordered = [faults[name] for name in run.FAULTS if name in faults]
    well = all(one["ok"] for one in ordered) and not (clean and clean["alerts"]) and not said["not_run"]
    missing = [name for name in run.FAULTS if name not in faults]
    return said | {"ok": well and not missing, "clean": clean, "faults": ordered, "not_run": missing}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drill", description=__doc__)
    verbs.add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
