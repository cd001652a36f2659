"""Releases come and go in the workers of a service: what is shown of them, what is kept, what is left on the disk."""

import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from monitoring.counting import gather, holders
from monitoring.counting.counts import Counts
from monitoring.counting.holders import Holders
from monitoring.counting.processes import Process
from monitoring.metrics import ServingMetrics

APART = ("model", "version")
NOBODY = Process(2**22 - 1, 7)


class Worker:
    """Counts of one process, as a worker makes them."""

    def __init__(self, folder):
        self.counts = Counts(folder, APART)
        self.rows = self.counts.counter("rows_total", "", *APART)
        self.info = self.counts.gauge("info", "", *APART)
        self.seconds = self.counts.histogram("seconds", "", (1.0,), *APART, "stage")
        self.all = self.counts.counter("all_total", "")

    def answer(self, version, n=1):
        self.rows.labels("m", version).inc(n)
        self.info.labels("m", version).set(1)
        self.seconds.labels("m", version, "infer").observe(0.5, n)
        self.counts.array("bins", ("m", version), 3)[1] += n
        self.all.inc(n)

    def shown(self):
        """Return the rows by version, after asking that everything else says the same."""
        found = {}
        for family in self.counts.collect():
            for sample in family.samples:
                if sample.name in ("rows_total", "seconds_count", "info") and sample.labels:
                    found.setdefault(sample.name, {})[sample.labels["version"]] = sample.value
        rows = found.get("rows_total", {})
        assert found.get("seconds_count", {}) == rows and set(found.get("info", {})) <= set(rows)
        for (_, version), total in self.counts.array_totals("bins").items():
            np.testing.assert_array_equal(total, [0, rows[version], 0])
        return rows

    def total(self):
        return next(f for f in self.counts.collect() if f.name == "all").samples[0].value


@pytest.mark.parametrize("shared", [True, False])
def test_a_release_that_is_forgotten_is_not_shown_and_goes_on_where_it_was(tmp_path, shared):
    worker = Worker(tmp_path if shared else None)
    worker.answer("1", 5)
    worker.answer("2", 2)
    assert worker.shown() == {"1": 5, "2": 2}
    worker.counts.forget("m", "1")
    assert worker.shown() == {"2": 2} and worker.total() == 7
    worker.answer("1", 4)
    assert worker.shown() == {"1": 9, "2": 2}
    worker.counts.forget("m", "1")
    worker.answer("1", 0)
    assert worker.shown() == {"1": 9, "2": 2} and worker.total() == 11


def test_it_is_shown_with_all_its_rows_as_long_as_another_worker_has_it(tmp_path):
    one, other = Worker(tmp_path), Worker(tmp_path)
    one.answer("1", 5)
    other.answer("1", 3)
    one.counts.forget("m", "1")
    for worker in (one, other):
        assert worker.shown() == {"1": 8}
    other.answer("1")
    other.counts.forget("m", "1")
    assert one.shown() == other.shown() == {}
    one.answer("1")
    assert one.shown() == other.shown() == {"1": 10}


def test_what_a_dead_worker_counted_is_kept_and_shown_while_its_release_is_loaded(tmp_path):
    gone, later, living = Worker(tmp_path), Worker(tmp_path), Worker(tmp_path)
    gone.answer("1", 5)
    later.answer("1", 2)
    later.answer("2", 3)
    living.answer("2")
    for worker in (gone, later):
        _kill(tmp_path, worker)
    for _ in range(2):
        assert living.shown() == {"2": 4} and living.total() == 11
    living.answer("1")
    assert living.shown() == {"1": 8, "2": 4}


@pytest.mark.parametrize("endings", [(".cells", ".names"), (".cells",)])
def test_a_kill_while_a_release_is_forgotten_counts_its_rows_once(tmp_path, endings):
    worker = Worker(tmp_path)
    worker.answer("1", 5)
    kept = shutil.copytree(tmp_path, tmp_path / "kept")
    (name,) = {path.stem for path in tmp_path.glob("*.cells") if path.stem.count("-") == 3}
    worker.counts.forget("m", "1")
    for ending in endings:  # as if it had been killed between the two
        shutil.copy(kept / (name + ending), tmp_path)
    other = Worker(tmp_path)
    other.answer("1")
    assert other.shown() == {"1": 6}
    assert not list(tmp_path.glob(f"{name}*"))


ACTS = st.lists(
    st.tuples(st.sampled_from(["answer", "forget", "die", "scrape"]), st.sampled_from("ab"), st.sampled_from("123")),
    max_size=40,
)


