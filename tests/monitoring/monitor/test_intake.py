import itertools
import math
import sqlite3
import threading
from contextlib import closing
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.log import logfile
from monitoring.monitor import intake, state
from monitoring.monitor.contents import Scheme
from monitoring.monitor.intake import Source
from registry.errors import StackError
from tests.monitoring import arrivals
from tests.monitoring.arrivals import BUCKET_S, LATE_S, answer, label

CLASSES = Scheme(("a", "b"))
TIMES = st.sampled_from([0.0, 9.99, 10.0, 35.0, 95.0])
ARRIVALS = st.lists(
    st.tuples(st.just("answer"), st.sampled_from("pqrs"), st.sampled_from("ab"), TIMES)
    | st.tuples(st.just("label"), st.sampled_from("pqrsxy"), st.sampled_from("abc"), TIMES)
    | st.tuples(st.just("read"), st.just(""), st.just(""), st.integers(1, 4)),
    max_size=30,
)


def in_memory(scheme=None, batch_rows=3):
    """Return a source on an empty log and an empty state, both in memory."""
    counts = sqlite3.connect(":memory:", isolation_level=None)
    state.empty(counts, BUCKET_S, LATE_S)
    return Source(arrivals.in_memory(), counts, lambda *_: scheme or CLASSES, 1e9, BUCKET_S, batch_rows=batch_rows)


def close(source):
    source.log.close()
    source.state.close()


def come(source, events):
    for kind, ident, text, number in events:
        if kind == "answer":
            answer(source.log, ident, number, predicted=text)
        elif kind == "label":
            label(source.log, ident, text, number)
        else:
            source.batch_rows = number
            intake.read_on(source)
    assert intake.read_on(source)


def assert_kept(source):
    """Hold all that is kept against the oracle."""
    buckets = {("m", one.version, one.start_s): one for one in state.aggregates(source.state, "m", 0)}
    arrivals.assert_says(arrivals.truth(source.log, classes=CLASSES.classes), buckets, state.facts(source.state))
    assert intake.lag(source) == intake.Lag(0, 0.0)


@given(ARRIVALS)
def test_what_is_kept_is_what_the_whole_log_says_in_whatever_order_and_runs_things_come(events):
    source = in_memory()
    come(source, events)
    assert_kept(source)
    close(source)


def test_every_order_of_five_arrivals_in_every_split_into_runs_ends_in_what_the_log_says():
    five = [("answer", "p", "a", 3.0), ("answer", "q", "b", 12.0)]
    five += [("label", "p", "b", 70.0), ("label", "p", "a", 4.0), ("label", "q", "b", 1.0)]
    for order in itertools.permutations(five):
        for split in itertools.product((False, True), repeat=4):
            source = in_memory()
            events = [
                [one] + [("read", "", "", 1 + sum(split))] * ends
                for one, ends in zip(order, (*split, True), strict=True)
            ]
            come(source, itertools.chain(*events))
            assert_kept(source)
            close(source)


@given(ARRIVALS, st.randoms(use_true_random=False))
def test_answers_and_labels_may_change_places(events, random):
    """Of any order in which the labels of an id keep theirs, the state is the same."""
    kept = []
    for shuffled in (False, True):
        source = in_memory()
        come(source, _mixed(events, random) if shuffled else events)
        kept.append([state.aggregates(source.state, "m", 0), _all(source)])
        close(source)
    first, second = ([[a.__dict__ | {"sums": 0, "labelled_sums": 0} for a in one[0]], one[1]] for one in kept)
    assert first == second


def _mixed(events, random):
    order = [one for one in events if one[0] != "read"]
    by_id = {ident: iter([one for one in order if one[:2] == ("label", ident)]) for ident in "pqrsxy"}
    seen = {}
    order = [seen.setdefault(one[1], one) if one[0] == "answer" else one for one in order]  # an id is answered once
    random.shuffle(order)
    return [next(by_id[one[1]]) if one[0] == "label" else one for one in order]


def _all(source):
    return {
        k: v for k, v in state.facts(source.state).items() if k in ("unknown", "duplicate", "conflict", "late") and v
    }


def numbers(source, predicted, *said):
    """Answer one row of a regression and label it again and again; return what is kept after each label."""
    answer(source.log, "p", predicted=predicted)
    kept = []
    for text in said:
        label(source.log, "p", text)
        intake.read_on(source)
        kept += state.aggregates(source.state, "m", 0)
    return kept


