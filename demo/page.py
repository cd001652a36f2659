"""demo/report.html: one self-contained page of what happened, and run.json with its numbers."""

import base64
import html
import json
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demo import picture, stack
from demo.picture import Series
from monitoring.judge import quality
from monitoring.log import labels, recorder
from monitoring.reports import report
from registry import store
from registry.errors import UserError

QUERIES = {  # series of the picture: (the label that tells them apart, PromQL)
    "drift_z": ("signal", 'max by (signal) (model_signal:drift_z{window="short"})'),
    "drift_limit": ("window", 'max by (window) (vigil_drift_z_threshold{window="short"})'),
    "quality": ("version", "max by (version) (vigil_quality_value)"),
    "quality_lower": ("version", "max by (version) (vigil_quality_lower)"),
    "quality_upper": ("version", "max by (version) (vigil_quality_upper)"),
    "floor": ("metric", "max by (metric) (vigil_quality_floor)"),
}
STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#1f2933}
table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #e4e7eb;text-align:left}
img{max-width:100%}iframe{width:100%;height:900px;border:1px solid #e4e7eb}code{background:#f5f7fa}"""


@dataclass(frozen=True)
class Facts:
    """What the story knows at its end. events: (seconds, text); marks: the few that the picture names."""

    started_s: float
    drift_s: float
    events: list[tuple[float, str]]
    marks: list[tuple[float, str]]
    notices: list[dict[str, Any]]
    history: list[dict[str, Any]]
    tags: tuple[str, str]
    prometheus_port: int | None
    result: dict[str, Any]


def write(folder: Path, out: Path, facts: Facts) -> None:
    """Write run.json and the Evidently report into `folder`, and the page to `out`."""
    series = {name: _series(facts, *query) for name, query in QUERIES.items()}
    run = asdict(facts) | {"series": series}
    (folder / "run.json").write_text(json.dumps(run, indent=1))
    shown = ""
    if facts.prometheus_port is not None:
        drawn = picture.draw(run)
        (folder / "demo.png").write_bytes(drawn)
        shown = _image(drawn, "drift and quality over time")
    parts = [
        f"<h1>Vigil: one run of the demo</h1><p>{time.strftime('%Y-%m-%d %H:%M', time.localtime(facts.started_s))}</p>",
        f"<p><code>{html.escape(json.dumps(facts.result))}</code></p>",
        shown,
        "<h2>Timeline</h2>" + _table(("second", "what happened"), [(f"{at:.1f}", text) for at, text in facts.events]),
        "<h2>Drift per signal</h2>" + _peaks(series["drift_z"], series["drift_limit"]),
        "<h2>Truth against prediction</h2>" + _confusions(facts),
        "<h2>Alerts at the webhook</h2>" + _notices(facts),
        "<h2>Who changed the champion</h2>" + _history(facts),
        "<h2>Evidently</h2>" + _evidently(folder, facts),
    ]
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Vigil demo</title><style>{STYLE}</style>"
    out.write_text(head + "\n".join(parts) + "</html>", encoding="utf-8")


def _series(facts: Facts, label: str, query: str) -> Series:
    if facts.prometheus_port is None:
        return {}
    span = {"query": query, "start": facts.started_s, "end": time.time(), "step": "1s"}
    status, body = stack.get(facts.prometheus_port, f"/api/v1/query_range?{urllib.parse.urlencode(span)}", 30)
    if status != 200:
        return {}
    found = json.loads(body)["data"]["result"]
    return {
        one["metric"].get(label, ""): [(round(at - facts.started_s, 1), float(value)) for at, value in one["values"]]
        for one in found
    }


def _peaks(drift: Series, limits: Series) -> str:
    limit = max((value for points in limits.values() for _, value in points), default=float("nan"))
    rows = sorted(((max(z for _, z in points), name) for name, points in drift.items()), reverse=True)
    shown = [(name, f"{z:.1f}", "over the limit" if z > limit else "") for z, name in rows]
    if not shown:
        return "<p>not computed: the alert part was skipped</p>"
    return f"<p>Largest z in the short window; limit {limit:.2f}.</p>" + _table(("signal", "z", ""), shown)


def _confusions(facts: Facts) -> str:
    name = facts.tags[0].split(":")[0]
    connection = recorder.connect(store.home() / "log.sqlite")
    try:
        measured = quality.by_version(labels.join(connection, name, facts.started_s))
    finally:
        connection.close()
    shown = []
    for tag in facts.tags:
        version = tag.split(":")[1]
        if version in measured:
            classes = store.open_release(tag).manifest.classes
            title = f"{version}: {measured[version].labelled} labelled rows"
            shown.append(_image(picture.confusion(measured[version].confusion, classes, title), title))
    return "".join(shown)


def _notices(facts: Facts) -> str:
    told = [n for n in facts.notices if n["name"] != "Watchdog"]
    rows = [
        (f"{n['time_s'] - facts.started_s:.1f}", n["status"], n["receiver"], n["name"], n["description"]) for n in told
    ]
    return _table(("second", "status", "receiver", "alert", "description"), rows)


def _history(facts: Facts) -> str:
    rows = [
        (f"{c['time_s'] - facts.started_s:.1f}", c["action"], c["to_version"], c["why"], "; ".join(c["forced"]))
        for c in facts.history
    ]
    return _table(("second", "action", "version", "why", "forced although"), rows)


def _evidently(folder: Path, facts: Facts) -> str:
    out = folder / "evidently.html"
    job = report.Job(store.home() / "log.sqlite", facts.tags[0], time.time() - facts.drift_s, out)
    try:
        findings = report.write_report(job)
    except UserError as error:
        return f"<p>{html.escape(str(error))}</p>"
    embedded = html.escape(out.read_text(encoding="utf-8"), quote=True)
    return f"<pre>{html.escape(findings.to_text())}</pre><iframe srcdoc='{embedded}'></iframe>"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _image(png: bytes, text: str) -> str:
    return f"<img alt='{html.escape(text)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
