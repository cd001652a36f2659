import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from tiny_release import HOMES, IMAGE, rows_of, run

from monitoring.log import logfile
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import contents, intake, schemes, state, watch
from monitoring.monitor.parts import WatchSettings
from tests.monitoring import arrivals

NOW_S = 1_000_000.0


def test_a_regression_is_judged_by_its_tolerance_and_a_deleted_release_by_nothing(publish):
    made = publish("homes", spec=HOMES, classes=())
    found = schemes.of_release("homes", made.version)
    assert (found.tolerance, found.classes, found.sums) == (2.5, (), None)
    shutil.rmtree(made.path)
    assert schemes.of_release("homes", made.version) == contents.Scheme()


def test_the_sums_of_an_estimation_are_kept_of_all_rows_and_of_those_with_a_label(publish, tmp_path):
    made = publish()
    rows = rows_of(IMAGE, 50, seed=7)
    outputs = run(made.read("model.onnx"), rows, "probabilities")
    estimation = schemes.of_release("tiny", made.version).sums.__self__
    log = tmp_path / "log"
    with closing(logfile.connect(log)) as connection, connection:
        for i, (row, output) in enumerate(zip(rows, outputs, strict=True)):
            one = (f"r{i}", NOW_S, "tiny", made.version, str(output.argmax()), output.tobytes(), row.tobytes())
            connection.execute(logfile.PREDICTION, one)
        for i in (*range(10), *range(5, 15)):  # some twice: counted once
            connection.execute(logfile.LABEL, (f"r{i}", NOW_S + 5, "3"))
        connection.execute(logfile.LABEL, ("r60", NOW_S, "3"))
    metrics = MonitorMetrics(CollectorRegistry())
    for _ in range(2):
        watch.measure(WatchSettings(log, batch_rows=7), metrics, NOW_S)
    with closing(state.connect(state.beside(log))) as connection:
        (one,) = state.aggregates(connection, "tiny", 0)
    np.testing.assert_allclose(one.sums, estimation.sums(outputs), rtol=1e-9)
    np.testing.assert_allclose(one.labelled_sums, estimation.sums(outputs[:15]), rtol=1e-9)
    assert (one.rows, one.labelled) == (50, 15)


@pytest.fixture
def kept(tmp_path):
    """Return a function that reads rows of one release with a scheme, and gives the totals by slice and the trouble."""

    def read(scheme, blobs, labels, batch_bytes=None):
        trouble = []
        with (
            closing(logfile.connect(tmp_path / "log")) as rows,
            closing(state.open_or_make(tmp_path / "state")[0]) as counts,
        ):
            with rows:
                for i, (outputs, row) in enumerate(blobs):
                    rows.execute(logfile.PREDICTION, (f"r{i}", NOW_S + i, "m", "v", "a", outputs, row))
                for ident, label in labels:
                    rows.execute(logfile.LABEL, (ident, NOW_S, label))
            source = intake.Source(rows, counts, lambda *_: scheme, NOW_S, state.BUCKET_S, trouble.append, 4)
            assert intake.read_on(source)
            assert intake.lag(source).rows == 0
            return {name: one for (_, name), one in state.window(counts, "m", 0).items()}, trouble

    return read


def by_sign(rows):
    """Slices of rows of two float32: of the first number, and one of all that are large."""
    return [("low" if a < 0 else "high", *(("large",) if abs(a) > 5 else ())) for a, _ in rows.tolist()]


SLICED = contents.Scheme(("a", "b"), None, "float32", (2,), by_sign, lambda outputs: outputs.sum(axis=0))


def blob(*numbers):
    return np.array(numbers, dtype=np.float32).tobytes()


def test_rows_labels_and_sums_are_kept_by_slice_and_a_correction_moves_within_them(kept, monkeypatch):
    monkeypatch.setattr(contents, "BATCH_BYTES", 20)  # a row or two at once
    firsts = [-9.0, -1.0, 1.0, 2.0, 9.0, 3.0]
    blobs = [(blob(0.75, 0.25 + i), blob(first, 0.0)) for i, first in enumerate(firsts)]
    labels = [("r0", "a"), ("r1", "b"), ("r4", "a"), ("r1", "a"), ("r2", "b"), ("r4", "b"), ("r5", "zebra")]
    found, trouble = kept(SLICED, blobs, labels)
    assert trouble == []
    assert {name: (one.rows, one.labelled, one.right) for name, one in found.items()} == {
        "": (6, 5, 2), "low": (2, 2, 2), "high": (4, 3, 0), "large": (2, 2, 1),
    }  # fmt: skip
    assert found["high"].confusion == {("b", "a"): 2, ("", "a"): 1}
    np.testing.assert_allclose(found["high"].sums, [0.75 * 4, 2.25 + 3.25 + 4.25 + 5.25])
    np.testing.assert_allclose(found["high"].labelled_sums, [0.75 * 3, 2.25 + 4.25 + 5.25])


EVENTS = st.lists(
    st.tuples(st.just("answer"), st.integers(0, 5), st.sampled_from([-9.0, -1.0, 1.0, 9.0]))
    | st.tuples(st.just("label"), st.integers(0, 7), st.sampled_from("ab"))
    | st.tuples(st.just("read"), st.integers(1, 3), st.just("")),
    max_size=25,
)


