"""The verbs of `vigil` for the person on call; each imports what it needs when it runs."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oncall.status import Status

Parent = argparse.ArgumentParser
PROMETHEUS, ALERTMANAGER = "VIGIL_PROMETHEUS", "VIGIL_ALERTMANAGER"
SERVICE, MONITOR = "VIGIL_SERVICE", "VIGIL_MONITOR"
DEFAULTS = {
    PROMETHEUS: "http://127.0.0.1:9090", ALERTMANAGER: "http://127.0.0.1:9093",
    SERVICE: "http://127.0.0.1:3000", MONITOR: "http://127.0.0.1:9109",
}  # fmt: skip
CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def status(options: argparse.Namespace) -> int:
    """Say how things are now: what serves, budgets, drift, quality, what fires; exit 1 if something does."""
    import oncall.status as found  # in a Bento, which has no such file, the error says what is missing

    prometheus, alertmanager = _address(options.prometheus, PROMETHEUS), _address(options.alertmanager, ALERTMANAGER)
    service, monitor = _address(options.service, SERVICE), _address(options.monitor, MONITOR)
    while True:
        now = found.read(options.model, prometheus, alertmanager, service, monitor)
        _show(now, options)
        if not options.watch:
            return now.code
        time.sleep(options.every_s)


def add(verb: Callable[..., Parent], model: Parent) -> None:
    """Add the verbs to the command line; verb: makes a subparser of a function and its parents."""
    shown = verb(status, model)
    for program, variable, when in (
        ("Prometheus", PROMETHEUS, ""), ("Alertmanager", ALERTMANAGER, ""),
        ("Service", SERVICE, ", asked if Prometheus does not"), ("Monitor", MONITOR, ", asked if Prometheus does not"),
    ):  # fmt: skip
        shown.add_argument(
            f"--{program.lower()}", default="", metavar="URL",
            help=f"where {program} answers{when}; default: {variable}, else {DEFAULTS[variable]}",
        )  # fmt: skip
    shown.add_argument("--watch", action="store_true", help="show it again and again, until Ctrl-C")
    shown.add_argument("--every-s", type=_seconds, default=5.0, help="with --watch: how often (5)")


def _show(now: "Status", options: argparse.Namespace) -> None:
    from oncall import page
    from oncall.status import as_dict

    if options.json:
        print(json.dumps(as_dict(now)), flush=True)
        return
    terminal = sys.stdout.isatty()
    coloured = terminal and not os.environ.get("NO_COLOR")
    clear = CLEAR if options.watch and terminal else ""
    print(clear + page.text(now, coloured), flush=True)


def _address(asked: str, variable: str) -> str:
    from oncall.api import address

    return address(asked or os.environ.get(variable) or DEFAULTS[variable], variable)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.1 <= number <= 86_400:
        raise argparse.ArgumentTypeError(f"accepted are 0.1 to 86400 seconds, found '{text}'")
    return number
