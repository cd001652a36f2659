"""A status as text for a terminal; colour, where wanted, means a judgement."""

import time

from oncall.api import RUNBOOK, SUMMARY, Firing
from oncall.status import Model, Quality, Status
from registry.plain import plain

COLOURS = {"good": "32", "warning": "33", "bad": "31"}
FRESH_S = 60.0  # after which Prometheus has scraped all that it scrapes
BY_SEVERITY = {"critical": "bad", "warning": "warning"}
Line = tuple[str, str, str]  # what, how it is, judgement


def text(status: Status, coloured: bool) -> str:
    """Return the status as lines: the tiles, one block a model, what fires, what could not be asked."""
    blocks = [
        [("vigil status", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.time_s)), "")],
        [(tile.title, tile.text, tile.judgement) for tile in status.tiles],
        *(_model(model, status) for model in status.models),
        *(_firing(one, status.time_s, "FIRING") for one in status.firing),
        *([*_firing(one, status.time_s, "pending"), *_since(one, status)] for one in status.pending),
        [("unknown", problem, "bad") for problem in status.problems],
    ]
    width = max(len(what) for block in blocks for what, _, _ in block)
    lines = ["\n".join(_line(line, width, coloured) for line in block) for block in blocks if block]
    return "\n\n".join(lines)


def age(seconds: float) -> str:
    """Return a length of time in its largest unit: "12 s", "3 min", "5 h", "2 d"."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _line(line: Line, width: int, coloured: bool) -> str:
    what, said, judgement = line
    what, said = plain(what), plain(said)  # reasons, summaries and labels are typed by others
    shown = f"\x1b[{COLOURS[judgement]}m{said}\x1b[0m" if coloured and judgement else said
    return f"{what:{width}}  {shown}".rstrip()


def _model(model: Model, status: Status) -> list[Line]:
    # Of several promoted models servers need not serve each.
    idle = model.live == [] and model.promoted and not any(one.live for one in status.models)
    live = "not known" if model.live is None else ", ".join(f"{v} on {p}" if p else v for v, p in model.live)
    lines: list[Line] = [
        (f"model {model.name}", live or "nothing is live", "bad" if idle else ""),
        ("as promoted", *_agreement(model)),
    ]
    if (change := model.changed) is not None:
        when = age(status.time_s - change.time_s)
        lines.append(("changed", f"{change.action} {when} ago by {change.who}: {change.why}", ""))
    if model.measured and model.live == []:
        lines += [(what, "unknown: nothing is live", "") for what in ("drift", "quality")]
    elif model.measured and model.live is not None:
        lines.append(("drift", *_drift(model)))
        lines += [("quality", *_quality(one)) for one in model.quality] or [("quality", "no labels yet", "")]
    # Typed here it would be refused.
    elsewhere = model.follows and not model.waits_for_itself
    where = f"where releases are promoted, not here: {model.undo}" if elsewhere else model.undo
    return [*lines, ("to undo", where, "")] if model.undo else lines


def _agreement(model: Model) -> tuple[str, str]:
    if model.promoted is None:
        return "no alias file here", ""
    if model.agrees is None:
        return f"not known; promoted is {model.promoted}", ""
    if not model.live:
        return f"served by nobody; promoted is {model.promoted}", ""
    if model.unseen and not model.agrees:
        return f"not seen yet: promoted is {model.promoted}, since after the last scrape", "warning"
    return ("yes", "good") if model.agrees else (f"no: promoted is {model.promoted}", "bad")


def _drift(model: Model) -> tuple[str, str]:
    drift = model.drift
    if drift is None:
        # The rules look at intervals, and what they add up needs two scrapes.
        return f"not judged yet; {model.rows} rows answered" if model.rows else "no rows yet", ""
    if drift.over:
        return f"moved: {', '.join(drift.over)}", "warning"
    return f"none; nearest to its limit {drift.worst} at {drift.share:.0%} ({drift.window} window)", "good"


def _quality(quality: Quality) -> tuple[str, str]:
    said = f"{quality.metric} {quality.value:.3f} ({quality.lower:.3f} to {quality.upper:.3f})"
    said += f" on {quality.rows} labelled rows"
    if quality.floor is None:
        return said, ""
    judgement = "bad" if quality.upper < quality.floor else "good" if quality.lower >= quality.floor else "warning"
    return f"{said}, floor {quality.floor:.3f}", judgement


def _since(pending: Firing, status: Status) -> list[Line]:
    # Of a condition that held when the rules were first looked at nobody knows whether it is one.
    if status.started_s is None or pending.since_s - status.started_s > FRESH_S:
        return []
    up = age(status.time_s - status.started_s)
    return [("", f"Prometheus started {up} ago: it may be that it had not scraped yet; look again in a minute", "")]


def _firing(firing: Firing, now_s: float, state: str) -> list[Line]:
    of = f" of {model}" if (model := firing.labels.get("model")) else ""
    muted = ", muted" if firing.muted else ""
    said = f"{firing.name}{of}, {firing.severity}{muted}, for {age(now_s - firing.since_s)}"
    lines: list[Line] = [(state, said, BY_SEVERITY.get(firing.severity, ""))]
    if summary := firing.annotations.get(SUMMARY):
        lines.append(("", summary, ""))
    return [*lines, ("runbook", found, "")] if (found := firing.annotations.get(RUNBOOK)) else lines
