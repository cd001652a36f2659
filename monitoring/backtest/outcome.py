"""What a replay found, for people and for machines."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from monitoring.backtest.firing import Firing
from monitoring.backtest.replay import Span

HEADER = ("alert", "severity", "from", "to", "value", "signals that moved furthest")


@dataclass(frozen=True)
class Outcome:
    """A replay of the traffic of one model. refused: rows that the service would not have answered.

    unknown: rows of versions that are not in the store, which nothing can be said about. picture: the page that shows
    it, or "".
    """

    log: str
    model: str
    profile: str
    spans: tuple[Span, ...]
    refused: int
    unknown: dict[str, int]
    firings: tuple[Firing, ...]
    picture: str = ""


def as_json(outcomes: Sequence[Outcome]) -> str:
    """Return a list with one JSON object for each model."""
    return json.dumps([asdict(outcome) for outcome in outcomes], allow_nan=False)


def as_text(outcomes: Sequence[Outcome]) -> str:
    """Return what was replayed and a table of what fired, for each model."""
    return "\n\n".join("\n".join(_lines(outcome)) for outcome in outcomes)


def clock(at_s: float | None) -> str:
    """Return a time in UTC, or that there was none."""
    return "still firing" if at_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_s))


def moved(firing: Firing) -> str:
    """Return the signals with their largest z."""
    return ", ".join(f"{signal} (z {z:.1f})" for signal, z in firing.signals)


def worst(firing: Firing) -> str:
    """Return the worst value with what it is of."""
    value = f"{firing.value:.0f}" if firing.value >= 1 else f"{firing.value:.3f}"
    return f"{value} {firing.says}"


def _lines(outcome: Outcome) -> list[str]:
    said = [
        f"{outcome.model} {span.version}: {span.rows} rows, {span.labelled} with a label, "
        f"{clock(span.from_s)} to {clock(span.to_s)} UTC"
        for span in outcome.spans
    ]
    late = [span for span in outcome.spans if span.labelled and not span.in_time]
    said += [f"{outcome.model} {span.version}: every label came after its row had left the window of quality"
             for span in late]  # fmt: skip
    if outcome.refused:
        said.append(f"{outcome.refused} rows would have been refused")
    said += [
        f"{outcome.model} {version}: {rows} rows are not judged, the release is not in the store"
        for version, rows in outcome.unknown.items()
    ]
    page = [f"picture: {outcome.picture}"] if outcome.picture else []
    if not outcome.firings:
        return [*said, f"no alert would have fired ({outcome.profile} rules)", *page]
    rows = [
        (one.alert, one.severity, clock(one.from_s), clock(one.to_s), worst(one), moved(one)) for one in outcome.firings
    ]
    widths = [max(len(row[column]) for row in (HEADER, *rows)) for column in range(len(HEADER))]
    table = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (HEADER, *rows)]
    return [*said, "", *table, "", f"{len(rows)} alerts would have fired ({outcome.profile} rules)", *page]
