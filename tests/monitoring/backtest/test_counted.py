from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_release import HOMES, IMAGE, TABLE, rows_of

from monitoring.backtest import counted
from monitoring.backtest.conditions import Floor
from monitoring.backtest.counted import Batch, Seen
from monitoring.backtest.rules import PROFILES, Rules
from monitoring.backtest.windows import Sliding
from monitoring.log.opened import opened
from monitoring.shift import drift
from tests.monitoring.recorded import T0_S, answers, times

BUCKET_S = 60
SMALL = Rules(60, 60, 60, 60, (("short", 120),), quality_s=300, quality_rows=1)


@pytest.fixture
def known(publish):
    return opened(publish("table", spec=TABLE).tag)


def batch(known, count=600, seed=5):
    rows = rows_of(known.release.manifest.input, count, seed)
    order = np.random.default_rng(seed).permutation(count)
    return Batch(known.release.version, times(count, 1)[order], rows, answers(known.release, rows))


def part(whole, chosen):
    return Batch(whole.version, whole.time_s[chosen], whole.rows[chosen], whole.outputs[chosen])


def test_a_bucket_holds_what_the_rows_of_its_time_count(known):
    whole = batch(known)
    found = counted.count(whole, known, BUCKET_S)
    manifest = known.release.manifest
    for place in (0, 17, len(found.buckets) - 1):
        inside = np.floor(whole.time_s / BUCKET_S) == found.buckets[place]
        window = drift.window_of(known.reference, manifest.input, whole.rows[inside], whole.outputs[inside])
        assert found.counts[place].tolist() == window.counts.tolist()
        assert found.rows[place] == inside.sum() and found.last_s[place] == whole.time_s[inside].max()
        if window.sums is not None:
            assert found.sums[place] == pytest.approx(window.sums, rel=1e-6)
    assert found.rows.sum() == 600 and (np.diff(found.buckets) > 0).all()


@pytest.mark.parametrize("pieces", [1, 2, 7, 600])
def test_parts_add_up_to_the_whole_however_they_are_cut(known, pieces):
    whole = batch(known)
    parts = [counted.count(part(whole, some), known, BUCKET_S) for some in np.array_split(np.arange(600), pieces)]
    merged, at_once = counted.merge(parts), counted.count(whole, known, BUCKET_S)
    for name in ("buckets", "counts", "rows", "embedded", "last_s"):
        assert np.array_equal(getattr(merged, name), getattr(at_once, name)), name
    assert merged.sums == pytest.approx(at_once.sums, rel=1e-5, abs=1e-4)


def test_a_sliding_window_holds_the_last_buckets_and_no_other(known):
    found = counted.count(batch(known), known, BUCKET_S)
    first = int(found.buckets[0])
    sliding = Sliding(found, 7)
    for step in (first, first + 1, first + 5, first + 9, first + 40, first + 200):
        sliding.move(step)
        inside = (found.buckets >= step - 7) & (found.buckets < step)
        assert np.array_equal(sliding.window.counts, found.counts[inside].sum(axis=0)), step
        assert sliding.window.rows == found.rows[inside].sum()
    assert not sliding.move(first + 201)


def test_what_a_policy_did_not_keep_is_not_counted_and_the_rest_is(publish):
    known = opened(publish("homes", spec=HOMES, classes=()).tag)
    whole = batch(known)
    names = [bins.name for bins in known.reference.bins]
    rows = whole.rows.copy()
    rows[::2, 0] = np.nan  # the area of every second row, and the whole of some
    rows[10:20] = np.nan
    found = counted.count(Batch(whole.version, whole.time_s, rows, whole.outputs), known, BUCKET_S)
    total = dict(zip(names, found.counts.sum(axis=(0, 2)).tolist(), strict=True))
    lost = int(np.isnan(rows[:, 0]).sum())
    assert (total["area"], total["city"], total["prediction"]) == (600 - lost, 590, 600)
    assert found.rows.sum() == 600 and found.embedded.sum() == 600 - lost
    plain = counted.count(whole, known, BUCKET_S).counts.sum(axis=0)
    assert np.array_equal(found.counts.sum(axis=0)[names.index("prediction")], plain[names.index("prediction")])


