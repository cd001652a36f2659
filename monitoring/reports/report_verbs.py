"""The verbs of `vigil` that look back at recorded traffic; each imports what it needs when it runs."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from registry import verbs

Parent = argparse.ArgumentParser
NAMES = ("time", "label", "prediction", "label_time")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def report(options: argparse.Namespace) -> int:
    """Write Evidently's HTML report of the recorded traffic against the reference, into the folder of reports."""
    from monitoring.reports import report as evidently

    tag = options.tag or verbs.champion_of(options.model)
    job = evidently.Job(verbs.log_of(options), tag, options.window, options.out, options.reports)
    found = evidently.write_report(job)
    print(found.to_json() if options.json else found.to_text())
    if options.open and not _opened(place := Path(found.out).absolute().as_uri()):
        print(place, file=sys.stderr if options.json else sys.stdout)
    return 0


def backtest(options: argparse.Namespace) -> int:
    """Replay recorded traffic through the alert rules: what would have fired, and when."""
    from dataclasses import replace

    from monitoring.backtest import outcome, run, timeline
    from registry.errors import DataError

    if options.out and not options.out.parent.is_dir():
        raise DataError(f"{options.out}: there is no folder {options.out.parent}; make it or choose another --out")
    order = run.Order(
        options.path, options.model, (options.begin, options.end), options.profile,
        {name: getattr(options, name) for name in NAMES if getattr(options, name)}, options.ray, options.processes,
    )  # fmt: skip
    found = run.backtest(order)
    if options.out:
        found = [replace(one, picture=str(options.out)) for one in found]
        options.out.write_text(timeline.html(found), encoding="utf-8")
    print(outcome.as_json(found) if options.json else outcome.as_text(found))
    return 0


def add(verb: Callable[..., Parent], model: Parent, log: Parent) -> None:
    """Add the verbs to the command line; verb: makes a subparser of a function and its parents."""
    reported = verb(report, model, log)
    reported.add_argument("tag", nargs="?", help="name:version; the champion if left out")
    reported.add_argument("--window", type=duration, default="24h", help="how far back: 90m, 24h (the default), 7d")
    reported.add_argument("--out", type=Path, help="write this file alone, and leave the folder of reports as it is")
    add_folder(reported)
    reported.add_argument("--open", action="store_true", help="show it in a browser; without one, print its address")
    _add_backtest(verb(backtest))


def add_folder(verb: Parent) -> None:
    """Add the option that names the folder of the reports."""
    verb.add_argument("--reports", type=Path, help="their folder; default: VIGIL_REPORTS, or reports beside the log")


def duration(text: str) -> float:
    """Return the seconds that 90m, 24h or 7d say; raises ArgumentTypeError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = float(found[1]) * UNITS_S[found[2]] if found else 0.0
    if not seconds:
        raise argparse.ArgumentTypeError(f"accepted are lengths such as 45s, 90m, 24h or 7d, found '{text}'")
    return seconds


def _add_backtest(replayed: Parent) -> None:
    replayed.add_argument("path", type=Path, metavar="LOG", help="a prediction log, or a Parquet or CSV file")
    replayed.add_argument("--model", default="", help="of a log: one alone; for a file: the release, or its champion")
    replayed.add_argument("--from", dest="begin", type=moment, default=-1e12, metavar="TIME", help="in UTC: 2026-01-31,"
                          " 2026-01-31T12:00 or Unix seconds")  # fmt: skip
    replayed.add_argument("--to", dest="end", type=moment, default=1e12, metavar="TIME", help="as --from")
    replayed.add_argument("--profile", choices=("production", "demo"), default="production", help="whose rules")
    for name in NAMES:
        replayed.add_argument(f"--{name.replace('_', '-')}", default="", metavar="COLUMN", help="of a file, its name")
    replayed.add_argument("--out", type=Path, metavar="FILE", help="write a page with the picture of it")
    replayed.add_argument("--processes", type=int, default=1, metavar="N", help="that read parts of the log")
    replayed.add_argument("--ray", default="", metavar="ADDRESS", help="read on a Ray cluster; local begins one here")


def moment(text: str) -> float:
    """Return the Unix time that a date, a time in UTC or a number says; raises ArgumentTypeError."""
    from datetime import UTC, datetime

    try:
        if re.fullmatch(r"-?\d+(\.\d+)?", text):
            return float(text)
        found = datetime.fromisoformat(text)
    except ValueError:
        accepted = "2026-01-31, 2026-01-31T12:00 or Unix seconds"
        raise argparse.ArgumentTypeError(f"accepted are times such as {accepted}, found '{text}'") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _opened(place: str) -> bool:
    # In a terminal alone Python would start a text browser, which shows nothing of such a page.
    import webbrowser

    screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(screen) and webbrowser.open(place)
