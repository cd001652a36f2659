"""The folder that reports are kept in: <model>/<version>/<time>-<kind>.html, findings beside, one index page.

A page is there when it is whole, and its findings after it; the index is written anew from what lies there, under
a lock, so that the monitor and a person may add reports at once.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from monitoring.reports import findings, index
from monitoring.reports.findings import Findings
from registry import durable, release
from registry.errors import DataError

INDEX, PAGE, FOUND = "index.html", ".html", ".json"
KINDS = ("daily", "alert", "asked")
DAY_S = 86_400


@dataclass(frozen=True)
class Retention:
    """most: reports kept of a model, the newest. days: no report is kept longer."""

    most: int = 60
    days: float = 90.0


def usual_place(log: Path) -> Path:
    """Return the folder of the reports: `VIGIL_REPORTS`, else `reports` beside the log."""
    return Path(os.environ.get("VIGIL_REPORTS") or log.parent / "reports")


def demand(folder: Path) -> None:
    """Raise DataError if no folder can be at `folder`: a file is there or above it, or it cannot be looked at."""
    try:
        there = next((one for one in (folder, *folder.absolute().parents) if one.exists()), folder.parent)
    except OSError as error:  # closed, too long, a circle of links
        cure = "name a folder that you may write to with --reports or VIGIL_REPORTS"
        raise DataError(f"{folder}: no reports can be kept there: {error}; {cure}") from error
    if not there.is_dir():
        raise DataError(
            f"{folder}: no reports can be kept there, since {there} is a file; accepted is a folder, made if it is not "
            "there: name it with --reports or VIGIL_REPORTS"
        )


def place(folder: Path, tag: str, kind: str, now_s: float) -> Path:
    """Return where a report of `tag` made now goes; its folder is there then."""
    model, version = tag.split(":")
    at = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_s))
    found = folder / model / version / f"{at}-{kind}{PAGE}"
    found.parent.mkdir(parents=True, exist_ok=True)
    return found


def kept(folder: Path) -> list[tuple[Path, Findings]]:
    """Return the pages of the folder with their findings, newest first; a page without them is none."""
    found = []
    for path in sorted(_findings(folder)):
        with suppress(DataError, OSError):
            found.append((path.with_suffix(PAGE), findings.parse(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda one: -one[1].time_s)


def add(folder: Path, found: Findings, retention: Retention) -> None:
    """Keep the findings of the page that was written at `found.out`, remove what is too old, write the index."""
    with durable.locked(folder / ".lock"):
        durable.write_atomically(Path(found.out).with_suffix(FOUND), found.to_json().encode())
        _remove_old(folder, retention, found.time_s)
        text = index.html([(path.relative_to(folder).as_posix(), one) for path, one in kept(folder)])
        durable.write_atomically(folder / INDEX, text.encode())


def _findings(folder: Path) -> Iterator[Path]:
    # Only what has the name of a report: the folder may hold other things.
    for path in folder.glob(f"*/*/*{FOUND}"):
        version, model = path.parent.name, path.parent.parent.name
        if release.NAME.fullmatch(model) and release.VERSION.fullmatch(version) and path.stem.split("-")[-1] in KINDS:
            yield path


def _remove_old(folder: Path, retention: Retention, now_s: float) -> None:
    for page in folder.glob(f"*/*/*{PAGE}"):  # of a report that was killed before its findings were there
        if not page.with_suffix(FOUND).exists() and page.stat().st_mtime < now_s - DAY_S:
            page.unlink(missing_ok=True)
    seen: dict[str, int] = {}
    for page, found in kept(folder):
        seen[found.model] = seen.get(found.model, 0) + 1
        if seen[found.model] > retention.most or found.time_s < now_s - retention.days * DAY_S:
            page.unlink(missing_ok=True)
            page.with_suffix(FOUND).unlink(missing_ok=True)
            with suppress(OSError):  # other reports of the version are left
                page.parent.rmdir()
