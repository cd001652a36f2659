"""A shadow beside real engines, and beside challengers that fail, hang and answer nonsense."""

import sqlite3
import threading
import uuid

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tiny_release import DIGITS, IMAGE, TABLE, rows_of

from monitoring.log.recorder import Recorder, Records
from monitoring.metrics import ServingMetrics
from serving import shadow
from serving.engine import Engine
from serving.shadow import Shadow

RUNS = ("run", "dropped", "failed")


@pytest.fixture
def metrics():
    return ServingMetrics(CollectorRegistry())


@pytest.fixture
def pair(publish):
    """Return two releases that answer the same rows differently."""
    return publish(seed=1), publish(seed=2)


@pytest.fixture
def begin(metrics):
    """Return a function that starts a shadow of a release, run by `engine`; all are stopped in the end."""
    begun = []

    def make(release, engine=None, champion="v", idle=lambda: True, share=1.0, recorder=None):
        made = Shadow(release, engine or Engine(release, ("cpu",), 1), champion, idle)
        made.start(share, metrics, recorder)
        begun.append(made)
        return made

    yield make
    for made in begun:
        made.stop()
        assert made.join(20)


def records(release, rows, name="r"):
    """Return what `release` answers to rows, as the service hands it on."""
    outputs = Engine(release, ("cpu",), 1).run(rows)[0]
    said = [repr(v) for v in outputs[:, 0].tolist()]
    if release.manifest.classes:
        said = [DIGITS[k] for k in outputs.argmax(axis=1)]
    ids = [f"{name}-{i}" for i in range(len(rows))]
    return Records(release.name, release.version, 5.0, ids, said, outputs, rows)


def nothing(count, version="v", name="r"):
    """Return records of rows that nobody looks at."""
    rows = np.zeros((count, 8, 8), dtype=np.uint8)
    ids = [f"{name}-{i}" for i in range(count)]
    return Records("tiny", version, 5.0, ids, ["0"] * count, np.full((count, 10), 0.1, dtype=np.float32), rows)


def value(metrics, name, **labels):
    return sum(
        sample.value
        for family in metrics.registry.collect() for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )  # fmt: skip


def outcomes(metrics):
    return {what: value(metrics, "vigil_shadow_rows_total", outcome=what) for what in RUNS}


class Faulty:
    """A challenger whose runs do what `act` does with their rows."""

    def __init__(self, act):
        self.act = act
        self.sizes = []

    def run(self, rows, names=(), options=None):
        self.sizes.append(len(rows))
        self.act(rows)
        return [np.full((len(rows), 10), 0.1, dtype=np.float32)]

    def expected_s(self, rows):
        return 1e-6 * rows


def test_what_was_answered_is_answered_again_and_agreement_is_counted(pair, begin, metrics, eventually):
    champion, challenger = pair
    rows = rows_of(IMAGE, 300, seed=5)
    given = records(champion, rows)
    begin(challenger, champion=champion.version).offer(given)
    eventually("the rows", lambda: outcomes(metrics) == {"run": 300, "dropped": 0, "failed": 0})
    theirs = Engine(challenger, ("cpu",), 1).run(rows)[0]
    alike = int((theirs.argmax(axis=1) == given.outputs.argmax(axis=1)).sum())
    place = {"model": "tiny", "version": challenger.version}
    assert 0 < alike < 300 and value(metrics, "vigil_shadow_agreements_total", **place) == alike
    assert value(metrics, "vigil_shadow_row_seconds_count", **place) == 300
    gained = np.maximum(theirs.astype(np.float64) - given.outputs, 0).sum(axis=1)  # what one side has more of
    assert 0 < gained.max() <= 1
    assert value(metrics, "vigil_shadow_difference_total", **place) == pytest.approx(gained.sum(), rel=1e-5)


def test_a_regression_agrees_within_its_tolerance_and_shows_how_far_apart(publish, begin, metrics, eventually):
    champion, challenger = (publish(seed=seed, spec=TABLE, classes=()) for seed in (1, 2))
    rows = rows_of(TABLE, 100, seed=5)
    given = records(champion, rows)
    begin(challenger, champion=champion.version).offer(given)
    eventually("the rows", lambda: outcomes(metrics)["run"] == 100)
    apart = np.abs(Engine(challenger, ("cpu",), 1).run(rows)[0] - given.outputs)
    assert 0 < value(metrics, "vigil_shadow_agreements_total") == int((apart <= 2.5).sum()) < 100
    assert value(metrics, "vigil_shadow_difference_total") == pytest.approx(float(apart.sum()), rel=1e-5)


