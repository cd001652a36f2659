import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from monitoring import intake, state
from monitoring.contents import Scheme
from monitoring.intake import Source
from tests.monitoring import arrivals
from tests.monitoring.arrivals import BUCKET_S, LATE_S, answer, label

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
    return Source(arrivals.in_memory(), counts, lambda *_: scheme or Scheme(), 1e9, BUCKET_S, batch_rows=batch_rows)


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


@given(ARRIVALS)
def test_what_is_kept_is_what_the_whole_log_says_in_whatever_order_and_runs_things_come(events):
    source = in_memory()
    come(source, events)
    buckets = {("m", one.version, one.start_s): one for one in state.aggregates(source.state, "m", 0)}
    arrivals.assert_says(arrivals.truth(source.log), buckets, state.facts(source.state))
    assert intake.lag(source) == intake.Lag(0, 0.0)
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
