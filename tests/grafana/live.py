"""Everything that is watched, for real: service, monitor, Prometheus, Alertmanager, and traffic.

The traffic has what the panels and runbooks are about: labels, drift, rows that are refused, requests that fail, a
challenger, a release that cannot be loaded. The exporters of a machine and its GPU are not ours: what they print is
served from files, node.prom as node_exporter 1.5 printed it, dcgm.prom in the form of dcgm-exporter.
"""

import contextlib
import http.client
import json
import math
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from ending import ended
from listening import answering
from tiny_release import make_draft, make_files, rows_of

from demo import stack
from grafana import build
from grafana.config import Addresses
from grafana.profile import DEMO
from monitoring.judge import slices
from registry import aliases, store
from registry.release import InputSpec
from tests.grafana.conftest import program

SPEC = InputSpec("float32", (3,), ("area", "age", "city"), {"city": ("Bern", "Oslo", "Rome")})
CLASSES = ("no", "yes")
ROWS = 12
HELD_OUT = 1000
PAUSE_S = 0.06
WINDOW = "10s"  # of a rate: what $__rate_interval is for a zoom on the last minutes
EXPORTERS = [Path(__file__).with_name(name) for name in ("node.prom", "dcgm.prom")]
SERVICE = {
    "BENTOML_DO_NOT_TRACK": "True", "VIGIL_DRAIN_S": "0", "VIGIL_REHEARSAL_MB": "0",
    "VIGIL_RECORD_ROWS_PER_S": "100", "VIGIL_LOG_KEEP_DAYS": str(2 / 86_400),
}  # fmt: skip


class Watched:
    """What runs, by its ports, in `folder`, since `begun_s` (Unix time); `ask` is Prometheus."""

    def __init__(self, ports, folder, begun_s):
        self.ports, self.folder, self.begun_s = ports, folder, begun_s
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._send_on)

    def ask(self, query):
        """Return the result of an instant query now: one dict for each series, none without an answer.

        Fails for a query that is refused.
        """
        place = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/query"
        try:
            with urllib.request.urlopen(place, urllib.parse.urlencode({"query": query}).encode(), timeout=10) as reply:
                found = json.load(reply)["data"]
        except urllib.error.HTTPError as error:
            with error:
                pytest.fail(f"{query}: {error.read().decode()}")
        except (OSError, http.client.HTTPException):
            return []  # too busy for now: who needs data asks again
        return found["result"] if found["resultType"] == "vector" else [found]

    def has_data(self, query):
        """Return whether a query gives a number now."""
        return any(math.isfinite(float(series["value"][1])) for series in self.ask(query))

    def _send_on(self):
        generator, kept, i = np.random.default_rng(5), [], 0
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["service"], timeout=10)
        while not self.stopping.wait(PAUSE_S):
            i += 1
            labels = [{"id": ident, "label": said} for ident, said in kept]
            kept = self._predict(connection, generator, i)
            if labels:
                _post(connection, "/v1/labels", {"labels": labels})
            if i % 5 == 0:
                self._misbehave(connection, i)
        connection.close()

    def _predict(self, connection, generator, i):
        rows = rows_of(SPEC, ROWS, seed=i)
        rows[:, 0] += 3  # drift
        rows[0, 1] = 1e9  # outside the range
        ids = [f"row-{i}-{k}" for k in range(ROWS)]
        status, said = _post(connection, "/v1/predict", {"rows": _named(rows), "ids": ids})
        answered = [one["class"] for one in said["predictions"]] if status == 200 else []
        wrong = generator.random(len(answered)) < 0.05
        other = dict(zip(CLASSES, CLASSES[::-1], strict=True))
        truths = [other[one] if bad else one for one, bad in zip(answered, wrong, strict=True)]
        return list(zip(ids, truths, strict=False))

    def _misbehave(self, connection, i):
        (row,) = _named(rows_of(SPEC, 1, seed=i))
        _post(connection, "/v1/predict", {"rows": [row | {"city": "Atlantis"}]})
        _post(connection, "/v1/predict", {"rows": [row | {"age": "old"}]})
        _post(connection, "/v1/predict", {"rows": [row]}, {"X-Request-Timeout": "0.000001"})
        _post(connection, "/v1/predict", {"rows": [row], "ids": [f"row-{i}-0"]})  # an id that was taken
        with socket.create_connection(("127.0.0.1", self.ports["service"]), 5) as odd:
            odd.sendall(b"this is not HTTP\r\n\r\n")
            odd.recv(1000)

    def close(self):
        self.stopping.set()
        if self.thread.ident is not None:
            ended(self.thread)


