"""Alerts for real: exporter -> Prometheus -> Alertmanager -> webhook, with the lengths of the demo."""

import contextlib
import http.client
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, start_http_server

from grafana import build, told
from grafana.config import Addresses
from grafana.profile import DEMO
from monitoring.counting.signal_metrics import SignalCollector, SignalState
from monitoring.metrics import ServingMetrics
from tests.grafana.conftest import program

PATIENCE_S = 90
ROWS_A_SECOND = 100
SHARES = np.full((1, 4), 0.25)
CPU = "CPUExecutionProvider"
TITLE = "[page] VigilWrongVersionServed of m"
COMMAND = "vigil rollback --model m --why VigilWrongVersionServed"


class Exporter:
    """A model server's metrics without the server: one signal, whose rows fall into four bins or into one."""

    def __init__(self):
        self.metrics = ServingMetrics(CollectorRegistry())
        self.metrics.registry.register(SignalCollector(self.states))
        self.metrics.ready.set(1)
        self.metrics.drift_psi_threshold.labels("m", "v1").set(0.1)
        self.metrics.drift_min_rows.labels("m", "v1").set(100)
        for window in ("short", "medium", "long"):
            self.metrics.drift_z_threshold.labels("m", "v1", window).set(5)
        self.metrics.model_target.labels("m", "v1").set(1)
        self.metrics.model_before.labels("m", "v0").set(1)
        self.stage("v1", "live")
        self.share = SHARES
        self.counts = np.zeros((1, 4))
        self.looked_s = time.monotonic()
        self.server, self.thread = start_http_server(0, "127.0.0.1", self.metrics.registry)

    def stage(self, version, stage):
        self.metrics.model_info.clear()
        self.metrics.model_info.labels("m", version, stage, CPU, CPU).set(1)

    def states(self):
        now = time.monotonic()
        self.counts = self.counts + self.share * ROWS_A_SECOND * (now - self.looked_s)
        self.looked_s = now
        return [SignalState("m", "v1", ("brightness",), self.counts, SHARES, 1000, slopes=(0.0,))]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Receiver:
    """A webhook that keeps what it is sent: (path, status, alert), oldest first; and the messages to a chat."""

    def __init__(self):
        self.notices, self.messages = [], []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):  # noqa: N802
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.notices += [(self.path, alert["status"], alert) for alert in body.get("alerts", ())]
                receiver.messages += [(one["title"], one["text"]) for one in body.get("attachments", ())]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def wait(self, path, name, status, **annotations):
        """Return the first such alert with these annotations; fail with what came instead."""

        def found():
            such = [a for p, s, a in self.notices if (p, s, a["labels"]["alertname"]) == (path, status, name)]
            return next((a for a in such if annotations.items() <= a["annotations"].items()), None)

        def missing():
            told = sorted({(p, s, a["labels"]["alertname"]) for p, s, a in self.notices})
            return f"{name} {status} at {path}; came: {told}"

        return poll(found, missing)

    def names(self):
        return {alert["labels"]["alertname"] for _, _, alert in self.notices}

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def poll(look, what):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"waited {PATIENCE_S} s for {what()}")


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


@contextlib.contextmanager
def process(log, *command):
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as running:
        try:
            yield running
        finally:
            running.terminate()
            running.wait(60)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def fetched(url):
    """Return the JSON at an address, None where no answer came: for who looks again and again."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return json.load(reply)
    except (OSError, http.client.HTTPException):
        return None


def alerts_of(alertmanager):
    return fetched(f"http://{alertmanager}/api/v2/alerts") or []


@contextlib.contextmanager
def alerting(folder, target, webhook):
    """Run Prometheus and Alertmanager on free loopback ports with the demo's configuration."""
    prometheus, alertmanager, monitor = free_ports(3)
    chat = folder / "chat"
    chat.write_text(f"{webhook}/chat")
    addresses = Addresses((target,), monitor, prometheus, alertmanager, webhook, chat=str(chat))
    build.write(DEMO, folder, addresses)
    with (
        process(
            folder / "alertmanager.log",
            program("prometheus-alertmanager"),
            f"--config.file={folder}/alertmanager/alertmanager.yml",
            f"--storage.path={folder}/alertmanager/data",
            f"--web.listen-address={alertmanager}",
            f"--web.external-url=http://{alertmanager}",
            "--cluster.listen-address=",
        ),
        process(
            folder / "prometheus.log",
            program("prometheus"),
            f"--config.file={folder}/prometheus/prometheus.yml",
            f"--storage.tsdb.path={folder}/prometheus/data",
            f"--web.listen-address={prometheus}",
            f"--web.external-url=http://{prometheus}",
            "--rules.alert.resend-delay=1s",
        ),
    ):
        for address in (alertmanager, prometheus):
            poll(lambda address=address: answers(f"http://{address}/-/ready"), address.__str__)
        yield addresses


