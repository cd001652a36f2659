import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.counting import cells, folder, gather, processes
from monitoring.counting.counts import Counts
from monitoring.counting.processes import Process
from monitoring.counting.signal_metrics import SignalCollector, SignalState
from monitoring.metrics import ServingMetrics
from registry.errors import ConfigError

WORKERS = Path(__file__).resolve().parents[2] / "count_workers.py"
BOUNDS = (0.1, 1.0, 2.5)
ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("c"), st.sampled_from("abc"), st.integers(0, 2**40)),
        st.tuples(st.just("g"), st.sampled_from("abc"), st.floats(-1e9, 1e9)),
        st.tuples(st.just("h"), st.sampled_from("abc"), st.floats(0, 5)),
        st.tuples(st.just("clear"), st.just(""), st.just(0)),
    ),
    max_size=40,
)


def run(what, place, number):
    command = [sys.executable, str(WORKERS), what, str(place), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout), done.stderr


def samples(counts, name):
    """Return {label values: value} of one metric."""
    found = [s for family in counts.collect() for s in family.samples if s.name == name]
    return {tuple(s.labels.values()): s.value for s in found}


def printed(collector):
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return {
        name: sorted(family.samples, key=str) for name, family in families.items() if not name.startswith("process_")
    }


def perform(counter, gauge, histogram, acts):
    for what, label, value in acts:
        if what == "c":
            counter.labels(label).inc(value)
        elif what == "g":
            gauge.labels(label).set(value)
        elif what == "h":
            histogram.labels(label).observe(value)
        else:
            gauge.clear()


@given(ACTS)
def test_what_is_printed_is_what_prometheus_client_prints(acts):
    registry, counts = CollectorRegistry(), Counts()
    prometheus_client.disable_created_metrics()
    theirs = (
        prometheus_client.Counter("c_total", "A", ["l"], registry=registry),
        prometheus_client.Gauge("g", "B", ["l"], registry=registry),
        prometheus_client.Histogram("h", "C", ["l"], registry=registry, buckets=BOUNDS),
    )
    ours = (counts.counter("c_total", "A", "l"), counts.gauge("g", "B", "l"), counts.histogram("h", "C", BOUNDS, "l"))
    perform(*theirs, acts)
    perform(*ours, acts)
    assert printed(counts) == printed(registry)


def test_a_value_can_be_observed_many_times_at_once():
    counts = Counts()
    histogram = counts.histogram("h", "", BOUNDS)
    histogram.observe(0.5, 1000)
    assert samples(counts, "h_count") == {(): 1000} and samples(counts, "h_sum") == {(): 500}


VALUES = st.lists(st.tuples(st.sampled_from([0.0, *BOUNDS, 0.3, 7.5]), st.integers(1, 5)), min_size=1, max_size=40)


@given(VALUES)
def test_many_values_at_once_count_as_one_after_the_other(said):
    counts = Counts()
    one_by_one, at_once, single = (counts.histogram(name, "", BOUNDS).labels() for name in "hij")
    for value, times in said:
        for _ in range(times):
            one_by_one.observe(value)
    at_once.observe_all([value for value, _ in said], [times for _, times in said])
    np.testing.assert_allclose(list(at_once._cells), list(one_by_one._cells), rtol=1e-12)
    single.observe_all([value for value, times in said for _ in range(times)])
    np.testing.assert_allclose(list(single._cells), list(one_by_one._cells), rtol=1e-12)


def test_the_wrong_number_of_labels_is_an_error_that_names_them():
    with pytest.raises(ValueError, match=r"c_total: takes 2 labels \(model, reason\), got \('m',\)"):
        Counts().counter("c_total", "", "model", "reason").labels("m")


def test_counters_add_up_over_processes_and_gauges_follow_their_rule(tmp_path):
    workers = [Counts(tmp_path) for _ in range(3)]
    for k, one in enumerate(workers, 1):
        one.counter("c_total", "", "l").labels("x").inc(k)
        one.gauge("added", "", add=True).set(k)
        one.gauge("largest", "").set(k)
        one.histogram("h", "", BOUNDS).observe(k)
        one.array("a", ("x",), 2)[:] += (k, 1)
    for one in workers:
        assert samples(one, "c_total") == {("x",): 6}
        assert samples(one, "added") == {(): 6} and samples(one, "largest") == {(): 3}
        assert samples(one, "h_bucket") == {("0.1",): 0, ("1.0",): 1, ("2.5",): 2, ("+Inf",): 3}
        np.testing.assert_array_equal(one.array_totals("a")[("x",)], [6, 3])