def _named(rows):
    cities = SPEC.categories["city"]
    return [{"area": float(a), "age": float(b), "city": cities[int(c)]} for a, b, c in rows]


def _post(connection, path, said, headers=None):
    try:
        connection.request("POST", path, json.dumps(said), {"Content-Type": "application/json"} | (headers or {}))
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0, {}


def releases(folder):
    """Publish four releases into BENTOML_HOME; return the tags: previous, champion, challenger, and one that is broken.

    The broken one is the challenger at first.
    """
    right = np.ones(HELD_OUT, dtype=bool)
    parts = slices.to_manifest(slices.fit(("city",), SPEC, rows_of(SPEC, HELD_OUT), right, 0.9))
    quality = {"metric": "accuracy", "floor": 0.9, "slices": parts}
    tags = [
        store.publish(
            make_draft("homes", SPEC, CLASSES, purpose=f"{seed}", quality=quality),
            make_files(folder / f"files-{seed}", SPEC, CLASSES, seed, rows=HELD_OUT),
        )
        for seed in range(4)
    ]
    aliases.promote(tags[0].tag, "first")
    aliases.promote(tags[1].tag, "better", force=True)
    aliases.challenge(tags[3].tag, 1.0, "will be damaged")
    content = bytearray((tags[3].path / "model.onnx").read_bytes())
    content[100] ^= 4
    (tags[3].path / "model.onnx").write_bytes(content)
    return [one.tag for one in tags]


@contextlib.contextmanager
def watched(folder):
    """Run all of it in `folder`; yields a Watched once the service and Prometheus are ready and rows flow.

    What Prometheus has by then is not said: each test waits for what it reads.
    """
    begun_s = time.time()
    for name in ("prometheus", "prometheus-alertmanager"):
        program(name)
    names = ("service", "monitor", "prometheus", "alertmanager")
    ports = dict(zip(names, stack.free_ports(len(names)), strict=True))
    at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    running = stack.Stack(folder, SERVICE | {"BENTOML_HOME": str(folder / "store")})
    with contextlib.ExitStack() as ends, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "store"))
        scraped = [answering(file.read_bytes(), kind="text/plain; version=0.0.4") for file in EXPORTERS]
        node, gpu = map(ends.enter_context, scraped)
        ends.callback(running.stop)
        tags = releases(folder)
        nobody = f"http://127.0.0.1:{stack.free_ports(1)[0]}"
        addresses = Addresses(
            (at["service"],), at["monitor"], at["prometheus"], at["alertmanager"], nobody,
            hosts=(node,), gpus=(gpu,),
        )  # fmt: skip
        build.write(DEMO, folder, addresses)
        _start(running, folder, ports)
        seen = Watched(ports, folder, begun_s)
        ends.callback(seen.close)
        for name, path in (("service", "/readyz"), ("monitor", "/metrics"), ("prometheus", "/-/ready")):
            running.ready(name, ports[name], path)
        refused = b'vigil_model_load_failures_total{model="homes",reason="verify"}'
        stack.wait_for("the broken challenger", lambda: refused in stack.get(ports["service"], "/metrics")[1], 60)
        aliases.challenge(tags[2], 1.0, "promising")
        seen.thread.start()
        yield seen


def _start(running, folder, ports):
    running.start("service", stack.server_command(ports["service"]))
    watch = ["--interval-s", "1", "--window-s", "600", "--min-rows", "50", "--reports", str(folder / "reports")]
    running.start("monitor", [sys.executable, "-m", "vigil", "watch", "--port", str(ports["monitor"]), *watch])
    routes = folder / "alertmanager" / "alertmanager.yml"
    running.start("alertmanager", stack.alertmanager_command(routes, folder / "kept", ports["alertmanager"]))
    rules = folder / "prometheus" / "prometheus.yml"
    running.start("prometheus", stack.prometheus_command(rules, folder / "data", ports["prometheus"]))


def until_all(seen, queries, patience_s):
    """Return the queries that gave no number within `patience_s`, each asked again and again."""
    missing = list(queries)
    end = time.monotonic() + patience_s
    while missing and time.monotonic() < end:
        missing = [query for query in missing if not seen.has_data(query)]
        if missing:
            time.sleep(0.5)
    return missing
