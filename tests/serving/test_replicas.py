"""Three servers behind a balancer agree on the champion: by one store, or by own ones that follow a place."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from balancer import Balancer
from load import Load, address, request, version_of
from tiny_release import IMAGE, make_draft, make_files, rows_of

from registry import aliases, share, store
from tests.grafana.test_replicas import prometheus

ROOT = Path(__file__).resolve().parents[2]
BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
REPLICAS, CONNECTIONS, EVERY_S = 3, 6, 0.02
SPLIT = 'ALERTS{alertname="VigilVersionSplit",alertstate="firing"}'


@pytest.fixture
def releases(home, tmp_path):
    """Publish six releases, the first of them as champion; return their tags."""
    tags = [
        store.publish(
            make_draft(created=f"2026-11-26T00:00:{seed:02d}Z"), make_files(tmp_path / str(seed), seed=seed)
        ).tag
        for seed in range(6)
    ]
    aliases.promote(tags[0], "first")
    return tags


@pytest.fixture
def side_by_side(tmp_path):
    """Return a function that lets a store follow a place, and gives the process; all are ended with the test."""
    running = []

    def start(home, url):
        command = [sys.executable, "-m", "vigil", "models", "sync", url, "--every", "0.5"]
        environment = os.environ | {"BENTOML_HOME": str(home), "PYTHONPATH": str(ROOT)}
        log = open(tmp_path / f"sync-{len(running)}", "wb")  # noqa: SIM115 - the child keeps it
        running.append((subprocess.Popen(command, env=environment, stdout=log, stderr=log), log))
        return running[-1][0]

    yield start
    for process, log in running:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(20)
        log.close()


def reached(services, eventually, change):
    """Make a change of the champion; return how many seconds until each of the services answers with it."""
    started, seconds = time.monotonic(), {}

    def watch(k, version):
        eventually(f"{version} at {k}", lambda: services[k].version() == version, 60)
        seconds[k] = time.monotonic() - started

    version = change().to_version
    threads = [threading.Thread(target=watch, args=(k, version)) for k in range(len(services))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seconds) == len(services), f"only {sorted(seconds)} of {len(services)} have {version}"
    return max(seconds.values())


def promotions_and_rollbacks(services, tags, eventually, after=lambda: None):
    """Promote three releases and take each back, under load; return the seconds of both and what the load saw."""
    up, down = [], []

    def promote(tag):
        change = aliases.promote(tag, "better", force=True)
        after()
        return change

    def rollback():
        change = aliases.rollback("tiny", "worse")
        after()
        return change

    content = request(BODY)
    with Balancer([address(one) for one in services], len(content)) as balancer:  # noqa: SIM117
        eventually("all ready", lambda: len(balancer.ready) == len(services))
        with Load(balancer.address, content, CONNECTIONS, version_of, EVERY_S) as tally:
            for tag in tags:
                up.append(reached(services, eventually, lambda tag=tag: promote(tag)))
                down.append(reached(services, eventually, rollback))
    assert balancer.failed == [] and tally.failed is None and len(set(tally.answers)) == 1 + len(tags)
    return up, down, tally


def say(how, up, down, tally):
    print(
        f"\n{how}: all {REPLICAS} servers after a promotion in {', '.join(f'{s:.2f}' for s in up)} s, after a rollback "
        f"in {', '.join(f'{s:.2f}' for s in down)} s; {tally.statuses[200]} requests, failed {tally.failed}"
    )


@pytest.mark.proof
def test_a_promotion_and_a_rollback_reach_three_servers_of_one_store(home, releases, start_ready, eventually):
    services = [start_ready(home) for _ in range(REPLICAS)]
    say("one store", *promotions_and_rollbacks(services, releases[1:4], eventually))


@pytest.mark.proof
def test_a_promotion_and_a_rollback_reach_three_stores_that_follow_a_place_and_a_stuck_one_is_told(
    releases, start_ready, eventually, side_by_side, tmp_path
):
    url, homes = f"file://{tmp_path}/shared", [tmp_path / f"replica-{k}" for k in range(REPLICAS)]
    share.push(url)
    sides = [side_by_side(home, url) for home in homes]
    services = [start_ready(home) for home in homes]
    with prometheus(tmp_path / "prometheus", tuple(one.url.removeprefix("http://") for one in services)) as ask:
        eventually("Prometheus", ask.ready, 90)
        eventually("three servers", lambda: ask("sum(vigil_ready)").get(("", "")) == REPLICAS, 90)
        say(
            "stores of their own, a look each 0.5 s",
            *promotions_and_rollbacks(services, releases[1:4], eventually, lambda: share.push(url)),
        )
        assert ask(f"count_over_time({SPLIT}[10m])") == {}
        sides[0].send_signal(signal.SIGSTOP)
        reached(services[1:], eventually, lambda: pushed(releases[4], url))
        started = time.monotonic()
        eventually("the alert", lambda: ask(SPLIT), 60)
        fired_s = time.monotonic() - started
        sides[0].send_signal(signal.SIGCONT)
        eventually("its end", lambda: ask(SPLIT) == {}, 60)
        print(f"no alert in 6 rolls; one replica stuck: VigilVersionSplit after {fired_s:.1f} s, gone with the cure")


def pushed(tag, url):
    change = aliases.promote(tag, "better", force=True)
    share.push(url)
    return change


@pytest.mark.proof
def test_a_server_killed_in_the_middle_of_a_promotion_loses_no_more_than_what_it_was_answering(
    home, releases, start_ready, eventually
):
    services = [start_ready(home) for _ in range(REPLICAS)]
    content, kills = request(BODY), 5
    with Balancer([address(one) for one in services], len(content), moves_on=True) as balancer:  # noqa: SIM117
        eventually("all ready", lambda: len(balancer.ready) == REPLICAS)
        with Load(balancer.address, content, CONNECTIONS, version_of) as tally:
            lost = []
            for tag in releases[1:]:
                before, killed = tally.statuses[502], services[len(lost) % REPLICAS]
                aliases.promote(tag, "better", force=True)
                time.sleep(0.1 * len(lost))  # not waiting for something: a moment to die at
                os.killpg(killed.process.pid, signal.SIGKILL)
                killed.process.wait()
                version = tag.split(":")[1]
                others = [one for one in services if one is not killed]
                for one in others:
                    eventually(version, lambda one=one, v=version: one.version() == v, 60)
                lost.append(tally.statuses[502] - before)
                killed.start()
                eventually("all ready again", lambda: len(balancer.ready) == REPLICAS, 60)
    print(
        f"\n{kills} servers of {REPLICAS} killed in a promotion: {lost} of {tally.statuses[200]} requests lost, with "
        f"{CONNECTIONS} connections; the others took the release"
    )
    assert len(lost) == kills and max(lost) <= CONNECTIONS and tally.errors == []
