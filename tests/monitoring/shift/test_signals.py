from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny_release import HOMES, IMAGE, TABLE, rows_of

from monitoring.shift import binning, bulk, embedding, signals
from monitoring.shift.bulk import Counting, Tally, Totals
from monitoring.shift.signals import BINS, CELLS, Binner, Bins, Meter
from monitoring.shift.support import Support
from registry.release import InputSpec

GENERATOR = np.random.default_rng(0)
VECTOR = InputSpec("float32", (5,))
IMAGE_OF_FLOATS = InputSpec("float32", (8, 8))


def probabilities(rows, classes=10):
    return np.random.default_rng(rows).dirichlet(np.ones(classes), rows).astype(np.float32)


@pytest.mark.parametrize(
    "spec",
    [
        IMAGE,
        TABLE,
        HOMES,
        InputSpec("float32", (5,)),
        InputSpec("uint8", (3, 16, 12)),
        InputSpec("uint8", (16, 12, 3)),
        InputSpec("float32", (120,), tuple(f"c{i}" for i in range(120))),
    ],
)
def test_every_kind_of_row_gives_one_finite_number_per_signal(spec):
    values = signals.compute(spec, rows_of(spec, 7), probabilities(7))
    assert values.shape == (7, len(signals.names(spec, 10))) and values.dtype == np.float32
    assert np.isfinite(values).all()
    assert len(signals.names(spec, 10, supported=True)) <= signals.MOST_SIGNALS - 2  # the embedding, the missing class


def test_channels_first_and_channels_last_images_have_the_same_signals():
    first = rows_of(InputSpec("uint8", (3, 16, 12)), 5)
    last = np.moveaxis(first, 1, -1)
    p = probabilities(5)
    a = signals.compute(InputSpec("uint8", (3, 16, 12)), first, p)
    b = signals.compute(InputSpec("uint8", (16, 12, 3)), last, p)
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_moments_of_an_image_are_those_of_its_brightness():
    image = np.zeros((1, 8, 8), dtype=np.uint8)
    image[0, 2, 5] = 10
    named = dict(zip(signals.names(IMAGE, 10), signals.compute(IMAGE, image, probabilities(1))[0], strict=True))
    assert named["centre_x"] == pytest.approx(5, abs=1e-4) and named["centre_y"] == pytest.approx(2, abs=1e-4)
    assert named["spread_x"] == pytest.approx(0, abs=1e-2)
    assert named["brightness"] == pytest.approx(10 / 64)
    assert named["above_mean"] == pytest.approx(1 / 64)


def test_a_blank_image_has_signals_too():
    blank = signals.compute(IMAGE, np.zeros((1, 8, 8), dtype=np.uint8), probabilities(1))
    assert np.isfinite(blank).all()


def test_the_signals_of_the_output_agree_with_scipy():
    from scipy.stats import entropy

    p = probabilities(50)
    confidence, margin, uncertain, predicted = signals.compute(TABLE, rows_of(TABLE, 50), p)[:, -4:].T
    top = np.sort(p, axis=1)
    np.testing.assert_allclose(confidence, top[:, -1])
    np.testing.assert_allclose(margin, top[:, -1] - top[:, -2])
    np.testing.assert_allclose(uncertain, entropy(p, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(predicted, p.argmax(axis=1))


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50),
    st.lists(st.integers(1, CELLS - 1), min_size=1, max_size=BINS - 1, unique=True),
)
def test_the_lookup_table_counts_as_sorted_edges_do(values, cuts):
    cuts = tuple(sorted(cuts))
    binner = Binner([Bins("a", -100.0, 100.0, cuts)])
    column = np.array(values, dtype=np.float32)[:, None]
    expected = np.bincount(np.searchsorted(cuts, binner.cells(column)[:, 0], side="right"), minlength=BINS)
    np.testing.assert_array_equal(binner.count(column)[0], expected)