def test_workers_killed_at_any_moment_lose_nothing_they_counted(tmp_path):
    found, _ = run("kill", tmp_path, 25)
    counter, histogram, least, most = found["totals"][0], found["totals"][1], found["totals"][2], found["totals"][-1]
    for total in (counter, histogram, least, most):  # a kill may fall between a count and its telling
        assert found["told"] <= total <= found["told"] + found["deaths"]
    assert found["seen"] == sorted(found["seen"]), "a scrape showed less than the one before"
    assert found["told"] > 1000


def test_restarts_leave_one_file_of_the_dead(tmp_path):
    found, _ = run("restart", tmp_path, 150)
    assert found["totals"][0] == 150
    own = [name for name in found["left"] if name.endswith((cells.CELLS, cells.NAMES))]
    assert len(own) == 2 and set(found["left"]) - set(own) == {gather.DEAD + gather.JSON, gather.LOCK}


def test_where_files_cannot_grow_counting_goes_on_and_says_that_it_is_not_shared(tmp_path):
    found, errors = run("fill", tmp_path, cells.SEGMENT_CELLS * cells.CELL_BYTES)
    assert found["own"] == 1
    assert 0 < found["others"] < 40_000
    assert errors.count("metrics_not_shared") == 1


@pytest.fixture
def dead(tmp_path, monkeypatch):
    """Counts of a process that is gone: 5 in c_total, 1 in g."""
    monkeypatch.setattr(processes, "find", lambda _: Process(2**22 - 1, 7))
    gone = Counts(tmp_path)
    monkeypatch.undo()
    gone.counter("c_total", "").inc(5)
    gone.gauge("g", "").set(1)
    return gone


@pytest.fixture
def living(tmp_path):
    counts = Counts(tmp_path)
    counts.counter("c_total", "").inc(2)
    counts.gauge("g", "", add=True).set(10)
    return counts


def test_counters_of_the_dead_stay_and_their_gauges_go(dead, living):
    for _ in range(3):
        assert samples(living, "c_total") == {(): 7} and samples(living, "g") == {(): 10}


def test_a_fold_that_is_killed_before_it_removes_the_file_counts_it_once(tmp_path, dead, living):
    kept = shutil.copytree(tmp_path, tmp_path / "kept")
    assert samples(living, "c_total") == {(): 7}
    for endings in ((cells.CELLS, cells.NAMES), (cells.CELLS,)):
        for ending in endings:
            shutil.copy(kept / (dead._gathering.base.name + ending), tmp_path)
        assert samples(living, "c_total") == {(): 7}
        assert not list(tmp_path.glob(dead._gathering.base.name + "*"))


def test_half_a_file_of_the_dead_is_not_read(tmp_path, dead, living):
    (tmp_path / "dead.new").write_text('{"folded": [], "cpu')
    assert samples(living, "c_total") == {(): 7}


def test_a_torn_last_line_of_names_is_left_out_until_it_is_whole(tmp_path, dead, living):
    path = tmp_path / (dead._gathering.base.name + cells.NAMES)
    with path.open("a") as stream:
        stream.write('{"kind": "counter", "name": "c_to')
    assert samples(living, "c_total") == {(): 7}


def test_names_written_between_two_scrapes_are_seen_at_the_second(tmp_path, living):
    other = Counts(tmp_path)
    counter = other.counter("d_total", "", "l")
    living.counter("d_total", "", "l")
    for k in range(3):
        counter.labels(str(k)).inc()
        assert len(samples(living, "d_total")) == k + 1


