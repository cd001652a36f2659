"""Drift against scipy, on the real drift of the digits in file order, and on shuffled controls."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from monitoring.shift.images import NAMES
from training.config import Data, Split
from training.explore import drift
from training.explore.duplicates import part_of
from training.rows import data, split


@pytest.fixture(scope="module")
def digits():
    table = data.load(Data("digits"), Path())
    return table, drift.measure(table)


@pytest.mark.parametrize("digits_after_point", [0, 1, 9])
def test_the_distance_is_that_of_scipy_and_its_p_value_near_it_and_never_too_low(digits_after_point):
    g = np.random.default_rng(digits_after_point)
    one, two = g.normal(size=300).round(digits_after_point), g.normal(0.2, 1, size=120).round(digits_after_point)
    expected = ks_2samp(one, two, method="asymp")
    gap = drift.distance(one, two)
    assert gap == pytest.approx(expected.statistic)
    (p,) = drift.p_values(np.array([gap]), 300, 120)
    assert expected.pvalue <= p <= 1.4 * expected.pvalue


def test_holm_raises_p_values_step_by_step_and_never_above_one():
    found = drift.holm(np.array([[0.01, 0.04], [0.03, 0.9]]))
    assert found == pytest.approx(np.array([[0.04, 0.09], [0.09, 0.9]]))


def test_the_writers_of_the_digits_are_found_in_file_order(digits):
    _, measured = digits
    found = drift.along(measured, np.arange(len(measured.rows)))
    assert found.gap.shape == (10, len(NAMES) + 10)
    assert found.large.any(axis=1).sum() >= 3
    assert not found.sure[
        :, len(NAMES) :
    ].any()  # the classes are dealt evenly over the file: it is not the labels that drift


def test_shuffled_rows_and_hashed_parts_raise_no_more_false_alarms_than_stated(digits):
    table, measured = digits
    alarms = {"order": 0, "parts": 0}
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(len(measured.rows))
        alarms["order"] += bool(drift.along(measured, order).sure.any())
        part = part_of(len(table.y), split.deal(table.unit, Split(seed=seed)))
        alarms["parts"] += bool(drift.between(measured, part, table.unit).sure.any())
    assert max(alarms.values()) <= 2  # 40 x 1 % expected at most; above 2 with probability 0.007


def test_parts_of_groups_are_compared_by_group_so_that_few_groups_are_no_alarm():
    alarms = 0
    for seed in range(60):
        g = np.random.default_rng(seed)
        group = np.repeat(np.arange(60), 40)
        x = (g.normal(size=(60, 3))[group] + 0.1 * g.normal(size=(2400, 3))).astype(np.float32)
        unit = data.row_keys(np.float32(group + 1000 * seed)[:, None])
        y = g.integers(0, 2, len(x))
        table = data.Table(x, y, ("a", "b", "c"), ("0", "1"), data.row_keys(x), unit, "")
        part = part_of(len(x), split.deal(unit, Split()))
        alarms += bool(drift.between(drift.measure(table), part, unit).sure.any())
    assert alarms <= 3


def test_a_shifted_test_set_is_found_and_named(digits):
    table, _ = digits
    brighter = np.where(np.arange(len(table.y))[:, None, None] < 400, np.minimum(table.x + 2, 16), table.x)
    measured = drift.measure(replace(table, x=brighter.astype(np.uint8)))
    part = np.where(np.arange(len(table.y)) < 400, 2, np.arange(len(table.y)) % 2)
    found = drift.between(measured, part, table.unit)
    assert found.large[1, found.names.index("brightness")]
    assert not found.sure[0].any()


def test_too_few_rows_are_not_judged(digits):
    table, measured = digits
    few = drift.Signals(measured.names, measured.values[:100], measured.rows[:100])
    assert drift.along(few, np.arange(100)) is None
    assert drift.between(few, np.zeros(len(table.y), dtype=int), table.unit) is None
