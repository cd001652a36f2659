"""Proofs by real runs: a log with broken columns is reported, and the link of an alert leads to that report."""

import json
import re
import threading
import urllib.request
from contextlib import closing
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin, urlparse

import numpy as np
import pytest
from ending import ended
from filled_log import fill
from tiny_release import HOMES, TABLE

from demo.stack import free_ports, get
from grafana import rules
from grafana.profile import PRODUCTION
from grafana.statement import Places
from monitoring.log import logfile, redaction
from monitoring.monitor import watch
from monitoring.monitor.parts import WatchSettings
from monitoring.reports import report
from monitoring.reports.report import Job
from registry import aliases

TEXT = np.frombuffer(b"textasnumber", dtype=np.float32)  # not what anybody meant, but three numbers


class Sections(HTMLParser):
    """The links of a page by the id of the heading that they stand under."""

    def __init__(self):
        super().__init__()
        self.links, self.under = {}, ""

    def handle_starttag(self, tag, attributes):
        said = dict(attributes)
        self.under = said.get("id", self.under) if tag == "h2" else self.under
        if tag == "a":
            self.links.setdefault(self.under, []).append(said["href"])


def rewrite(log, change):
    """Put other numbers into the recorded rows; change: of a row, float32 (columns,)."""
    with closing(logfile.connect(log)) as connection, connection:
        for seq, blob in connection.execute("SELECT seq, row FROM predictions").fetchall():
            row = change(seq, np.frombuffer(blob, np.float32).copy())
            connection.execute("UPDATE predictions SET row = ? WHERE seq = ?", (row.tobytes(), seq))


def constant(seq, row):
    row[1] = 7.0
    return row


def unknown(seq, row):
    row[1] = 99.0  # the index of no city
    return row


def text(seq, row):
    return TEXT if seq % 2 else row


def endless(seq, row):
    row[0] = np.inf
    return row


@pytest.mark.proof
@pytest.mark.parametrize(
    ("spec", "change", "dropped", "column", "said"),
    [
        (TABLE, None, (2,), "weight", "left out"),
        (TABLE, constant, (), "height", "drifted"),
        (TABLE, text, (), "age", "drifted"),
        (TABLE, endless, (), "age", "left out"),
        (HOMES, unknown, (), "city", "left out"),
    ],
    ids=["all-null", "constant", "text in a number", "endless", "a category that is none"],
)
def test_a_broken_column_of_a_log_is_reported_and_the_others_are_judged(
    tmp_path, publish, spec, change, dropped, column, said
):
    made, log = publish("m", spec=spec, classes=("a", "b")), tmp_path / "log.sqlite"
    hidden = redaction.Redaction(spec, dropped=dropped) if dropped else None
    fill(log, made, [f"r-{i}" for i in range(400)], redaction=hidden, seed=5)
    if change is not None:
        rewrite(log, change)
    found = report.write_report(Job(log, made.tag, 1e12, tmp_path / "report.html"))
    where = {"left out": found.broken, "drifted": found.drifted}[said]
    assert column in where and found.rows == 400, (found.broken, found.drifted)
    assert {"confidence", "predicted_class"} <= found.passed.keys() | found.drifted.keys()
    assert (tmp_path / "report.html").stat().st_size > 100_000
    print(f"{column}: {said}; {json.dumps(found.broken | {k: round(v, 4) for k, v in found.drifted.items()})}")


@pytest.mark.proof
def test_the_link_of_an_alert_leads_to_its_report_as_a_person_clicks_it(tmp_path, publish, eventually):
    made, log, port = publish("m-1", spec=TABLE, classes=("a", "b")), tmp_path / "log.sqlite", free_ports(1)[0]
    aliases.promote(made.tag, "first")
    fill(log, made, [f"r-{i}" for i in range(600)], time_s=watch.time.time() - 700, seed=5)
    rewrite(log, constant)
    stop, settings = threading.Event(), WatchSettings(log, port=port, interval_s=0.2, report_check_s=0.1)
    thread = threading.Thread(target=watch.watch, args=(settings, stop))
    thread.start()
    try:
        file = rules.rule_files(PRODUCTION, Places(reports=f"http://127.0.0.1:{port}/reports/"))["drift"]
        (alert,) = [
            rule for group in file["groups"] for rule in group["rules"] if rule.get("alert") == "VigilDataDrift"
        ][:1]
        clicked = re.sub(r"{{ *\$labels\.model *}}", "m-1", alert["annotations"]["reports_url"])
        address, place = urldefrag(clicked)

        def links():
            page = Sections()
            page.feed(get(port, urlparse(address).path)[1].decode())
            return page.links.get(place, [])

        (link,) = eventually("a report of the alert", links, 120)
        with urllib.request.urlopen(urljoin(address, link), timeout=10) as answer:
            assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/html")
            page = answer.read().decode()
        assert made.version in link and link.endswith("-alert.html")
        assert "height" in page and len(page) > 100_000
        print(f"{clicked} -> {link}, {len(page) / 1e6:.1f} MB")
    finally:
        stop.set()
        ended(thread)
