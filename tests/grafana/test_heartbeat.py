"""The dead man's switch: no beat of the Watchdog may be lost, or the person on call is woken for nothing."""

import contextlib
import json
import time
import urllib.request
from dataclasses import replace

import pytest

from grafana import build, config
from grafana.config import Addresses
from grafana.profile import DEMO, PRODUCTION, PROFILES
from tests.grafana.conftest import program
from tests.grafana.test_delivery import Receiver, answers, free_ports, poll, process

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
BEATS, HEARTBEAT_S = 8, 10


def seconds(text):
    return int(text[:-1]) * UNITS_S[text[-1]]


def routes(profile):
    """Return every route with what it inherits."""
    root = config.alertmanager(profile, Addresses())["route"]
    return [root, *({**root, **one} for one in root["routes"])]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_no_route_repeats_so_close_to_its_group_interval_that_beats_are_lost(profile):
    for route in routes(profile):
        interval_s, repeat_s = seconds(route["group_interval"]), seconds(route["repeat_interval"])
        assert repeat_s >= 2 * interval_s, route["receiver"]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_a_beat_is_due_well_within_the_period_of_the_switch(profile):
    (route,) = (one for one in routes(profile) if one["receiver"] == "deadman")
    interval_s, repeat_s = seconds(route["group_interval"]), seconds(route["repeat_interval"])
    assert repeat_s % interval_s, "it would be for milliseconds to decide which look sends the beat"
    assert (repeat_s // interval_s + 1) * interval_s <= 0.8 * profile.heartbeat_s


def test_the_runbook_tells_the_period_that_the_switch_needs(grafana_folder):
    said = " ".join((grafana_folder / "runbooks/Watchdog.md").read_text().split())
    assert f"with a period of {PRODUCTION.heartbeat_s // 60} minutes" in said


@pytest.mark.proof
def test_a_real_alertmanager_skips_no_beat(tmp_path):
    (address,) = free_ports(1)
    profile = replace(DEMO, heartbeat_s=HEARTBEAT_S)
    with contextlib.ExitStack() as stack:
        receiver = Receiver()
        stack.callback(receiver.close)
        build.write(profile, tmp_path, Addresses(webhook=f"http://127.0.0.1:{receiver.server.server_port}"))
        stack.enter_context(
            process(
                tmp_path / "log", program("prometheus-alertmanager"),
                f"--config.file={tmp_path}/alertmanager/alertmanager.yml", f"--storage.path={tmp_path}/data",
                f"--web.listen-address={address}", "--cluster.listen-address=",
            )
        )  # fmt: skip
        poll(lambda: answers(f"http://{address}/-/ready"), lambda: "Alertmanager")
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        body = json.dumps([{"labels": {"alertname": "Watchdog", "severity": "none"}, "endsAt": ends}]).encode()
        kind = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"http://{address}/api/v2/alerts", body, kind)):
            beats = [beat(receiver, number) for number in range(BEATS)]
    gaps = [after - before for before, after in zip(beats, beats[1:], strict=False)]
    print(f"{BEATS} beats, a period of {profile.heartbeat_s} s: gaps of {min(gaps):.2f} to {max(gaps):.2f} s")
    assert max(gaps) < profile.heartbeat_s


def beat(receiver, number):
    """Wait for the beat of this number; return when it was seen."""
    poll(lambda: len(receiver.notices) > number, lambda: f"beat {number}")
    return time.monotonic()
