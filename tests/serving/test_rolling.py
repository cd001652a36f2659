"""Nothing is lost while processes, releases and whole servers are replaced under load; always the real service."""

import json
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from balancer import Balancer
from load import Load, address, request, version_of
from tiny_release import IMAGE, make_draft, make_files, onnx_bytes, rows_of

from monitoring.counting.holders import MOST_LINGERING
from monitoring.metrics import STARTS
from registry import aliases, store

BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
CONNECTIONS = 6


@pytest.fixture
def serve(home, publish, start_service, eventually):
    """Return a function that starts a service with a live release and waits for all of its workers."""
    aliases.promote(publish().tag, "first")

    def start(workers=1, **variables):
        service = start_service(home, VIGIL_WORKERS=str(workers), **variables)
        eventually("all workers", lambda: count_of(service, "worker_up") == workers, 60)
        return service

    return start


@pytest.fixture(scope="module")
def shared(tmp_path_factory, start_service, eventually):
    home = tmp_path_factory.mktemp("shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        aliases.promote(store.publish(make_draft(), make_files(home / "files")).tag, "first")
    service = start_service(home, VIGIL_WORKERS="2", BENTOML_CONTAINERIZED="1")
    eventually("all workers", lambda: count_of(service, "worker_up") == 2, 60)
    with pytest.MonkeyPatch.context() as patch:  # the service, which was told no model, stays with its own
        patch.setenv("BENTOML_HOME", str(home))
        draft, files = make_draft(name="other"), make_files(home / "other")
        aliases.promote(store.publish(draft, files).tag, "first of another model")
    return service


@pytest.fixture
def pair(shared, monkeypatch):
    """Return a service of two workers, as in a container, in a store that another model has got a champion in."""
    monkeypatch.setenv("BENTOML_HOME", shared.environment["BENTOML_HOME"])
    return shared


def count_of(service, event):
    return service.log.read_text().count(f'"event": "{event}"')


def workers(service):
    pid = service.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def promoted(seed, folder):
    """Publish a release and make it the champion; returns its version."""
    created = f"2026-11-25T00:{seed // 60:02d}:{seed % 60:02d}Z"
    made = store.publish(make_draft(created=created), make_files(folder / f"swap-{seed}", seed=seed))
    aliases.promote(made.tag, "swap", force=True)
    return made.version


def swap(service, eventually, folder, seed):
    version = promoted(seed, folder)
    eventually(f"{version} live", lambda: service.version() == version)


def roll(service, eventually):
    done = count_of(service, "rolled")
    service.process.send_signal(signal.SIGHUP)
    eventually("the end of the roll", lambda: count_of(service, "rolled") > done, 120)


def kill_workers(service, eventually, kills):
    """Kill one worker after the other under load; returns the tally, what each kill lost, and the seconds it took."""
    lost, back_s = [], []
    with Load(address(service), request(BODY), CONNECTIONS) as tally:
        for _ in range(kills):
            errors, up = len(tally.errors), count_of(service, "worker_up")
            eventually("load", lambda n=tally.statuses[200]: tally.statuses[200] > n + 50)
            assert service.metric("vigil_inflight_rows") <= CONNECTIONS
            started = time.monotonic()
            os.kill(min(workers(service)), signal.SIGKILL)
            eventually("a new worker", lambda n=up: count_of(service, "worker_up") > n, 60)
            back_s.append(time.monotonic() - started)
            lost.append(len(tally.errors) - errors)
    assert set(tally.statuses) == {200}
    return tally, lost, back_s


def starts(service):
    """Return how many workers were started for each reason, dead ones too, and when the service was."""
    counted = {one: service.metric("vigil_worker_starts_total", reason=one) for one in STARTS}
    return counted | {"since": service.metric("vigil_service_start_timestamp_seconds")}


def answered(service):
    return service.metric("vigil_requests_total", route="/v1/predict", code="200")


def check_counts(service, before, tally, eventually):
    # What a killed worker had answered stays counted; what it was working on is not in flight for ever.
    idle = lambda: [service.metric("vigil_inflight_rows") for _ in range(8)] == [0] * 8  # noqa: E731
    eventually("nothing in flight, whichever worker is asked", idle)
    counted = answered(service) - before
    assert tally.statuses[200] <= counted <= tally.statuses[200] + len(tally.errors)


def test_a_killed_worker_is_replaced_and_loses_no_more_than_what_it_was_working_on(pair, eventually):
    before = answered(pair)
    replaced = starts(pair)["replace"]
    tally, lost, _ = kill_workers(pair, eventually, kills=1)
    assert starts(pair)["replace"] == replaced + 1
    assert lost[0] <= CONNECTIONS and len(workers(pair)) == 2
    assert count_of(pair, "nothing_to_serve") == 0
    check_counts(pair, before, tally, eventually)


@pytest.mark.proof
def test_a_hundred_killed_workers_lose_no_more_than_what_they_were_working_on(serve, eventually):
    service = serve(workers=2, BENTOML_CONTAINERIZED="1")
    tally, lost, back_s = kill_workers(service, eventually, kills=100)
    check_counts(service, 0, tally, eventually)
    print(
        f"100 kills, {tally.statuses[200]} answers, {sum(lost)} requests lost (at most {max(lost)} by one kill of a "
        f"worker with {CONNECTIONS} connections between two); full size again after {sorted(back_s)[50]:.1f} s in the "
        f"middle, {max(back_s):.1f} s at most; counts exact"
    )
    assert max(lost) <= CONNECTIONS


def swaps_and_rolls(service, eventually, folder, rounds, requests):
    """Swap the release and roll the workers `rounds` times each under load; returns the tallies without and with it."""
    with Load(address(service), request(BODY), CONNECTIONS, version_of) as quiet:
        eventually("a quiet time", lambda: quiet.statuses[200] >= requests / 10, 120)
    with Load(address(service), request(BODY), CONNECTIONS, version_of) as tally:
        for seed in range(1, rounds + 1):
            swap(service, eventually, folder, seed)
            roll(service, eventually)
        eventually(f"{requests} answers", lambda: sum(tally.statuses.values()) >= requests, 300)
    return quiet, tally


def test_a_swap_and_a_rolling_restart_lose_no_request(pair, eventually, tmp_path):
    old, started = workers(pair), starts(pair)
    assert started["start"] == 2
    _, tally = swaps_and_rolls(pair, eventually, tmp_path, rounds=1, requests=500)
    assert tally.failed is None and len(set(tally.answers)) == 2
    assert len(workers(pair)) == 2 and not old & workers(pair)
    assert starts(pair) == started | {"roll": started["roll"] + 2}


@pytest.mark.proof
def test_a_hundred_thousand_requests_over_swaps_and_rolling_restarts_are_all_answered(serve, eventually, tmp_path):
    service = serve(workers=2)
    quiet, tally = swaps_and_rolls(service, eventually, tmp_path, rounds=6, requests=100_000)
    p99 = [one.quantile(0.99) * 1e3 for one in (quiet, tally)]
    print(
        f"{tally.statuses[200]} requests over 6 swaps and 6 rolling restarts of 2 workers: failed {tally.failed}; "
        f"{len(set(tally.answers))} versions; p99 {p99[0]:.1f} ms without, {p99[1]:.1f} ms with them, "
        f"{p99[1] / p99[0]:.2f} x"
    )
    assert tally.failed is None and len(set(tally.answers)) == 7


def restart_behind_a_balancer(serve, eventually, rounds, drain_s):
    """Stop and start each of two servers in turn behind a balancer under load; returns it and the tally."""
    servers = [serve(VIGIL_DRAIN_S=str(drain_s)) for _ in range(2)]
    content = request(BODY)
    with Balancer([address(one) for one in servers], len(content)) as balancer:  # noqa: SIM117
        eventually("both ready", lambda: len(balancer.ready) == 2)
        with Load(balancer.address, content, CONNECTIONS) as tally:
            for turn in range(2 * rounds):
                eventually("load", lambda n=tally.statuses[200]: tally.statuses[200] > n + 100)
                one = servers[turn % 2]
                one.process.send_signal(signal.SIGTERM)
                assert one.process.wait(60) == 0
                if turn < 2 * rounds - 1:
                    one.start()
                    eventually("both ready again", lambda: len(balancer.ready) == 2, 60)
    return balancer, tally


def test_two_servers_behind_a_balancer_are_stopped_in_turn_and_no_request_fails(serve, eventually):
    balancer, tally = restart_behind_a_balancer(serve, eventually, rounds=1, drain_s=0.7)
    assert balancer.failed == [] and tally.failed is None and tally.statuses[200] > 200


@pytest.mark.proof
def test_six_restarts_behind_a_balancer_fail_no_request(serve, eventually):
    balancer, tally = restart_behind_a_balancer(serve, eventually, rounds=3, drain_s=1.0)
    print(f"6 stops of 2 servers behind a balancer: {tally.statuses[200]} requests, failed {tally.failed}")
    assert balancer.failed == [] and tally.failed is None


def broken(folder, how, seed):
    """Promote a release that must not serve; returns its version."""
    files = make_files(folder / f"broken-{seed}", seed=seed)
    content = {
        "wrong answers": lambda: onnx_bytes(IMAGE, 10, seed + 1000),
        "no graph": lambda: b"\x08\x0a" + os.urandom(5000),
        "other input": lambda: onnx_bytes(IMAGE.__class__("float32", (3,)), 10, seed),
    }[how]()
    (files / "model.onnx").write_bytes(content)
    made = store.publish(make_draft(created=f"2026-11-25T01:00:{seed:02d}Z"), files)
    aliases.promote(made.tag, how, force=True)
    return made.version


def swap_to_broken(service, eventually, folder, rounds):
    live = eventually("the live release", service.version)
    refused = Counter()
    with Load(address(service), request(BODY), CONNECTIONS, version_of) as tally:
        for seed in range(rounds):
            for k, how in enumerate(("wrong answers", "no graph", "other input")):
                before = service.metric("vigil_model_load_failures_total")
                broken(folder, how, 3 * seed + k)
                failures = lambda n=before: service.metric("vigil_model_load_failures_total") > n  # noqa: E731
                eventually(f"the refusal of {how}", failures, 20)
                refused[how] += 1
                aliases.rollback("tiny", "back")
    assert tally.failed is None and set(tally.answers) == {live}
    return tally, refused


def test_a_broken_release_answers_no_request_whatever_is_wrong_with_it(pair, eventually, tmp_path):
    swap_to_broken(pair, eventually, tmp_path, rounds=1)


@pytest.mark.proof
def test_thirty_broken_releases_answer_no_request(serve, eventually, tmp_path):
    tally, refused = swap_to_broken(serve(), eventually, tmp_path, rounds=10)
    print(f"{dict(refused)} refused under load: {tally.statuses[200]} answers, all of the release before, 0 failed")


@pytest.mark.proof
def test_memory_is_flat_over_fifty_swaps(serve, eventually, tmp_path):
    service = serve()
    sizes, pages = [], []
    with Load(address(service), request(BODY), 2) as tally:
        for seed in range(1, 51):
            swap(service, eventually, tmp_path, seed)
            sizes.append(service.metric("process_resident_memory_bytes") / 1e6)
            pages.append(len(service.scrape()) / 1e3)
    first, last = max(sizes[5:15]), max(sizes[-10:])
    print(
        f"50 swaps under load: {first:.0f} MB after 15, {last:.0f} MB after 50; {tally.statuses[200]} answers; scrape "
        f"{pages[14]:.0f} kB after 15, {pages[-1]:.0f} kB after 50"
    )
    assert tally.failed is None and last < first * 1.1 and max(pages[-10:]) < max(pages[5:15]) * 1.1


def test_a_release_that_no_worker_has_is_not_scraped_and_comes_back_with_its_rows(serve, eventually, tmp_path):
    service = serve(workers=2)
    version = eventually("the live release", service.version)
    rows = lambda: service.metric("vigil_input_rows_total", version=version)  # noqa: E731
    for _ in range(20):
        assert service.call("/v1/predict", BODY)[0] == 200
    eventually("its rows", lambda: rows() == 20)
    for seed in range(101, 103 + MOST_LINGERING):
        swap(service, eventually, tmp_path, seed)
    shown = lambda: set(re.findall('version="([^"]*)"', service.scrape()))  # noqa: E731
    eventually("the end of its series", lambda: version not in shown())
    assert len(shown()) <= 2 + 2 * MOST_LINGERING
    assert service.metric("vigil_requests_total", route="/v1/predict") == 20
    aliases.promote(f"tiny:{version}", "it was good", force=True)
    eventually("its return", lambda: service.metric("vigil_model_info", version=version, stage="live") == 1)
    eventually("its rows of before", lambda: rows() == 20)
    for _ in range(5):
        assert service.call("/v1/predict", BODY)[0] == 200
    eventually(
        "all its rows", lambda: rows() >= 20 and service.metric("vigil_requests_total", route="/v1/predict") == 25
    )
