import asyncio
import contextlib
import os
import resource
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from ending import children_of, ended, gone
from odd_release import altered, endless, hungry, release_with
from tiny_release import IMAGE, rows_of

import vigil
from monitoring.metrics import ServingMetrics
from registry import aliases
from serving import rehearsal
from serving.engine import Engine, EngineError
from serving.host import Host
from serving.settings import Settings

GIB = 2**30
WANTED = threading.Event()


def children():
    return set(children_of("self"))


def test_a_good_release_is_rehearsed_and_leaves_no_process(publish):
    before = children()  # of other tests, such as the tracker of shared memory
    rehearsal.rehearse(publish(), 256, WANTED)
    assert children() <= before


def test_a_model_that_asks_for_terabytes_is_refused_by_engine_and_rehearsal(tmp_path):
    made = release_with(tmp_path, hungry(4096 * GIB))
    for load in (lambda: Engine(made, ("cpu",), threads=1), lambda: rehearsal.rehearse(made, 4096, WANTED)):
        with pytest.raises(EngineError, match=r"cannot answer its held-out rows: .*4398046511104") as caught:
            load()
        assert caught.value.reason == "load"


def test_a_model_that_takes_more_than_it_may_is_refused_and_takes_nothing_here(tmp_path):
    made = release_with(tmp_path, hungry(3 * GIB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(EngineError, match=r"cannot answer.*rehearsed with 512 MB, VIGIL_REHEARSAL_MB") as caught:
        rehearsal.rehearse(made, 512, WANTED)
    assert caught.value.reason == "load"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB; the model asks for 3 GiB


def test_other_answers_than_the_stored_ones_are_told_as_such(tmp_path):
    def swap(arrays):
        arrays["probabilities"] = np.roll(arrays["probabilities"], 1, axis=1)

    with pytest.raises(EngineError, match="answers its held-out rows differently by") as caught:
        rehearsal.rehearse(altered(tmp_path, swap), 256, WANTED)
    assert caught.value.reason == "golden"


def test_a_release_that_was_exchanged_for_another_is_not_rehearsed(publish):
    made = publish()
    with pytest.raises(EngineError, match="is not the release that was asked for"):
        rehearsal.rehearse(replace(made, digest="0" * 64), 256, WANTED)


def test_a_model_that_never_answers_is_refused_when_its_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "TIMEOUT_S", 3)
    before = children()
    with pytest.raises(EngineError, match="did not answer its held-out rows within 3 s") as caught:
        rehearsal.rehearse(release_with(tmp_path, endless), 256, WANTED)
    assert caught.value.reason == "load" and children() <= before


def test_a_model_that_brings_its_process_down_is_refused(tmp_path, eventually):
    made, found = release_with(tmp_path, endless), []

    def look():
        with pytest.raises(EngineError) as caught:
            rehearsal.rehearse(made, 256, WANTED)
        found.append(caught.value)

    before = children()
    thread = threading.Thread(target=look)
    thread.start()
    child = eventually("the child", lambda: children() - before).pop()
    os.kill(child, signal.SIGSEGV)
    ended(thread)
    assert "ended by signal 11" in str(found[0]) and found[0].reason == "load"


def test_a_host_lives_on_with_its_release_when_the_next_one_takes_too_much_memory(tmp_path, publish):
    first = publish()
    aliases.promote(first.tag, "first")
    bomb = release_with(tmp_path, hungry(3 * GIB))
    rows, failures = rows_of(IMAGE, 3), ("tiny", "load")

    async def swap(eventually_s=20.0):
        metrics = ServingMetrics(prometheus_client.CollectorRegistry())
        settings = Settings(threads=1, rehearsal_mb=512, poll_s=0.02)
        host = Host("tiny", settings, metrics, lambda: None, None)
        await host.start()
        try:
            before = host.serving().engine.run(rows)[0]
            aliases.promote(bomb.tag, "next", force=True)
            deadline = asyncio.get_running_loop().time() + eventually_s
            while value(metrics, failures) == 0 and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.02)
            assert value(metrics, failures) >= 1
            assert host.ready and host.serving().release.tag == first.tag
            np.testing.assert_array_equal(host.serving().engine.run(rows)[0], before)
        finally:
            await host.stop()

    asyncio.run(swap())


def value(metrics, labels):
    name, reason = labels
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "vigil_model_load_failures_total" and sample.labels == {"model": name, "reason": reason}:
                return sample.value
    return 0


def test_without_a_live_release_or_with_0_mb_nothing_is_rehearsed(publish, monkeypatch):
    asked = []
    monkeypatch.setattr("serving.host.rehearse", lambda candidate, memory_mb, unwanted: asked.append(candidate.tag))
    first, second, third = (publish(seed=seed) for seed in range(3))

    async def follow(settings, *tags):
        host = Host("tiny", settings, ServingMetrics(prometheus_client.CollectorRegistry()), lambda: None, None)
        for tag in tags:
            aliases.promote(tag, "next", force=True)
            await host._follow()
            assert host.serving().release.tag == tag

    asyncio.run(follow(Settings(threads=1), first.tag, second.tag))
    assert asked == [second.tag]
    asyncio.run(follow(Settings(threads=1, rehearsal_mb=0), first.tag, third.tag))
    assert asked == [second.tag]


def test_a_rehearsal_that_nobody_wants_any_more_is_ended_at_once(tmp_path, eventually):
    made, before, unwanted, told = release_with(tmp_path, endless), children(), threading.Event(), []

    def look():
        with pytest.raises(rehearsal.GivenUp):
            rehearsal.rehearse(made, 256, unwanted)
        told.append(made.tag)

    thread = threading.Thread(target=look)
    thread.start()
    eventually("the child", lambda: children() - before)
    unwanted.set()
    ended(thread)
    assert told and children() <= before


def test_a_rollback_is_followed_at_once_though_the_release_it_leaves_hangs(
    home, tmp_path, publish, start_ready, eventually
):
    first, second = publish(seed=1), publish(seed=2)
    aliases.promote(first.tag, "first")
    service = start_ready(home)
    aliases.promote(release_with(tmp_path, endless).tag, "hangs", force=True)
    eventually("its rehearsal", lambda: rehearsals(service))
    assert vigil.main(["rollback", "--why", "it hangs"]) == 0
    target = {"model": "tiny", "version": first.version}
    eventually("the rollback", lambda: service.metric("vigil_model_target_info", **target) == 1)
    eventually("the end of the rehearsal", lambda: not rehearsals(service))
    assert service.version() == first.version
    aliases.promote(second.tag, "second", force=True)
    eventually("the next release", lambda: service.version() == second.version)
    assert service.metric("vigil_model_load_failures_total") == 0


def test_a_service_that_ends_does_not_wait_for_a_rehearsal(tmp_path, publish, started, eventually):
    service = started()
    aliases.promote(release_with(tmp_path, endless).tag, "hangs", force=True)
    left = eventually("its rehearsal", lambda: rehearsals(service))
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(20)
    eventually("the end of the rehearsal", lambda: gone(*left))


def rehearsals(service):
    """Return the processes that rehearse a release for a worker of this service."""
    found = []
    for worker in children_of(service.process.pid):
        found += [pid for pid in children_of(worker) if b"serving.rehearsal" in command(pid)]
    return found


def command(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