def test_of_an_image_that_was_not_kept_only_the_answer_is_counted(publish):
    known = opened(publish().tag)
    rows = rows_of(IMAGE, 50)
    gone = Batch("v", times(50, 1), np.full((50, 8, 8), np.nan, np.float32), answers(known.release, rows))
    counts = counted.count(gone, known, BUCKET_S).counts.sum(axis=0)
    held = {bins.name for bins, row in zip(known.reference.bins, counts, strict=True) if row.sum()}
    assert held == {"confidence", "margin", "entropy", "predicted_class"}


LABELS = st.lists(
    st.tuples(st.integers(0, 7), st.booleans(), st.integers(-300, 900)), max_size=30
)  # row, right, when the label came after the first row


@given(LABELS)
def test_the_window_of_quality_holds_the_last_label_of_each_row_at_any_step(said):
    answered = T0_S + 60.0 * np.arange(8)
    last: dict[int, bool] = {}
    answered_s, known_s, steps, events = [], [], [], []
    for row, right, late in sorted(said, key=lambda one: one[2]):
        before = last.get(row)
        step = (0 if before is not None else 1, int(right) - int(before or 0))
        answered_s.append(answered[row])
        known_s.append(T0_S + late)
        steps.append(step)
        events.append((row, right, max(T0_S + late, answered[row])))
        last[row] = right
    found = counted.changes(np.array(answered_s), np.array(known_s), np.array(steps, np.int64).reshape(-1, 2), SMALL)
    assert found.rows == len(last) and found.told[:, 3].sum() == sum(last.values())
    for step in range(int(T0_S // 60) - 2, int(T0_S // 60) + 25):
        now: dict[int, bool] = {}
        for row, right, at in events:
            bucket = answered[row] // 60
            if at // 60 < step <= bucket + 5 and at // 60 < bucket + 5:
                now[row] = right
        place = np.searchsorted(found.at, step) - 1
        labelled, right_rows = (np.cumsum(part)[place] if place >= 0 else 0 for part in (found.labelled, found.right))
        assert (labelled, right_rows) == (len(now), sum(now.values()))


def test_quality_is_told_from_enough_rows_on_and_only_under_the_floor(publish):
    known = opened(publish().tag)  # the floor is 0.9
    rules = PROFILES["production"]
    answered = np.full(400, T0_S)
    for right, rows, told in ((150, 199, False), (150, 200, True), (195, 200, False)):
        steps = np.array([(1, int(i < right)) for i in range(rows)], np.int64)
        changes = counted.changes(answered[:rows], answered[:rows] + 600, steps, rules)
        floor = Floor(changes, known.release.manifest.quality["floor"], rules.quality_rows)
        assert floor.at(int(T0_S // 60) + 5) is None
        assert (floor.at(int(T0_S // 60) + 11) is not None) == told
        assert floor.at(int(T0_S // 60) + 1441) is None  # a day later the rows are out of the window


def test_nothing_is_the_sum_of_no_parts():
    assert counted.together([]).counted == {} and len(counted.together([Seen()]).invalid[0]) == 0


def test_a_log_says_nothing_of_the_embedding_of_a_graph_and_all_of_the_rest(known):
    whole = batch(known)
    usual = counted.count(whole, known, BUCKET_S)
    watched = replace(known.reference.embedding, width=len(known.reference.embedding.low) - 10)
    other = counted.count(whole, replace(known, reference=replace(known.reference, embedding=watched)), BUCKET_S)
    assert np.array_equal(usual.counts, other.counts)
    sliding = Sliding(other, 7)
    sliding.move(int(other.buckets[0]) + 3)
    assert sliding.whole and sliding.window.sums is None and sliding.window.rows