def message(receiver):
    """Wait for the text of the page on the wrong version; return its lines."""

    def written():
        return next((text for title, text in receiver.messages if title == TITLE), None)

    return poll(written, lambda: f"a message; came: {receiver.messages}").splitlines()


def looked(prometheus):
    """Return what Prometheus has of v2 at the times that an alert looks back to."""
    query = f'max_over_time(timestamp(vigil_model_info{{version="v2"}})[1h:{told.LOOKED_S}s])'
    url = f"http://{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    found = fetched(url)
    return found and found["data"]["result"]


def muted(alertmanager, name):
    """Return which alerts mute the one of this name."""
    status = {one["labels"]["alertname"]: one["status"] for one in alerts_of(alertmanager)}
    return status.get(name, {}).get("inhibitedBy")


def test_alerts_reach_the_webhook_say_what_moved_and_resolve(tmp_path):
    with contextlib.ExitStack() as stack:
        exporter, receiver = Exporter(), Receiver()
        stack.callback(receiver.close)
        server = stack.enter_context(contextlib.ExitStack())
        server.callback(exporter.close)
        target = f"127.0.0.1:{exporter.server.server_port}"
        addresses = stack.enter_context(alerting(tmp_path, target, f"http://127.0.0.1:{receiver.server.server_port}"))

        receiver.wait("/deadman", "Watchdog", "firing")
        assert not receiver.names() & {"VigilDataDrift", "VigilWrongVersionServed"}
        if "VigilAbsent" in receiver.names():  # the first scrape of a busy machine takes more than two seconds
            receiver.wait("/page", "VigilAbsent", "resolved")
        receiver.notices.clear()

        exporter.share = np.array([[1.0, 0, 0, 0]])
        drift = receiver.wait("/ticket", "VigilDataDrift", "firing")
        assert drift["labels"]["model"] == "m" and drift["labels"]["severity"] == "warning"
        assert "moved, surely and by much: brightness (z " in drift["annotations"]["description"]

        exporter.metrics.model_target.clear()
        exporter.metrics.model_target.labels("m", "v2").set(1)
        wrong = receiver.wait("/page", "VigilWrongVersionServed", "firing")
        assert wrong["labels"]["version"] == "v2"
        assert (wrong["annotations"]["live"], wrong["annotations"]["previous"]) == ("m:v1", "m:v0")

        lines = message(receiver)
        assert lines[0] == "m does not serve the version that was promoted."
        assert lines[2:5] == ["Live: m:v1", "Before: m:v0", f"To go back: {COMMAND}"]
        assert lines[6] == f"Runbook: http://{addresses.monitor}/runbooks/VigilWrongVersionServed.md"
        assert lines[7] == "Dashboard: /d/vigil-rollout?var-model=m"

        exporter.stage("v2", "live")
        receiver.wait("/page", "VigilWrongVersionServed", "resolved")
        receiver.wait("/ticket", "VigilDataDrift", "resolved")

        poll(lambda: looked(addresses.prometheus), lambda: "v2 in the hour before")
        server.close()
        # The version is the last of the hour before: the servers tell no more. An absence told late, from before the
        # first scrape, knows none.
        receiver.wait("/page", "VigilAbsent", "firing", live="m:v2")

        manager = addresses.alertmanager
        poll(lambda: muted(manager, "VigilInstanceDown"), lambda: f"VigilInstanceDown muted; {alerts_of(manager)}")
