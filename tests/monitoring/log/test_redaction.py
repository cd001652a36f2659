import hashlib
import hmac

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_release import HOMES, IMAGE, TABLE, rows_of

from monitoring.log import redaction
from monitoring.log.pseudonym import Pseudonyms
from monitoring.log.redaction import Redaction, decode
from monitoring.shift import reference, signals
from monitoring.shift.signals import CELLS, Binner, Bins

MOST = 2.0**99  # of what a bin is scaled by, a float32 holds no more than 2**28 times that
FLOATS = st.floats(-MOST, MOST, width=32)
VALUES = arrays.arrays(np.float32, st.integers(1, 50), elements=FLOATS)


@given(VALUES, st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True).map(sorted))
def test_a_value_and_the_number_that_stands_for_its_bucket_lie_between_the_same_edges(values, edges):
    rounded = redaction.of_edges(edges).round(values)
    np.testing.assert_array_equal(np.digitize(rounded, edges), np.digitize(values, np.float32(edges)))


@given(VALUES, st.lists(st.integers(1, CELLS - 1), max_size=15, unique=True).map(sorted), FLOATS, st.floats(0.5, 1e6))
def test_a_bucket_of_a_signal_counts_into_the_bin_of_its_values(values, cuts, low, width):
    bins = Bins("x", float(low), float(np.float32(low)) + width + abs(low), tuple(cuts))
    rounded = redaction.of_bins(bins, coded=False).round(values)
    binner = Binner([bins])
    np.testing.assert_array_equal(binner.count(rounded[:, None]), binner.count(values[:, None]))


def test_drift_counts_of_bucketed_columns_are_those_of_the_columns():
    rows, outputs = rows_of(HOMES, 400), np.random.default_rng(0).random((400, 1)).astype(np.float32)
    bins = reference.build(reference.ReferenceSettings(), reference.HeldOut(HOMES, rows, outputs)).bins
    named = {one.name: one for one in bins}
    buckets = tuple(
        (place, redaction.of_bins(named[column], column in HOMES.categories))
        for place, column in enumerate(HOMES.columns)
    )
    blobs, _ = Redaction(HOMES, buckets=buckets).apply(rows)
    found = decode(HOMES, blobs)
    counts = [Binner(bins).count(signals.compute(HOMES, one, outputs)) for one in (rows, found)]
    np.testing.assert_array_equal(*counts)
    assert len(np.unique(found[:, 0])) <= len(named["area"].cuts) + 1 < len(np.unique(rows[:, 0]))
    assert set(np.unique(found[:, 1])) <= {0.0, 1.0, 2.0}  # still indices of categories


def test_a_hash_is_the_hmac_of_column_and_value():
    key = b"0123456789abcdef"
    rows = np.array([[0.1, 2, 3], [1e9, 2, 3]], dtype=np.float32)
    made = Redaction(TABLE, dropped=(1,), hashed=(0,), pseudonyms=Pseudonyms(key))
    blobs, hashed = made.apply(rows)
    expected = [
        hmac.new(key, f"column age\0{text}".encode(), hashlib.sha256).hexdigest()[:32]
        for text in ("0.100000001", "1e+09")
    ]
    assert hashed == [f'{{"age": "{digest}"}}' for digest in expected]
    np.testing.assert_array_equal(decode(TABLE, blobs), [[np.nan, np.nan, 3], [np.nan, np.nan, 3]])


@pytest.mark.parametrize("spec", [IMAGE, HOMES, TABLE])
def test_rows_come_back_bit_for_bit_beside_rows_that_were_dropped_whole(spec):
    rows = rows_of(spec, 4)
    blobs, _ = Redaction(spec).apply(rows)
    assert decode(spec, blobs).tobytes() == rows.tobytes() and decode(spec, blobs).dtype == rows.dtype
    found = decode(spec, [blobs[0], b"", blobs[2], b""])
    np.testing.assert_array_equal(found[[0, 2]], rows[[0, 2]])
    assert np.isnan(found[[1, 3]]).all() and found.shape == rows.shape