def test_values_outside_the_range_belong_to_the_outer_bins():
    binner = Binner([Bins("a", 0.0, 1.0, (CELLS // 2,))])
    column = np.array([[-5.0], [0.1], [0.9], [1e30], [np.nan]], dtype=np.float32)
    assert binner.count(column)[0][:2].tolist() == [2, 3]  # not a number counts as too large: it must not vanish


def counting(spec, binner):
    return Counting(Meter(spec, binner.signals), binner)


BINNER = Binner([Bins(name, -50.0, 50.0, (1000, 2000, 2100, 2200)) for name in signals.names(IMAGE, 10)])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 100), st.booleans())
def test_the_tally_is_the_same_however_rows_are_batched(sizes, buffer_rows, later):
    rows, p = rows_of(IMAGE, sum(sizes)), probabilities(sum(sizes))
    tally, start, todo = Tally(counting(IMAGE, BINNER)), 0, []
    tally.buffer_rows = buffer_rows
    tally.later = todo.append if later else None
    for size in sizes:
        tally.add(rows[start : start + size], p[start : start + size])
        start += size
        while todo:
            todo.pop()()
    np.testing.assert_array_equal(tally.counts(), BINNER.count(signals.compute(IMAGE, rows, p)))
    assert (tally.counts().sum(axis=1) == sum(sizes)).all()


def test_a_request_larger_than_the_buffer_is_counted_in_pieces_that_let_others_in_between():
    tally, todo = Tally(counting(IMAGE, BINNER)), []
    tally.buffer_rows, tally.later = 10, todo.append
    counts = tally._totals.counts
    tally.add(rows_of(IMAGE, 35), probabilities(35))
    seen = [counts[0].sum()]
    while todo:
        todo.pop()()
        seen.append(counts[0].sum())
    assert seen == [9, 18, 27]
    tally.flush()
    assert counts[0].sum() == 35


def test_a_full_buffer_is_embedded_in_part_and_single_requests_whole():
    x, p = rows_of(IMAGE, 1000), probabilities(1000)
    whole = Counting(Meter(IMAGE, BINNER.signals), BINNER, embedding.fit(x, p))
    few, many = Tally(whole), Tally(whole)
    many.buffer_rows = 1000
    few.add(x[:60], p[:60])
    np.testing.assert_allclose(few.sums(), whole.sums(x[:60], p[:60]))
    many.add(x, p)
    assert many.counts()[0].sum() == 1000
    assert bulk.MOST_EMBEDDED_ROWS / 2 < many.sums()[-1] <= bulk.MOST_EMBEDDED_ROWS
    step = round(1000 / many.sums()[-1])
    np.testing.assert_allclose(many.sums(), whole.sums(x[::step], p[::step]))


@pytest.mark.parametrize("buffer_rows", [1, 7, 1000])
def test_the_embedding_of_the_graph_stands_for_the_row_and_stays_with_its_answer(buffer_rows):
    x, p, e = rows_of(IMAGE, 300), probabilities(300), np.random.default_rng(4).standard_normal((300, 2, 3))
    made = replace(embedding.fit(e.reshape(300, 6), p), width=6)
    whole = Counting(Meter(IMAGE, BINNER.signals), BINNER, made)
    tally = Tally(whole)
    tally.buffer_rows = buffer_rows
    for some in np.array_split(np.arange(60), 9):
        tally.add(x[some], p[some], e[some])
    np.testing.assert_allclose(tally.sums()[:-1], made.components(e[:60].reshape(60, 6), p[:60]).sum(axis=0), rtol=1e-5)
    assert tally.sums()[-1] == tally.counts()[0].sum() == 60
    assert not whole.sums(x, p).any()  # rows alone say nothing of it


@pytest.mark.parametrize("far", [1e35, -1e35, 3.4e38, -3.4e38])
@pytest.mark.parametrize("spec", [TABLE, IMAGE_OF_FLOATS, VECTOR], ids=["table", "image", "vector"])
def test_values_near_the_largest_number_are_counted_once_and_without_a_warning(spec, far):
    narrow = Binner([Bins(name, 0.5, 0.5 + 1e-3, (100,)) for name in signals.names(spec, 3)])
    rows = rows_of(spec, 20)
    rows[:4] = far
    found = narrow.count(signals.compute(spec, rows, probabilities(20)))
    assert (found.sum(axis=1) == 20).all()
    if spec.columns:  # a column is its own signal
        assert (found[: len(spec.columns), 1 if far > 0 else 0] >= 4).all()


WIDE = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@given(WIDE, st.booleans())
def test_any_numbers_have_bins_that_hold_each_of_them_once(column, endless):
    """Also where a float32 has no number for the range, or for the cells in a unit of it."""
    bins = binning.of_number("x", column, 20, endless)
    assert list(bins.cuts) == sorted(set(bins.cuts)) and np.isfinite(np.float32([bins.low, bins.high])).all()
    assert Binner([bins]).count(column[:, None]).sum() == len(column)


def test_requests_beyond_the_rate_are_left_out_whole():
    tally = Tally(counting(IMAGE, BINNER), rows_per_s=8)
    assert [tally.wants(size) for size in (5, 500, 1, 4)] == [True, True, False, False]  # a minute must pass


def test_the_tally_adds_to_the_counts_it_is_given():
    shared = np.ones((len(BINNER.signals), BINS))
    tally = Tally(counting(IMAGE, BINNER), Totals(shared, np.zeros(1)))
    tally.add(rows_of(IMAGE, 1100), probabilities(1100))
    tally.flush()
    assert shared[0].sum() == BINS + 1100


def test_rows_that_cost_more_wait_in_fewer_numbers_and_are_counted_at_a_lower_rate():
    large = InputSpec("uint8", (3, 224, 224))
    binner = Binner([Bins(name, 0.0, 1.0, ()) for name in signals.names(large, 10)])
    costly, cheap = Tally(counting(large, binner), rows_per_s=1e9), Tally(counting(IMAGE, BINNER), rows_per_s=1e9)
    assert costly.buffer_rows < cheap.buffer_rows <= bulk.MOST_BUFFER_ROWS
    taken = {name: sum(tally.wants(100) for _ in range(3)) for name, tally in (("costly", costly), ("cheap", cheap))}
    assert taken["costly"] < taken["cheap"] == 3


def test_the_one_signal_of_a_regression_is_its_prediction():
    predicted = np.array([[1e6], [-3.5]], dtype=np.float32)
    values = signals.compute(HOMES, rows_of(HOMES, 2), predicted)
    assert signals.names(HOMES, 0) == (*HOMES.columns, "area empty", "heating empty", "prediction")
    np.testing.assert_array_equal(values[:, -1:], predicted)


def test_the_predicted_class_is_the_one_the_threshold_decides():
    p = np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]], dtype=np.float32)
    decided = signals.compute(TABLE, rows_of(TABLE, 3), p, threshold=0.25)[:, -1]
    assert decided.tolist() == [0, 1, 1]