def test_a_wrong_number_leaves_nothing_behind_once_it_is_corrected():
    source = in_memory(Scheme(tolerance=1.0))
    answer(source.log, "q", predicted="0.25")
    label(source.log, "q", "0.125")
    before, _, after = numbers(source, "2.5", "2.0", "1e300", "2.0")
    assert before == after and (before.absolute, before.squared) == (0.625, 0.25 + 0.125**2)
    assert (before.labelled, before.judged, before.right, before.confusion) == (2, 2, 2, {})
    close(source)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_errors_are_those_of_exact_arithmetic_in_any_order(truths, random):
    source = in_memory(Scheme(tolerance=10.0), batch_rows=2)
    events = [("answer", i) for i in range(len(truths))] + [("label", i) for i in range(len(truths))]
    random.shuffle(events)
    for kind, i in events:
        if kind == "answer":
            answer(source.log, f"{i}", predicted=f"{i}.5")
        else:
            label(source.log, f"{i}", repr(truths[i]))
        if random.random() < 0.3:
            intake.read_on(source)
    assert intake.read_on(source)
    (one,) = state.aggregates(source.state, "m", 0)
    gaps = [i + 0.5 - truth for i, truth in enumerate(truths)]
    assert one.error == float(sum(map(Fraction, gaps))) and one.absolute == float(sum(map(Fraction, map(abs, gaps))))
    assert one.squared == float(sum(Fraction(gap * gap) for gap in gaps))
    assert (one.judged, one.right) == (len(truths), sum(abs(gap) <= 10 for gap in gaps))
    close(source)


def test_a_label_that_is_no_number_says_nothing_until_it_is_corrected():
    source = in_memory(Scheme(tolerance=1.0))
    found = [(one.rows, one.labelled, one.right) for one in numbers(source, "2.5", "dear", "nan", "2", "inf")]
    assert found == [(1, 0, 0), (1, 0, 0), (1, 1, 1), (1, 0, 0)]
    close(source)


def test_what_was_counted_is_taken_back_as_it_was_counted_when_its_release_went_or_came_meanwhile():
    schemes = [Scheme(), Scheme(("a", "b"), 1.0), Scheme(), Scheme(("a", "b"), 1.0)]
    source = in_memory()
    answer(source.log, "p", predicted="a")
    answer(source.log, "q", predicted="2.5")
    for scheme, text in zip(schemes, "abab", strict=True):
        label(source.log, "p", text)
        label(source.log, "q", "2")
        source.codes.clear()
        source.scheme = lambda *_, known=scheme: known
        assert intake.read_on(source)
    (one,) = state.aggregates(source.state, "m", 0)
    assert (one.rows, one.labelled, one.judged, one.right) == (2, 2, 2, 1)
    assert one.confusion == {("b", "a"): 1}
    close(source)


def test_of_a_release_with_many_classes_no_confusion_is_kept():
    source = in_memory(Scheme(tuple(f"c{i}" for i in range(intake.MOST_CLASSES + 1))))
    come(source, [("answer", "p", "c1", 0.0), ("label", "p", "c2", 1.0)])
    (one,) = state.aggregates(source.state, "m", 0)
    assert (one.labelled, one.judged, one.right, one.confusion) == (1, 1, 0, {})
    close(source)


@pytest.mark.parametrize("time_s", [-1e300, -5.0, 0.0, 1e300, math.inf])
def test_clocks_that_are_off_stop_nothing(time_s):
    source = in_memory()
    come(source, [("answer", "p", "a", time_s), ("label", "p", "a", 10.0), ("answer", "q", "a", 10.0)])
    come(source, [("label", "q", "a", time_s)])
    found = state.window(source.state, "m", -1e301)["v", ""]
    assert (found.rows, found.labelled, found.right) == (2, 2, 2)
    assert state.models(source.state)["m"] <= source.now_s  # a label from the future is not newer than now
    assert len(state.delay_quantiles(source.state, "m", -1e301, (0.5, 0.95))) == 2
    close(source)


