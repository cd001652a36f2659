"""The verbs of `vigil` that look back at recorded traffic; each imports what it needs when it runs."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from registry import verbs

Parent = argparse.ArgumentParser
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


def add(verb: Callable[..., Parent], model: Parent, log: Parent) -> None:
    """Add the verbs to the command line; verb: makes a subparser of a function and its parents."""
    reported = verb(report, model, log)
    reported.add_argument("tag", nargs="?", help="name:version; the champion if left out")
    reported.add_argument("--window", type=duration, default="24h", help="how far back: 90m, 24h (the default), 7d")
    reported.add_argument("--out", type=Path, help="write this file alone, and leave the folder of reports as it is")
    add_folder(reported)
    reported.add_argument("--open", action="store_true", help="show it in a browser; without one, print its address")


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


def _opened(place: str) -> bool:
    # In a terminal alone Python would start a text browser, which shows nothing of such a page.
    import webbrowser

    screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(screen) and webbrowser.open(place)
