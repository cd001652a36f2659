"""Three servers scraped by one Prometheus: what it says of the traffic is what one process with all rows says."""

import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest
from tiny_release import TABLE, make_draft, make_files, rows_of

from grafana import build
from grafana.config import Addresses
from grafana.profile import DEMO
from monitoring.shift import drift, reference
from registry import aliases, store
from registry.release import REFERENCE
from tests.grafana.conftest import program
from tests.grafana.test_delivery import answers, free_ports, process

REPLICAS, REQUESTS, ROWS = 3, 12, 150
PATIENCE_S = 90
PLACE = 'window="long"'  # of 3 minutes: it holds all rows, however slow the machine is


@pytest.fixture(scope="module")
def release(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        made = store.publish(make_draft(spec=TABLE), make_files(place / "files", TABLE, rows=3000))
        aliases.promote(made.tag, "first")
        return made


@contextlib.contextmanager
def prometheus(folder, targets):
    """Run Prometheus with the demo's rules on a free port; yield a function that asks it, {} without an answer."""
    (address,) = free_ports(1)
    build.write(DEMO, folder, Addresses(targets=targets, prometheus=address))
    command = [
        program("prometheus"), f"--config.file={folder}/prometheus/prometheus.yml",
        f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}",
    ]  # fmt: skip

    def ask(query):
        url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                found = json.load(reply)["data"]["result"]
        except urllib.error.HTTPError as error:
            with error:
                pytest.fail(f"{query}: {error.read().decode()}")
        except (OSError, http.client.HTTPException):
            return {}  # too busy for now
        return {
            tuple(one["metric"].get(name, "") for name in ("signal", "bin")): float(one["value"][1]) for one in found
        }

    with process(folder / "log", *command):
        ask.ready = lambda: answers(f"http://{address}/-/ready")
        yield ask


def test_the_drift_of_three_servers_is_that_of_all_their_rows(release, place, start_ready, eventually, tmp_path):
    services = [start_ready(place) for _ in range(REPLICAS)]
    rows = rows_of(TABLE, REQUESTS * ROWS, seed=9)
    rows[:, 1] += np.linspace(0, 2, len(rows))  # each server sees other traffic
    with prometheus(tmp_path, tuple(service.url.removeprefix("http://") for service in services)) as ask:
        eventually("Prometheus", ask.ready, PATIENCE_S)
        eventually("three servers", lambda: ask("sum(vigil_ready)").get(("", "")) == REPLICAS, PATIENCE_S)
        said = []
        for i, some in enumerate(np.array_split(rows, REQUESTS)):
            status, answer = services[i * REPLICAS // REQUESTS].call("/v1/predict", {"rows": some.tolist()})
            assert status == 200
            said += [one["probabilities"] for one in answer["predictions"]]
        made = reference.parse(release.read(REFERENCE))
        whole = drift.window_of(made, TABLE, rows, np.array(said, dtype=np.float32))
        total = whole.counts.sum()

        def counted():
            found = ask("sum by (signal, bin) (vigil_signal_bin_total)")
            return sum(found.values()) == total and found

        found = eventually("all rows", counted, PATIENCE_S)
        by_signal = {bins.name: counts for bins, counts in zip(made.bins, whole.counts, strict=True)}
        assert all(by_signal[signal][int(b)] == rows_in_bin for (signal, b), rows_in_bin in found.items())
        expected = {finding.signal for finding in drift.judge(made, whole, "long")}
        assert "height" in expected and "age" not in expected

        def judged():
            told = {signal for signal, _ in ask(f"model_signal:drifted_z{{{PLACE}}}")}
            return told == expected

        eventually("the verdict of one process", judged, PATIENCE_S)
        # increase() guesses what lies before the first and behind the last scrape: the less, the more there were.
        exact = drift.scores(made, whole)["height"]

        def near():
            z = ask(f'model_signal:drift_z{{signal="height",{PLACE}}}').get(("height", ""), 0.0)
            return abs(z / exact - 1) < 0.05 and z

        z = eventually("the z of one process", near, PATIENCE_S)
        print(f"\nz of height: {exact:.2f} in one process, {z:.2f} over {REPLICAS} servers")
