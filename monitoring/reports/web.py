"""What the monitor's HTTP server answers under /reports/: the index and the pages it lists, and nothing else."""

import re
from pathlib import Path

from monitoring.monitor.health import Answer, Page
from monitoring.reports import index
from monitoring.reports.shelf import INDEX, KINDS, PAGE
from registry import release

PREFIX = "/reports/"
KIND = "text/html; charset=utf-8"
# No address is put together from what a client sends: it names a report, or there is none.
REPORT = re.compile(
    rf"({release.NAME.pattern})/({release.VERSION.pattern})/(\d{{8}}-\d{{6}}-(?:{'|'.join(KINDS)}){PAGE})"
)


def pages(folder: Path) -> Page:
    """Return what answers for the folder of reports; 404 for what is no report."""

    def page(path: str, accepts: str) -> Answer:
        found = answer(folder, path)
        if found is None:
            return Answer(404, "text/plain; charset=utf-8", f"no such report; all are listed at {PREFIX}\n".encode())
        return Answer(200, KIND, found)

    return page


def answer(folder: Path, path: str) -> bytes | None:
    """Return the page at `path`, which begins with PREFIX, as UTF-8 HTML; None where there is none."""
    place = path.removeprefix(PREFIX)
    if place in ("", INDEX):
        found = _read(folder / INDEX)
        return index.html([]).encode() if found is None else found
    named = REPORT.fullmatch(place)
    return _read(folder.joinpath(*named.groups())) if named else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else None
    except OSError:
        return None