def test_the_share_of_a_row_that_lies_outside_what_was_seen_is_a_signal():
    seen = Support.of(np.array([[0, 1, 2], [4, 5, 6]], dtype=np.float32))
    rows = np.array([[4, 5, 2], [4.5, 5, 2], [9, 0, 6]], dtype=np.float32)
    values = signals.compute(TABLE, rows, probabilities(3), None, seen)
    found = dict(zip(signals.names(TABLE, 10, supported=True), values.T, strict=True))
    np.testing.assert_allclose(found["out_of_support"], [0, 1 / 3, 2 / 3], rtol=1e-6)


def test_a_release_from_before_a_signal_is_measured_by_those_it_names():
    older = (*signals.names(IMAGE, 10)[:10], "predicted_class", "margin")
    rows, p = rows_of(IMAGE, 9), probabilities(9)
    now = dict(zip(signals.names(IMAGE, 10), signals.compute(IMAGE, rows, p).T, strict=True))
    np.testing.assert_array_equal(Meter(IMAGE, older).measure(rows, p).T, [now[name] for name in older])


def test_a_release_that_measures_more_columns_alone_keeps_them():
    spec = InputSpec("float32", (120,), tuple(f"c{i}" for i in range(120)))
    older = (*spec.columns[:96], signals.REST, *signals.OUTPUTS)
    rows = rows_of(spec, 5)
    values = Meter(spec, older).measure(rows, probabilities(5))
    np.testing.assert_array_equal(values[:, :96], rows[:, :96])
    np.testing.assert_allclose(values[:, 96], rows[:, 96:].mean(axis=1), rtol=1e-6)


def test_many_signals_share_the_bins_of_a_model():
    assert [signals.most_bins(count, 10) for count in (4, 53, 98)] == [10, 10, 4]
    assert (signals.most_bins(98, 10) + signals.OUTER_BINS) * 98 <= signals.MOST_BINS_IN_ALL


@pytest.mark.parametrize("classes", [0, 3])
def test_a_column_named_like_an_output_does_not_share_its_name(classes):
    columns = ("margin", "prediction", "predicted_class", "other_columns_mean", *(f"c{i}" for i in range(100)))
    names = signals.names(InputSpec("float32", (104,), columns), classes)
    assert len(set(names)) == len(names)
    assert {"input_margin", "input_prediction"} <= set(names)


def test_an_image_with_pixels_below_zero_has_finite_moments_that_do_not_depend_on_its_level():
    spec = InputSpec("float32", (6, 5))
    images = np.random.default_rng(0).standard_normal((20, 6, 5)).astype(np.float32) - 3
    answers = np.full((20, 2), 0.5, np.float32)
    lower, low = (signals.compute(spec, shifted, answers) for shifted in (images - 10, images))
    assert np.isfinite(lower).all() and np.isfinite(low).all()
    moments = [signals.names(spec, 2).index(name) for name in ("centre_x", "centre_y", "spread_x", "spread_y")]
    np.testing.assert_allclose(lower[:, moments], low[:, moments], rtol=1e-4)


def test_a_column_that_may_be_empty_has_a_signal_that_says_whether_it_is():
    spec = InputSpec("float32", (3,), ("age", "height", "entropy"), {}, {"height": 0.1, "entropy": -1.0})
    rows = np.array([[1, 0.1, 2], [1, 5, -1], [1, 0.1, -1], [0.1, -1, 0.1]], np.float32)
    names = signals.names(spec, 2)
    assert names[3:5] == ("height empty", "input_entropy empty")
    values = signals.compute(spec, rows, np.full((4, 2), 0.5, np.float32))
    np.testing.assert_array_equal(values[:, 3:5], [[1, 0], [0, 1], [1, 1], [0, 0]])
    older = signals.Meter(spec, [name for name in names if not name.endswith(signals.EMPTY)])
    np.testing.assert_array_equal(older.measure(rows, np.full((4, 2), 0.5, np.float32)), np.delete(values, [3, 4], 1))


def test_empty_columns_never_make_more_signals_than_there_may_be():
    columns = tuple(f"c{k}" for k in range(95))
    for width in (80, 92, 95):
        spec = InputSpec("float32", (width,), columns[:width], {}, dict.fromkeys(columns[:width], 0.0))
        assert len(signals.names(spec, 3, supported=True)) <= signals.MOST_SIGNALS - 2
    taken = InputSpec("float32", (2,), ("age", "age empty"), {}, {"age": 0.0})
    assert len(set(signals.names(taken, 0))) == len(signals.names(taken, 0))