def test_the_answers_are_on_the_log_beside_the_champions_and_nowhere_else(pair, begin, tmp_path, eventually, metrics):
    champion, challenger = pair
    recorder = Recorder(tmp_path / "log.sqlite", metrics=metrics)
    one, other = (records(champion, rows_of(IMAGE, 3, seed=s), name) for s, name in ((5, "r"), (6, "q")))
    recorder.put(one)
    beside = begin(challenger, champion=champion.version, recorder=recorder)
    beside.offer(one)
    beside.offer(other)  # the recorder never got these
    eventually("the rows", lambda: outcomes(metrics)["run"] == 6)
    recorder.close()
    expected = Engine(challenger, ("cpu",), 1).run(one.rows)[0]
    connection = sqlite3.connect(tmp_path / "log.sqlite")
    rows = connection.execute("SELECT id, version, predicted, outputs FROM shadow ORDER BY seq").fetchall()
    connection.close()
    assert [row[:3] for row in rows] == [
        (f"r-{i}", challenger.version, DIGITS[k]) for i, k in enumerate(expected.argmax(axis=1))
    ]
    found = np.stack([np.frombuffer(row[3], dtype=np.float32) for row in rows])
    assert found == pytest.approx(expected, abs=1e-6)
    assert value(metrics, "vigil_shadow_records_total") == 3


@pytest.mark.parametrize("name", ["a counter", "random"])
def test_the_share_is_taken_and_every_replica_takes_the_same_requests(pair, begin, name):
    idents = [f"5d3c{i:x}" if name == "a counter" else uuid.UUID(int=i * 2**90).hex for i in range(20_000)]
    one, other = begin(pair[1], share=0.1), begin(pair[1], share=0.1)
    taken = [ident for ident in idents if one.samples(ident)]
    assert taken == [ident for ident in idents if other.samples(ident)]
    assert 1800 < len(taken) < 2200
    one.share = 0.2
    assert set(taken) < {ident for ident in idents if one.samples(ident)}
    one.share = 1.0
    assert all(one.samples(ident) for ident in idents)


def test_what_does_not_fit_is_dropped_and_every_row_is_counted_once(pair, begin, metrics, eventually, monkeypatch):
    monkeypatch.setattr(shadow, "MOST_ROWS", 10)
    go = threading.Event()
    beside = begin(pair[1], Faulty(lambda rows: go.wait(20)))
    beside.offer(nothing(1))
    eventually("the run", lambda: beside._engine.sizes)
    for name in ("a", "b", "c", "d"):
        beside.offer(nothing(4, name=name))
    assert outcomes(metrics) == {"run": 0, "dropped": 8, "failed": 0}
    go.set()
    eventually("the rest", lambda: outcomes(metrics) == {"run": 9, "dropped": 8, "failed": 0})
    beside.offer(nothing(10))
    eventually("a place again", lambda: outcomes(metrics)["run"] == 19)


def test_large_rows_are_limited_by_bytes(pair, begin, metrics, monkeypatch):
    monkeypatch.setattr(shadow, "MOST_BYTES", 640)
    beside = begin(pair[1], Faulty(lambda rows: None), idle=lambda: False)
    beside.offer(nothing(11))
    assert outcomes(metrics)["dropped"] == 11


def test_while_the_champion_is_busy_the_challenger_waits(pair, begin, metrics, eventually):
    busy, looks = threading.Event(), []
    busy.set()
    engine = Faulty(lambda rows: None)
    beside = begin(pair[1], engine, idle=lambda: looks.append(None) or not busy.is_set())
    beside.offer(nothing(5))
    eventually("some looks", lambda: len(looks) > 3)
    assert engine.sizes == []
    busy.clear()
    eventually("the rows", lambda: outcomes(metrics)["run"] == 5)


def test_many_rows_are_run_in_parts_so_that_the_champion_waits_for_none_of_them(pair, begin, metrics, eventually):
    engine = Faulty(lambda rows: None)
    begin(pair[1], engine).offer(nothing(1000))
    eventually("the rows", lambda: outcomes(metrics)["run"] == 1000)
    assert sum(engine.sizes) == 1000 and max(engine.sizes) == shadow.RUN_ROWS
    slow = Faulty(lambda rows: None)
    slow.expected_s = lambda rows: 0.002 * rows
    begin(pair[1], slow).offer(nothing(10))
    eventually("the rows", lambda: outcomes(metrics)["run"] == 1010)
    assert max(slow.sizes) == 2


