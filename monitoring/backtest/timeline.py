"""The picture of a replay: one line per alert, a bar where it would have fired, traffic below; one HTML file."""

import math
import time
from collections.abc import Sequence
from html import escape

from monitoring import paper
from monitoring.backtest.firing import Firing
from monitoring.backtest.outcome import Outcome, clock, moved, worst

WIDTH, LEFT, ROW, AXIS = 1120, 250, 34, 40
TICKS = 6
COLOURS = {"critical": "var(--red)", "warning": "var(--amber)"}
STEPS_S = (1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 2 * 86_400, 7 * 86_400, 28 * 86_400)
HEADER = ("alert", "severity", "version", "from (UTC)", "to", "value", "signals that moved furthest")


def html(outcomes: Sequence[Outcome]) -> str:
    """Return the page."""
    body: list[str] = []
    for outcome in outcomes:
        body += _model(outcome)
    return paper.page("Vigil: what would have fired", body)


def svg(outcome: Outcome) -> str:
    """Return the bars over time, as SVG that takes its colours from the page."""
    begin, end = _limits(outcome)
    lines = sorted({(one.alert, one.severity) for one in outcome.firings}) or [("no alert", "")]
    height = ROW * (len(lines) + len(outcome.spans)) + AXIS
    parts = _axis(begin, end, height)
    for number, line in enumerate(lines):
        parts.append(_text(0, number, ", ".join(filter(None, line))))
        for one in outcome.firings:
            if (one.alert, one.severity) == line:
                parts += _bar(one, number, begin, end)
    for number, span in enumerate(outcome.spans, start=len(lines)):
        parts.append(_text(0, number, f"rows of {span.version}"))
        place = (_x(span.from_s, begin, end), _x(span.to_s, begin, end))
        parts.append(_rect(place, number, "var(--bar)", 0.35, f"{span.rows} rows"))
    label = f"alerts of {outcome.model} from {clock(begin)} to {clock(end)}"
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    font = 'font-family="system-ui, sans-serif" font-size="13"'
    return f'<svg {size} role="img" aria-label="{escape(label)}" {font}>{"".join(parts)}</svg>'


def _model(outcome: Outcome) -> list[str]:
    rows = sum(span.rows for span in outcome.spans)
    labelled = sum(span.labelled for span in outcome.spans)
    said = f"{rows:,} rows, {labelled:,} with a label, replayed through the {outcome.profile} rules."
    refused = f" {outcome.refused:,} more would have been refused." if outcome.refused else ""
    missing = "".join(f" {n:,} rows of {v} are not judged: the release is gone." for v, n in outcome.unknown.items())
    body = [f"<h2>{escape(outcome.model)}</h2>", f'<p class="lead">{escape(said + refused + missing)}</p>']
    body.append(f"<figure>{svg(outcome)}<figcaption>A pale bar is the time an alert waits before it fires."
                "</figcaption></figure>")  # fmt: skip
    return [*body, paper.table(HEADER, [_row(one) for one in outcome.firings])] if outcome.firings else body


def _row(one: Firing) -> tuple[str, ...]:
    colour = {"critical": "red", "warning": "amber"}.get(one.severity, "grey")
    said = (one.version, clock(one.from_s), clock(one.to_s), worst(one), moved(one))
    return (escape(one.alert), paper.mark(colour, one.severity), *map(escape, said))


def _limits(outcome: Outcome) -> tuple[float, float]:
    times = [at for span in outcome.spans for at in (span.from_s, span.to_s)]
    times += [at for one in outcome.firings for at in (one.since_s, one.to_s) if at is not None]
    begin, end = min(times, default=0.0), max(times, default=1.0)
    return begin, max(end, begin + 1)


def _axis(begin: float, end: float, height: int) -> list[str]:
    step = next((step for step in STEPS_S if (end - begin) / step <= TICKS), STEPS_S[-1] * 4)
    parts, at = [], math.ceil(begin / step) * step
    while at <= end:
        x = _x(at, begin, end)
        parts.append(f'<path d="M{x:.1f} 0V{height - AXIS}" stroke="var(--line)"/>')
        words = time.strftime(
            "%b %d" if step >= 86_400 else "%b %d %H:%M" if step >= 60 else "%H:%M:%S", time.gmtime(at)
        )
        place = f'x="{x:.1f}" y="{height - AXIS + 20}" text-anchor="middle"'
        parts.append(f'<text {place} fill="var(--grey)">{words}</text>')
        at += step
    return parts


def _bar(one: Firing, number: int, begin: float, end: float) -> list[str]:
    colour = COLOURS.get(one.severity, "var(--grey)")
    since, fired = _x(one.since_s, begin, end), _x(one.from_s, begin, end)
    over = _x(end if one.to_s is None else one.to_s, begin, end)
    said = f"{clock(one.from_s)} to {clock(one.to_s)}: {worst(one)} {moved(one)}"
    return [_rect((since, fired), number, colour, 0.3, said), _rect((fired, over), number, colour, 1.0, said)]


def _rect(place: tuple[float, float], number: int, colour: str, opacity: float, said: str) -> str:
    size = f'x="{place[0]:.1f}" y="{number * ROW + 8}" width="{max(place[1] - place[0], 1.5):.1f}" height="{ROW - 14}"'
    return f'<rect {size} rx="2" fill="{colour}" fill-opacity="{opacity}"><title>{escape(said)}</title></rect>'


def _text(x: float, number: int, words: str) -> str:
    return f'<text x="{x}" y="{number * ROW + 23}" fill="var(--ink)">{escape(words)}</text>'


def _x(at_s: float, begin: float, end: float) -> float:
    return LEFT + (WIDTH - LEFT - 20) * (at_s - begin) / (end - begin)
