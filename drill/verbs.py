"""The verb of `vigil` that runs the drill; it imports what it needs when it runs."""

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path

Parent = argparse.ArgumentParser
LONGEST_CLEAN_S = 3600


def drill(options: argparse.Namespace) -> int:
    """Plant real faults in the real stack, one by one, and measure which alert comes, when, and what is false."""
    import drill.run as run  # in a Bento, which has no such file, the error says what is missing
    import drill.table as table

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    order = run.Order(Path(options.out), options.only, options.clean_s, options.good or None)
    report = run.run(order, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(run.as_dict(report)) if options.json else table.text(report))
    return 0 if report.ok else 1


def add(verb: Callable[..., Parent]) -> None:
    """Add the verb to the command line; verb: makes a subparser of a function."""
    made = verb(drill)
    add_options(made)
    made.add_argument("--out", default="drill-out", help="where all its files go: new, empty, or of a drill before")


def add_options(made: Parent) -> None:
    """Add what says which drill."""
    made.add_argument(
        "--only", type=_names, default=(), metavar="NAME,...", help="these faults alone; a wrong name lists all"
    )
    made.add_argument(
        "--clean-s", type=_clean, default=60.0, help="first the usual traffic for so long, without a fault; 0: not"
    )
    made.add_argument("--good", default="", metavar="HOME", help="a BENTOML_HOME whose champion of digits is used")


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _clean(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= LONGEST_CLEAN_S:
        raise argparse.ArgumentTypeError(f"accepted are 0 to {LONGEST_CLEAN_S} seconds, found '{text}'")
    return number