@given(ACTS)
def test_no_counter_ever_goes_back_whatever_workers_load_forget_and_die(tmp_path_factory, acts):
    folder = tmp_path_factory.mktemp("counts")
    workers, loaded, counted = {name: Worker(folder) for name in "ab"}, Counter(), Counter()
    scraped = Worker(folder)
    for what, name, version in acts:
        if what == "answer":
            workers[name].answer(version)
            loaded[name, version], counted[version] = 1, counted[version] + 1
        elif what == "forget":
            workers[name].counts.forget("m", version)
            loaded[name, version] = 0
        elif what == "die":
            for version in "123":
                loaded[name, version] = 0
            _kill(folder, workers[name])
            workers[name] = Worker(folder)
        else:
            present = {version for (_, version), there in loaded.items() if there}
            assert scraped.shown() == {version: counted[version] for version in present}
            assert scraped.total() == sum(counted.values())


def _kill(folder, worker):
    # What it leaves is of a process that is not there.
    for cells in (worker.counts._gathering.base, *worker.counts._gathering._groups.values()):
        for ending in (".names", ".cells"):
            path = folder / (cells.name + ending)
            path.rename(path.with_name(path.name.replace(f"{cells.process.pid}-", f"{NOBODY.pid}-", 1)))


def test_after_hundreds_of_releases_nothing_has_grown(tmp_path):
    worker, sizes, left = Worker(tmp_path), [], []
    for k in range(300):
        worker.answer(f"{k:03d}", 1)
        worker.shown()
        if k:
            worker.counts.forget("m", f"{k - 1:03d}")
        sizes.append(len(worker.shown()))
        left.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert set(sizes) == {1}
    assert len(list(tmp_path.iterdir())) <= gather.MOST_KEPT + 6
    assert left[-1] == pytest.approx(left[100], rel=0.02)
    assert len(worker.counts._arrays) == len(worker.rows._children) == 1
    worker.answer("000")
    assert worker.shown()["000"] == 1  # forgotten for good: as after a restart
    worker.answer("290")
    assert worker.shown()["290"] == 2


def test_where_the_counts_cannot_be_kept_the_release_is_shown_on(tmp_path, monkeypatch, caplog):
    worker = Worker(tmp_path)
    worker.answer("1", 5)

    def full(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(gather.os, "replace", full)
        worker.counts.forget("m", "1")
    assert "counts_not_kept" in caplog.text
    assert worker.shown() == {"1": 5}
    worker.counts.forget("m", "1")
    assert worker.shown() == {}


def test_the_page_of_a_service_has_no_line_of_a_release_that_is_gone(tmp_path):
    metrics = ServingMetrics(CollectorRegistry(), tmp_path)

    def page():
        return generate_latest(metrics.registry).decode()

    before = {line.rpartition(" ")[0] for line in page().splitlines()}
    place = ("m", "v1")
    for family in metrics.counts._families.values():
        if family.names[:2] == APART and family not in (metrics.model_target, metrics.model_before):
            family.labels(*place, *["x"] * (len(family.names) - 2))
    assert page().count('version="v1"') > 20
    metrics.counts.forget(*place)
    assert {line.rpartition(" ")[0] for line in page().splitlines()} == before


class One:
    """Something that counts."""


@pytest.fixture
def watched():
    """Return holders, what they have forgotten, and a clock of one number."""
    forgotten, clock = [], [0.0]
    return Holders(lambda _, version: forgotten.append(version), lambda: clock[0]), forgotten, clock


def test_a_release_is_forgotten_a_while_after_all_that_counts_for_it_is_gone(watched):
    found, forgotten, clock = watched
    one, other = One(), One()
    found.add(("m", "1"), one)
    found.add(("m", "1"), other)
    found.add(("m", "2"), other)
    del one
    assert not found.due
    del other
    assert found.due
    found.sweep()
    clock[0] = holders.LINGER_S
    assert forgotten == [] and not found.due
    clock[0] += 1
    assert found.due
    found.sweep()
    assert sorted(forgotten) == ["1", "2"] and not found.due


def test_one_that_comes_back_meanwhile_is_not_forgotten(watched):
    found, forgotten, clock = watched
    found.add(("m", "1"), One())
    found.sweep()
    one = One()
    found.add(("m", "1"), one)
    clock[0] = 10 * holders.LINGER_S
    found.sweep()
    assert forgotten == [] and not found.due
    del one
    assert found.due


def test_of_many_that_are_gone_the_last_few_linger(watched):
    found, forgotten, _ = watched
    for k in range(20):
        found.add(("m", str(k)), One())
        found.sweep()
    assert forgotten == [str(k) for k in range(20 - holders.MOST_LINGERING)]
