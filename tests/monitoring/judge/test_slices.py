import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from tiny_release import HOMES, IMAGE, TABLE, rows_of

from monitoring.judge import slices
from monitoring.shift import signals
from registry.errors import ConfigError
from registry.release import InputSpec

MANY = InputSpec("float32", (1,), ("town",), {"town": tuple(f"town {i}" for i in range(40))})


def table(names, spec, rows, right=None, floor=0.0):
    right = np.ones(len(rows), dtype=bool) if right is None else right
    return {"slices": json.loads(json.dumps(slices.to_manifest(slices.fit(names, spec, rows, right, floor))))}


def test_a_column_of_text_is_told_apart_by_its_values_and_a_number_by_its_quartiles():
    rows = rows_of(HOMES, 4000)
    names = slices.namer(table(("city", "area"), HOMES, rows), HOMES)(rows)
    for row, (city, area) in zip(rows, names, strict=True):
        assert city == f"city={HOMES.categories['city'][int(row[1])]}"
        low, _, high = area.partition("<=area<")
        if high:
            assert float(low) <= row[0] < float(high)
        elif area.startswith("area<"):
            assert row[0] < float(area[5:])
        else:
            assert row[0] >= float(area[6:])
    counts = np.unique([area for _, area in names], return_counts=True)[1]
    assert len(counts) == 4 and counts.min() > 900


def test_of_many_values_the_frequent_ones_are_kept_and_the_rest_is_other():
    codes = np.repeat(np.arange(40), np.arange(1, 41))
    rows = codes[:, None].astype(np.float32)
    said = table(("town",), MANY, rows)
    found = np.array([one for (one,) in slices.namer(said, MANY)(rows)])
    assert set(found[codes >= 32]) == {f"town=town {i}" for i in range(32, 40)}
    assert set(found[codes < 32]) == {"town=other"}


def test_a_value_that_was_not_recorded_is_in_a_slice_of_its_own():
    rows = rows_of(HOMES, 500)
    said = table(("city", "area"), HOMES, rows)
    hidden = np.full((3, 3), np.nan, dtype=np.float32)
    assert slices.namer(said, HOMES)(hidden) == [("city=unknown", "area=unknown")] * 3
    assert not {"city=unknown", "area=unknown"} & set(slices.floors(said))


def test_an_image_is_told_apart_by_what_is_measured_of_it():
    rows = rows_of(IMAGE, 400)
    found = slices.namer(table(("brightness",), IMAGE, rows), IMAGE)(rows)
    place = signals.names(IMAGE, 0).index("brightness")
    bright = signals.compute(IMAGE, rows, np.zeros((400, 1), np.float32))[:, place]
    names = np.array([one for (one,) in found])
    means = sorted(float(bright[names == name].mean()) for name in set(names))
    assert len(means) == 4 and means == sorted(means)
    lowest = next(name for name in names if name.startswith("brightness<"))
    assert bright[names == lowest].max() < bright[names != lowest].min()


@given(st.integers(1, 5), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_the_number_of_slices_is_bounded_and_every_row_has_one_of_each_name(columns, rows, seed):
    generator = np.random.default_rng(seed)
    spec = InputSpec("float32", (5,), tuple("abcde"), {"a": tuple(map(str, range(300)))})
    x = generator.integers(0, 300, (rows, 5)).astype(np.float32)
    said = table(tuple("abcde"[:columns]), spec, x)
    traffic = generator.integers(0, 300, (50, 5)).astype(np.float32)
    found = slices.namer(said, spec)(traffic)
    assert {len(one) for one in found} == {columns}
    known = set(slices.floors(said))
    assert {name for one in found for name in one} <= known and len(known) <= 9 + 4 * (columns - 1)


def test_the_floor_of_a_slice_is_what_was_sure_of_it_or_that_of_the_model():
    rows = rows_of(HOMES, 3000)
    city = rows[:, 1].astype(int)
    right = np.random.default_rng(0).random(3000) < np.array([0.99, 0.99, 0.70])[city]
    said = table(("city",), HOMES, rows, right, floor=0.9)
    floors = slices.floors(said)
    assert floors["city=Bern"] == floors["city=Oslo"] == 0.9
    hard = right[city == 2]
    sure = slices.confidence(len(floors))
    expected = binomtest(int(hard.sum()), len(hard)).proportion_ci(confidence_level=sure, method="wilson")
    assert floors["city=Rome"] == pytest.approx(expected.low) and 0.6 < floors["city=Rome"] < 0.7
    assert floors["city=other"] == 0.0  # nothing was known of it
    (found,) = slices.parse(said)
    assert found.rows == (*np.bincount(city), 0) and found.right == (*np.bincount(city, right).astype(int), 0)
    before = {"slices": [{key: value for key, value in said["slices"][0].items() if key not in ("rows", "right")}]}
    assert slices.floors(before) == floors and slices.parse(before)[0].rows == ()  # of a release from before


def test_all_slices_together_raise_an_alarm_as_rarely_as_one():
    generator, floor, rows, false = np.random.default_rng(1), 0.9, 400, 0
    for _ in range(500):
        right = generator.binomial(rows, floor, 20)
        false += any(slices.wilson(int(one), rows, slices.confidence(20))[1] < floor for one in right)
    print(f"a slice of 20 is called under its floor at one look, all being at it: {false / 500:.1%}")
    assert false / 500 <= 0.05


@pytest.mark.parametrize(
    ("names", "spec", "why"),
    [
        (("country",), HOMES, "'country' is not in the rows of the traffic; accepted are area, city, heating"),
        (("age",), IMAGE, "accepted are brightness, contrast"),
        (("age",) * 6, TABLE, "6 names; up to 5"),
    ],
)
def test_a_name_that_the_rows_do_not_have_is_refused_before_training(names, spec, why):
    with pytest.raises(ConfigError, match=why):
        slices.demand(names, spec)


def test_a_release_without_slices_has_none():
    assert slices.namer({"metric": "accuracy"}, HOMES) is None and slices.floors({}) == {}
