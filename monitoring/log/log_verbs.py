"""`vigil log show|export|erase`: the verbs of the prediction log; each imports what it needs when it runs."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monitoring.reports.report_verbs import duration
from registry import verbs
from registry.errors import ConfigError, DataError

EXTRA = "pip install 'vigil[export]'"


def show(options: argparse.Namespace) -> int:
    """Print recorded rows, the newest last: columns by name, what was answered, and the label if it came."""
    from monitoring.log import printed

    log = verbs.log_of(options)
    rows = printed.newest(log, _chosen(options), options.rows)
    print(json.dumps({"log": str(log), "rows": rows}) if options.json else printed.as_text(rows))
    return 0


def export(options: argparse.Namespace) -> int:
    """Write recorded rows to a Parquet file, or what is new on the log in parts to a URL."""
    if bool(options.file) == bool(options.to):
        raise ConfigError("log export: accepted is one of FILE.parquet and --to URL")
    _demand_fitting(options)
    try:
        from monitoring.log import parquet, sink
    except ImportError as error:
        raise ConfigError(f"log export: {error}; {EXTRA}") from error
    log = verbs.log_of(options)
    if options.file:
        written = parquet.write_file(log, Path(options.file), _chosen(options), options.force)
        print(written.to_json() if options.json else written.to_text())
        return 0
    while True:
        exported = sink.export(log, options.to, whole=options.this_hour)
        print(exported.to_json() if options.json else exported.to_text(), flush=True)
        if not options.every:
            return 0
        time.sleep(options.every)


def _demand_fitting(options: argparse.Namespace) -> None:
    """Raise ConfigError for an option that would be ignored."""
    if options.file and (options.this_hour or options.every):
        raise ConfigError("log export: FILE.parquet gets all rows at once; with --to alone go --this-hour and --every")
    if options.to and options.force:
        raise ConfigError("log export: --force replaces a FILE.parquet; --to URL adds what is new, so leave it out")
    if options.to and (options.model or options.version or options.since or options.until):
        raise ConfigError("log export: --to writes all that is new; choose rows with FILE.parquet alone")


def erase(options: argparse.Namespace) -> int:
    """Erase all rows, labels and challengers' answers of ids, also from the free space of the files."""
    from monitoring.log import erase as erasing

    ids = [*options.id, *(erasing.read_ids(Path(options.ids)) if options.ids else ())]
    if not ids:
        raise ConfigError("log erase: name whose rows: --id ID, which may be repeated, or --ids FILE with one a line")
    log = verbs.log_of(options)
    erased = erasing.erase(log, ids, options.exact, options.state)
    if not erased.rows + erased.labels + erased.shadow:
        print("nothing on the log has such an id", file=sys.stderr)
    exports = [(url, *_erase_exported(log, url, ids, options.exact)) for url in options.exports]
    lines = [erased.to_text(), *(f"{url}: {rows} rows and labels in {parts} parts" for url, parts, rows in exports)]
    said = asdict(erased) | {"exports": [{"url": url, "parts": parts, "rows": rows} for url, parts, rows in exports]}
    print(json.dumps(said) if options.json else "\n".join(lines))
    return 0


def _erase_exported(log: Path, url: str, ids: list[str], exact: bool) -> tuple[int, int]:
    try:
        from monitoring.log import sink
    except ImportError as error:
        raise ConfigError(f"log erase: {error}; {EXTRA}") from error
    from monitoring.log import erase as erasing

    return sink.erase(url, erasing.wanted(log, ids, exact))


def add_to(every: Any, as_json: argparse.ArgumentParser, log: argparse.ArgumentParser) -> None:
    """Add `log` and its verbs to the command line; every: the subparsers of `vigil`."""
    text = "Look into the prediction log, export it, and erase people from it."
    actions = every.add_parser("log", help=text, description=text).add_subparsers(required=True, metavar="ACTION")
    made = {}
    for run in (show, export, erase):
        said = (run.__doc__ or "").split("\n")[0]
        made[run] = actions.add_parser(run.__name__, help=said, description=said, parents=[as_json, log])
        made[run].set_defaults(run=run)
    for one in (made[show], made[export]):
        one.add_argument("--model", default="", help="rows of this model alone")
        one.add_argument("--version", default="", help="rows of this version alone")
        one.add_argument("--since", type=duration, metavar="LENGTH", help="how far back: 90m, 24h, 7d; default: all")
        one.add_argument("--until", type=duration, metavar="LENGTH", help="leave out what is newer than this")
    made[show].add_argument("--rows", type=_positive, default=10, metavar="N", help="the newest N; default 10")
    made[export].add_argument("file", nargs="?", default="", metavar="FILE.parquet")
    made[export].add_argument("--force", action="store_true", help="replace FILE.parquet where it is there already")
    made[export].add_argument("--to", default="", metavar="URL", help="file:///folder, s3://bucket/folder, ...")
    made[export].add_argument("--this-hour", action="store_true", help="also what the hour under way brought so far")
    made[export].add_argument("--every", type=duration, metavar="LENGTH", help="go on, and look again after that long")
    made[erase].add_argument("--id", action="append", default=[], metavar="ID", help="of a row or of a request")
    made[erase].add_argument("--ids", default="", metavar="FILE", help="a text file with one id a line")
    made[erase].add_argument(
        "--exports", action="append", default=[], metavar="URL", help="also from the parts exported there"
    )
    made[erase].add_argument(
        "--state", type=Path, metavar="FILE", help="of the monitor, as given to vigil watch; default: beside the log"
    )
    made[erase].add_argument("--exact", action="store_true", help="ids of rows alone, not ID-0, ID-1, ... of a request")


def _chosen(options: argparse.Namespace) -> Any:
    from monitoring.log.decoded import Selection

    if options.version and not options.model:
        raise DataError("log: --version needs --model")
    now_s = time.time()
    since_s = now_s - options.since if options.since else 0.0
    until_s = now_s - options.until if options.until else float("inf")
    return Selection(options.model, options.version, since_s, until_s)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"accepted is a whole number above 0, found '{text}'")
    return int(text)
