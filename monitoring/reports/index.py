"""The index page: every report by model, version and time, with what it found."""

import time
from collections.abc import Sequence
from html import escape
from itertools import groupby

from monitoring import paper
from monitoring.reports.findings import Findings

HEADER = ("time (UTC)", "verdict", "drifted columns", "left out", "quality", "rows", "asked for by")
MOST_NAMES = 6
Kept = tuple[str, Findings]  # the place of a page, from the folder of the index, and what it found


def html(kept: Sequence[Kept]) -> str:
    """Return the page; kept: newest first."""
    models = sorted({found.model for _, found in kept})
    body = [
        f'<p class="lead">{_count(len(kept), "report")} of recorded traffic against the reference of its release.</p>'
    ]
    if not kept:
        body.append("<p>None yet. The monitor writes one a day, and one when traffic or quality calls for it; "
                    "<code>vigil report</code> writes one now.</p>")  # fmt: skip
    for model in models:
        body += _model(model, [one for one in kept if one[1].model == model])
    return paper.page("Vigil: reports", body)


def verdict(found: Findings) -> tuple[str, str]:
    """Return the colour and the words of what a report found, the worst of it."""
    if found.quality is not None and found.quality.under_floor:
        return "red", "quality under its floor"
    if found.drifted:
        return "amber", f"{_count(len(found.drifted), 'column')} drifted"
    if found.empty:
        return "grey", "nothing to compare"
    return ("amber", f"{_count(len(found.broken), 'column')} left out") if found.broken else ("green", "no drift")


def span(seconds: float) -> str:
    """Return a length of time in its largest whole unit: 86400 -> "1d"."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size:g}{unit}"
    return f"{seconds:g}s"


def _model(model: str, kept: Sequence[Kept]) -> list[str]:
    body = [f'<h2 id="{escape(model)}">{escape(model)}</h2>']
    newest: dict[str, float] = {}
    for _, found in kept:
        newest[found.version] = max(found.time_s, newest.get(found.version, 0.0))
    ordered = sorted(kept, key=lambda one: (-newest[one[1].version], one[1].version))  # stable: newest first inside
    for version, group in groupby(ordered, key=lambda one: one[1].version):
        rows = [_row(*one) for one in group]
        body += [f"<h3>{escape(version)}</h3>", paper.table(HEADER, rows)]
    return body


def _row(place: str, found: Findings) -> tuple[str, ...]:
    at = time.strftime("%Y-%m-%d %H:%M", time.gmtime(found.time_s))
    drifted = sorted(found.drifted, key=found.drifted.__getitem__)
    quality = "" if found.quality is None else found.quality.to_text()
    return (
        paper.link(place, at), paper.mark(*verdict(found)), _names(drifted),
        escape(found.empty) or _names([f"{name} {why}" for name, why in found.broken.items()]),
        escape(quality), f"{found.rows:,} in {span(found.window_s)}", escape(found.reason),
    )  # fmt: skip


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return escape(", ".join(names[:MOST_NAMES]) + more)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