def test_an_id_with_very_many_labels_is_joined_to_the_last_and_each_is_counted(monkeypatch):
    monkeypatch.setattr(intake, "BATCH_ROWS", 50)
    source = in_memory(batch_rows=50)
    for i in range(1000):
        label(source.log, "p", f"{i}")
    intake.read_on(source)
    assert state.facts(source.state)["unknown"] == 1000
    come(source, [("label", "p", "a", 3.0), ("answer", "p", "a", 1.0)])
    facts = state.facts(source.state)
    assert (facts["unknown"], facts["conflict"], facts["duplicate"]) == (0, 1000, 0)
    (one,) = state.aggregates(source.state, "m", 0)
    assert (one.labelled, one.right) == (1, 1)
    close(source)


def test_rows_that_left_the_log_stay_counted_and_what_was_kept_of_each_goes():
    source = in_memory()
    come(source, [("answer", i, "a", 5.0) for i in "pqrs"] + [("label", i, "a", 6.0) for i in "pqrsxy"])
    for ident in "pqx":  # as retention does: the oldest, with their labels
        source.log.execute("DELETE FROM predictions WHERE id = ?", (ident,))
        source.log.execute("DELETE FROM labels WHERE id = ?", (ident,))
    intake.forget(source, -1e9)
    (one,) = state.aggregates(source.state, "m", 0)
    assert (one.rows, one.labelled, one.right) == (4, 4, 4)
    assert source.state.execute("SELECT count(*) FROM joined").fetchone() == (2,)
    come(source, [("label", "p", "b", 7.0), ("label", "r", "b", 7.0), ("answer", "t", "a", 8.0)])
    (one,) = state.aggregates(source.state, "m", 0)
    assert (one.rows, one.labelled, one.right) == (5, 4, 3)  # that of p says nothing any more
    close(source)


def test_labels_that_left_the_log_are_not_unknown_any_more():
    source = in_memory()
    come(source, [("label", "x", "a", 6.0), ("label", "y", "a", 6.0)])
    source.log.execute("DELETE FROM labels WHERE id = 'x'")
    intake.forget(source, -1e9)
    assert state.facts(source.state)["unknown"] == 1
    source.log.execute("DELETE FROM labels")
    intake.forget(source, -1e9)
    assert state.facts(source.state)["unknown"] == 0
    close(source)


def test_rows_deleted_by_their_age_before_they_were_read_are_told():
    source = in_memory()
    come(source, [("answer", "p", "a", 5.0)])
    for ident in "qrst":
        answer(source.log, ident)
    source.log.execute("DELETE FROM predictions WHERE id != 't'")
    come(source, [])
    assert (state.facts(source.state)["rows_missed"], state.facts(source.state)["rows_read"]) == (3, 2)
    close(source)


def test_buckets_past_their_time_are_forgotten_with_all_that_is_in_them():
    source = in_memory()
    come(source, [("answer", "p", "a", 5.0), ("answer", "q", "a", 95.0), *(("label", i, "a", 96.0) for i in "pq")])
    intake.forget(source, 60.0)
    (one,) = state.aggregates(source.state, "m", 0)
    assert one.start_s == 90.0
    for table in ("confusion", "delays"):
        assert source.state.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
    close(source)


def test_a_state_that_another_monitor_made_anew_is_not_written_to():
    source = in_memory()
    come(source, [("answer", "p", "a", 5.0)])
    state.empty(source.state, BUCKET_S / 2)
    answer(source.log, "q")
    with pytest.raises(StackError, match="give each its own with --state"):
        intake.read_on(source)
    assert state.aggregates(source.state, "m", 0) == []
    close(source)


def test_two_monitors_on_one_state_count_each_row_once(tmp_path):
    log, place = tmp_path / "log", tmp_path / "state"
    with closing(logfile.connect(log)) as rows:
        for i in range(3000):
            rows.execute(logfile.PREDICTION, (f"r{i}", i / 10, "m", "v", "a", b"12345678", b""))
            rows.execute(logfile.LABEL, (f"r{i // 2 * 2}", i / 10, "ab"[i % 2]))
        rows.commit()
    state.open_or_make(place, BUCKET_S, LATE_S)[0].close()

    def read():
        with closing(logfile.connect(log)) as rows, closing(state.connect(place)) as counts:
            assert intake.read_on(Source(rows, counts, lambda *_: Scheme(("a", "b")), 1e9, BUCKET_S, batch_rows=20))

    both = [threading.Thread(target=read) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    with closing(logfile.connect(log)) as rows:
        arrivals.assert_says(arrivals.truth(rows, classes=("a", "b")), *arrivals.kept(place))