def test_more_cells_than_a_segment_are_found_by_others(tmp_path, living):
    other = Counts(tmp_path)
    for k in range(3):
        other.array("a", (str(k),), cells.SEGMENT_CELLS - 100 + k)[:] = k
        living.array("a", (str(k),), cells.SEGMENT_CELLS - 100 + k)
    other.counter("c_total", "").inc(40)
    assert samples(living, "c_total") == {(): 42}
    assert [set(total.tolist()) for total in living.array_totals("a").values()] == [{0.0}, {1.0}, {2.0}]


def test_the_process_metrics_have_the_standard_names_once(tmp_path):
    metrics = [ServingMetrics(CollectorRegistry(), tmp_path) for _ in range(2)]
    ours = {family.name: family.samples for family in metrics[0].registry.collect()}
    theirs = prometheus_client.ProcessCollector(registry=None).collect()
    assert {family.name for family in theirs} <= ours.keys()
    assert all(len(ours[family.name]) == 1 for family in theirs)
    alone = {family.name: family.samples[0].value for family in theirs}
    assert ours["process_max_fds"][0].value == 2 * alone["process_max_fds"]
    assert ours["process_start_time_seconds"][0].value == alone["process_start_time_seconds"]
    assert ours["process_cpu_seconds"][0].value >= alone["process_cpu_seconds"]


def test_signals_add_up_over_the_workers(tmp_path):
    workers = [ServingMetrics(CollectorRegistry(), tmp_path) for _ in range(2)]
    for k, metrics in enumerate(workers, 1):
        metrics.signal_counts("m", "v", 1)[0, :2] += k
        state = SignalState("m", "v", ("s",), metrics.signal_counts("m", "v", 1), np.full((1, 16), 1 / 16), 9)
        metrics.registry.register(SignalCollector(lambda state=state: [state], metrics.counts))
    place = {"model": "m", "version": "v", "signal": "s"}
    for metrics in workers:
        shown = [metrics.registry.get_sample_value("vigil_signal_bin_total", place | {"bin": b}) for b in ("00", "02")]
        assert shown == [3, 0]


def test_the_embedding_adds_up_over_the_workers(tmp_path):
    workers = [ServingMetrics(CollectorRegistry(), tmp_path) for _ in range(2)]
    for k, metrics in enumerate(workers, 1):
        metrics.embedding_sums("m", "v", 2)[:] += [1.5 * k, 2.0 * k, k]
        sums = metrics.embedding_sums("m", "v", 2)
        state = SignalState("m", "v", (), np.zeros((0, 16)), (), 9, sums, (1.0, 2.0))
        metrics.registry.register(SignalCollector(lambda state=state: [state], metrics.counts))
    place = {"model": "m", "version": "v"}
    for metrics in workers:
        value = metrics.registry.get_sample_value
        shown = [value("vigil_embedding_sum_total", place | {"component": c}) for c in ("00", "01")]
        assert shown == [4.5, 6.0] and value("vigil_embedding_rows_total", place) == 3
        assert value("vigil_embedding_reference_mean", place | {"component": "01"}) == 2.0


def test_workers_of_one_parent_share_a_folder_and_others_do_not(tmp_path):
    code = f"from monitoring.counting import folder; print(folder.of_service({str(tmp_path)!r}))"
    twice = f"import subprocess, sys\nfor _ in range(2): subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    services = [
        subprocess.run([sys.executable, "-c", twice], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    (first, same), (second, _) = services
    assert first == same != second
    assert not Path(first).exists(), "the folder of a service that is gone was not removed"


def test_a_folder_that_somebody_else_made_is_refused(tmp_path):
    place = folder.of_service(str(tmp_path))
    place.rmdir()
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        folder.of_service(str(tmp_path))
    place.unlink()
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(ConfigError, match="others may write there"):
        folder.of_service(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot hold the counts of the workers: .*; name a folder that can be"):
        folder.of_service(str(tmp_path / "file"))


def test_a_process_that_waits_for_its_parent_is_dead(eventually):
    child = subprocess.Popen([sys.executable, "-c", ""])
    found = processes.find(child.pid)
    eventually("the end of the child", lambda: not Process(child.pid, found.started_ticks if found else 0).lives())
    child.wait()
    assert processes.find(os.getpid()).lives()
    assert not Process(os.getpid(), 1).lives()