@given(EVENTS)
def test_slices_are_as_if_the_whole_log_was_read_at_once(events):
    rows, counts = arrivals.in_memory(), sqlite3.connect(":memory:", isolation_level=None)
    state.empty(counts, 10.0)
    source = intake.Source(rows, counts, lambda *_: SLICED, NOW_S, 10.0)
    answered, said = {}, {}
    for kind, i, what in events:
        if kind == "answer":
            one = (f"r{i}", 5.0, "m", "v", "a", blob(what, 1), blob(what, 0))
            rows.execute(logfile.PREDICTION, one)
            answered.setdefault(i, what)
        elif kind == "label":
            rows.execute(logfile.LABEL, (f"r{i}", 6.0, what))
            said[i] = what
        else:
            source.batch_rows = i
            intake.read_on(source)
    rows.commit()
    assert intake.read_on(source)
    found = state.window(counts, "m", 0.0)
    for name in ("", "low", "high", "large"):
        inside = [i for i, first in answered.items() if name in ("", *by_sign(np.array([[first, 0]]))[0])]
        labelled = [i for i in inside if i in said]
        one = found.get(("v", name), state.Aggregate("v", name, 0, 10))
        assert (one.rows, one.labelled, one.right) == (
            len(inside),
            len(labelled),
            sum(said[i] == "a" for i in labelled),
        )
        assert one.sums.tolist() == ([sum(answered[i] for i in inside), len(inside)] if inside else [])
        assert one.labelled_sums.tolist() == ([sum(answered[i] for i in labelled), len(labelled)] if labelled else [])
    rows.close()
    counts.close()


def test_a_row_that_was_not_kept_whole_is_in_no_slice_and_counts_as_every_other(kept):
    blobs = [(blob(1, 0), b""), (blob(1, 0), blob(1, 1, 1)), (b"", blob(1, 0)), (blob(1, 0), blob(-1, 0))]
    found, trouble = kept(SLICED, blobs, [("r0", "a")])
    assert trouble == []
    assert {name: one.rows for name, one in found.items()} == {"": 4, "high": 1, "low": 1}
    np.testing.assert_allclose(found[""].sums, [3, 0])


def test_it_is_known_how_many_rows_the_sums_are_of(kept):
    nan = blob(np.nan, 1)
    blobs = [(blob(1, 0), blob(1, 0)), (nan, blob(1, 0)), (b"", blob(1, 0)), (blob(1, 0), blob(-1, 0))]
    found, trouble = kept(SLICED, blobs, [("r0", "a"), ("r1", "a")])
    assert trouble == []
    assert {name: (one.rows, one.summed, one.labelled, one.labelled_summed) for name, one in found.items()} == {
        "": (4, 2, 2, 1), "high": (3, 1, 2, 1), "low": (1, 1, 0, 0),
    }  # fmt: skip
    assert found[""].sums.tolist() == [2, 0] and found[""].labelled_sums.tolist() == [1, 0]


def test_a_release_that_adds_up_something_else_than_before_has_the_state_made_anew(tmp_path, publish, monkeypatch):
    log, made = tmp_path / "log", publish()
    metrics = MonitorMetrics(CollectorRegistry())
    monitor = watch.prepare(WatchSettings(log), metrics)

    def answered(first):
        outputs = np.full(10, 0.1, dtype=np.float32).tobytes()
        with closing(logfile.connect(log)) as connection, connection:
            for i in range(first, first + 60):
                row = (f"r{i}", time.time(), "tiny", made.version, "1", outputs, b"")
                connection.execute(logfile.PREDICTION, row)

    answered(0)
    watch.run_once(monitor, lambda: False)
    usual = schemes.of_release("tiny", made.version)
    other = replace(usual, sums=lambda outputs: usual.sums(outputs)[:3])
    monkeypatch.setattr(schemes, "of_release", lambda *_: other)
    answered(60)
    for _ in range(2):
        watch.run_once(monitor, lambda: False)
    value = metrics.registry.get_sample_value
    assert value("vigil_monitor_rebuilds_total", {"reason": "sums"}) == 1
    assert value("vigil_monitor_log_rows") == 120
    with closing(state.connect(state.beside(log))) as connection:
        (one,) = state.window(connection, "tiny", 0.0).values()
    assert (one.rows, one.summed, one.sums.size) == (120, 120, 3)


def broken(_):
    raise RuntimeError("no")


@pytest.mark.parametrize("what", ["slices", "sums"])
def test_a_scheme_that_fails_is_told_and_rows_and_labels_are_counted_all_the_same(kept, what):
    scheme = contents.Scheme(("a",), None, "float32", (2,), **{what: broken})
    found, trouble = kept(scheme, [(blob(1, 0), blob(1, 0))] * 6, [("r0", "a"), ("r1", "b")])
    assert [str(one) for one in trouble] == ["no"] * 3  # two batches of rows, one of labels
    assert (found[""].rows, found[""].labelled, found[""].right) == (6, 2, 1)
