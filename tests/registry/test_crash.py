"""Writers killed at random moments, and many writers at once: nothing half done is ever visible."""

import multiprocessing
import random
import signal
import time

import pytest
import store_workers
from tiny_release import make_files

from registry import aliases, collect, store

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["store_workers", "bentoml.models"])


def replayed(history):
    """Return the versions in line that the changes lead to, checking that each starts where the last ended."""
    line = []
    for change in history:
        assert change.from_version == (line[-1] if line else None)
        if change.action == "promote":
            line.append(change.to_version)
        elif change.action == "rollback":
            line.pop()
            assert change.to_version == line[-1]
    return line


def challenged(history):
    """Return the challenger that the changes lead to, checking that each change says which challenge it ended."""
    version = None
    for change in history:
        assert change.ended == (version if change.to_version != version or change.action != "challenge" else None)
        version = change.to_version if change.action == "challenge" else None
    return version


def check_store(known):
    """Assert that every version is whole (opening those not in `known`) and the aliases agree with the history."""
    for listing in store.releases():
        assert listing.problem is None
        if listing.tag not in known:
            store.open_release(listing.tag)
            known.add(listing.tag)
    state = aliases.read("tiny")
    assert [pin.version for pin in state.line] == replayed(state.history)
    assert (state.challenger and state.challenger.version) == challenged(state.history)
    if state.champion:
        assert store.open_release(f"tiny:{state.champion.version}").digest == state.champion.digest
    return state


def kill_loop(home, tmp_path, kills):
    """Kill `kills` writers; returns how many died while they wrote a version, and while they wrote the aliases."""
    files, draw, known, journal = make_files(tmp_path / "files"), random.Random(0), set(), tmp_path / "journal"
    for number in (1, 2):
        store.publish(store_workers.draft(number), files)
    (files / "large.bin").write_bytes(random.Random(1).randbytes(1_000_000))  # long enough to be killed inside
    works = (store_workers.publish_until_killed, store_workers.promote_until_killed)
    changes, inside = [], [0, 0]
    for kill in range(kills):
        journal.write_bytes(b"")
        writer = CONTEXT.Process(target=works[kill % 2], args=(home, files, journal, (kill + 1) * 1000))
        writer.start()
        while not journal.read_bytes():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.25))  # not waiting for something: a moment to die at
        writer.kill()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        inside[0] += any((store.home() / "staging").glob("*"))
        inside[1] += any((store.home() / "aliases").glob(".tiny.json*.tmp"))
        reported = [tuple(line.split()) for line in journal.read_text().splitlines()[1:]]
        state = check_store(known)
        present = {listing.tag.split(":")[1] for listing in store.releases()}
        assert {version for what, version in reported if what == "publish"} <= present
        expected = changes + [change for change in reported if change[0] != "publish"]
        changes = [(change.action, change.to_version) for change in state.history]
        assert changes[: len(expected)] == expected and len(changes) - len(expected) <= 1
        if kill % 10 == 9:
            collect.collect(collect.Rule(keep=3), lambda plan: None)
    return inside


def test_a_writer_killed_at_any_moment_leaves_whole_versions_and_a_whole_history(home, tmp_path):
    kill_loop(home, tmp_path, kills=8)
    made = store.publish(store_workers.draft(99_999_999), tmp_path / "files")  # and disturbs no one after it
    aliases.promote(made.tag, "next", force=True)
    assert list((store.home() / "staging").iterdir()) == [] == list((store.home() / "aliases").glob("*.tmp"))


@pytest.mark.proof
def test_two_hundred_killed_writers_leave_no_partial_version_and_lose_no_change(home, tmp_path):
    publishing, promoting = kill_loop(home, tmp_path, kills=200)
    count = len(aliases.read("tiny").history)
    print(f"200 kills, {publishing} inside a version, {promoting} inside an alias file; {count} changes, none lost")
    assert publishing > 20 and promoting > 5 and count > 200


def crowd(home, tmp_path, processes, seconds):
    """Let `processes` change one store at once; returns what they did, by name."""
    files = make_files(tmp_path / "files")
    journals = [tmp_path / f"journal-{seed}" for seed in range(processes)]
    workers = [
        CONTEXT.Process(target=store_workers.change_for, args=(home, files, journal, seed, seconds))
        for seed, journal in enumerate(journals)
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        state = aliases.read("tiny")  # a reader never sees half a change
        assert [pin.version for pin in state.line] == replayed(state.history)
        time.sleep(0.05)
    assert [worker.exitcode for worker in workers] == [0] * processes
    done = [line.split(" ", 1) for journal in journals for line in journal.read_text().splitlines()]
    assert [line for line in done if line[1].startswith("FAILED")] == []
    check_store(set())
    changes = [
        line for line in done if line[0] in ("promote", "rollback", "challenge", "end") and "2026" in line[1][:8]
    ]
    assert len(changes) == len(aliases.read("tiny").history)
    return {name: sum(line[0] == name for line in done) for name in store_workers.ACTIONS}


def test_writers_and_readers_at_once_disturb_one_another_in_nothing(home, tmp_path):
    assert min(crowd(home, tmp_path, processes=4, seconds=3).values()) > 0


@pytest.mark.proof
def test_ten_writers_and_readers_for_a_minute_disturb_one_another_in_nothing(home, tmp_path):
    done = crowd(home, tmp_path, processes=10, seconds=60)
    print("10 processes for 60 s, 0 unexpected errors: " + ", ".join(f"{n} {name}" for name, n in done.items()))
    assert min(done.values()) > 20