def test_small_requests_are_run_together(pair, begin, metrics, eventually):
    go = threading.Event()
    engine = Faulty(lambda rows: go.wait(20))
    beside = begin(pair[1], engine)
    beside.offer(nothing(1))
    eventually("the run", lambda: engine.sizes)
    for number in range(100):
        beside.offer(nothing(1, name=str(number)))
    go.set()
    eventually("the rows", lambda: outcomes(metrics)["run"] == 101)
    assert engine.sizes == [1, 64, 36]


def test_a_challenger_that_raises_is_counted_and_answers_the_next(pair, begin, metrics, eventually, caplog):
    def act(rows):
        if rows.any():
            raise RuntimeError("no")

    beside = begin(pair[1], Faulty(act))
    for name in ("a", "b"):
        bad = nothing(2, name=name)
        bad.rows[:] = 1
        beside.offer(bad)
    eventually("the failures", lambda: outcomes(metrics)["failed"] == 4)
    beside.offer(nothing(3))
    eventually("the rows", lambda: outcomes(metrics) == {"run": 3, "dropped": 0, "failed": 4})
    assert caplog.messages.count("challenger_failed") == 1  # the counter tells the rest


def test_rows_that_a_challenger_cannot_take_cost_the_others_nothing(pair, begin, metrics, eventually):
    go = threading.Event()

    def act(rows):
        go.wait(20)
        if rows.any():
            raise RuntimeError("no")

    beside = begin(pair[1], Faulty(act))
    beside.offer(nothing(1))
    bad = nothing(100, name="bad")
    bad.rows[[3, 70]] = 1
    for one in (nothing(3, name="a"), bad, nothing(3, name="b")):
        beside.offer(one)
    go.set()
    eventually("the rows", lambda: outcomes(metrics) == {"run": 105, "dropped": 0, "failed": 2})


@pytest.mark.parametrize("answer", [np.full((3, 10), np.nan), np.full((3, 10), np.inf), np.zeros((3, 9))])
def test_answers_that_are_none_are_failures(pair, begin, metrics, eventually, answer):
    engine = Faulty(lambda rows: None)
    engine.run = lambda rows, names=(), options=None: [answer.astype(np.float32)]
    begin(pair[1], engine).offer(nothing(3))
    eventually("the failure", lambda: outcomes(metrics) == {"run": 0, "dropped": 0, "failed": 3})


def test_beside_a_challenger_that_hangs_offers_and_the_end_return_at_once(pair, begin, metrics, eventually):
    go = threading.Event()
    beside = begin(pair[1], Faulty(lambda rows: go.wait(60)))
    beside.offer(nothing(1))
    eventually("the run", lambda: beside._engine.sizes)
    for number in range(100):
        beside.offer(nothing(50, name=str(number)))
    beside.stop()
    assert not beside.join(0.01)  # it still hangs, and what is above has returned
    assert outcomes(metrics) == {"run": 0, "dropped": 5000, "failed": 0}
    go.set()
    assert beside.join(20)


def test_a_run_under_way_is_stopped_with_the_shadow(pair, begin, metrics, eventually):
    engine, under_way = Engine(pair[1], ("cpu",), 1), threading.Event()

    class Endless:
        expected_s = engine.expected_s

        def run(self, rows, names=(), options=None):
            under_way.set()
            while True:  # as a run without end that looks at its options between two nodes
                engine.run(rows, names, options)

    beside = begin(pair[1], Endless())
    beside.offer(nothing(4))
    assert under_way.wait(20)
    beside.stop()
    assert beside.join(20)
    assert outcomes(metrics) == {"run": 0, "dropped": 4, "failed": 0}


def test_answers_of_another_release_than_the_champion_are_not_compared(pair, begin, metrics, eventually):
    beside = begin(pair[1], champion="v")
    beside.offer(nothing(3, version="another"))
    beside.offer(nothing(2))
    eventually("the rows", lambda: outcomes(metrics) == {"run": 2, "dropped": 0, "failed": 0})


def test_after_the_end_rows_are_dropped(pair, begin, metrics):
    beside = begin(pair[1])
    beside.stop()
    assert not beside.samples("anything")
    beside.offer(nothing(3))
    assert outcomes(metrics) == {"run": 0, "dropped": 3, "failed": 0}
