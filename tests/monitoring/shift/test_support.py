import json
from dataclasses import asdict

import numpy as np
import pytest

from monitoring.shift import support
from monitoring.shift.support import Support


def outside(seen, rows):
    return support.outside(rows, seen.step, seen.limits(rows.dtype.name))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rows_that_were_seen_lie_inside(dtype):
    rows = np.random.default_rng(0).integers(0, 200, (500, 6, 5)).astype(dtype)
    seen = Support.of(rows)
    assert outside(seen, rows).tolist() == [0.0] * 500
    beyond = np.where(np.arange(30).reshape(6, 5) < 3, 255, rows[:1]).astype(dtype)
    assert outside(seen, beyond).tolist() == [0.1]


def test_a_few_poisoned_rows_do_not_widen_it():
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((1000, 4)).astype(np.float32)
    poisoned = rows.copy()
    poisoned[:50, 1] = 1e9
    seen = Support.of(poisoned)
    assert max(seen.high) < 6
    assert outside(seen, np.full((1, 4), 100.0, np.float32)).tolist() == [1.0]


def test_of_a_large_row_a_bounded_number_of_places_is_kept():
    rows = np.zeros((3, 3, 224, 224), np.uint8)
    seen = Support.of(rows)
    assert len(seen.low) <= support.MOST_PLACES
    assert outside(seen, rows + 1).tolist() == [1.0] * 3


def test_it_survives_json():
    seen = Support.of(np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32))
    assert Support.from_json(json.loads(json.dumps(asdict(seen)))) == seen
    low, _ = seen.limits("float32")
    assert low.dtype == np.float32


def test_a_typical_distance_counts_only_what_is_not_in_the_middle():
    columns = np.array([[0.0, 5.0], [0.0, 5.0], [0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    assert support.typical_distance(columns, np.median(columns, axis=0)).tolist() == [3.0, 1.0]
