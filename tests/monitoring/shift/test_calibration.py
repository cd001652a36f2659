from statistics import NormalDist

import months
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_release import TABLE

from monitoring.shift import calibration, drift, reference
from monitoring.shift import count as counting
from monitoring.shift.count import count, counter
from monitoring.shift.reference import ReferenceSettings

NORMAL = NormalDist()


@pytest.fixture(scope="module")
def people():
    return months.population(60000, seed=1)


@pytest.fixture(scope="module")
def made(people):
    return months.made_from(*people, 10000)


def share_over(made, x, answers, rows, windows=1500, false_alarm=0.05, in_order=False):
    """Return the share of clean windows in which any signal is over its limit for one look."""
    codes, generator = months.coded(made, x, answers), np.random.default_rng(5)
    normal, limits = made.padded_shares() * made.rows, made.nulls.limits(rows, false_alarm)[: len(made.bins)]
    places = generator.integers(0, len(codes) - rows, (windows, 1)) + np.arange(rows)
    places = places if in_order else generator.integers(0, len(codes), (windows, rows))
    chunks = [count(codes[some]) for some in np.array_split(places, max(1, rows // 20))]
    return float(
        np.mean([(calibration.z_scores(c[None], normal)[0] > limits).any() for chunk in chunks for c in chunk])
    )


@pytest.mark.parametrize("rows", [20, 50, 100, 200, 500, 1000])
def test_one_in_twenty_clean_windows_of_any_size_raises_an_alarm(made, people, rows):
    x, answers = people
    assert share_over(made, x[10000:], answers[10000:], rows) == pytest.approx(0.05, abs=0.02)


def test_a_tenth_of_the_alarms_can_be_asked_for(made, people):
    x, answers = people
    assert share_over(made, x[10000:], answers[10000:], 100, 3000, 0.005) == pytest.approx(0.005, abs=0.004)


def test_the_far_tail_of_a_signal_with_rare_values_is_that_of_many_more_draws():
    shares, rows, size = np.array([0.9, 0.05, 0.03, 0.015, 0.004, 0.001]), 2000, 100
    generator = np.random.default_rng(0)
    codes = generator.choice(6, (rows, 1), p=shares)
    nulls = calibration.draw(codes, None, 0)
    held = np.bincount(codes[:, 0], minlength=16)
    windows = generator.multivariate_hypergeometric(held, size, 300_000).astype(float)[:, None]
    z = calibration.z_scores(windows, held - windows)[:, 0]
    for p in (1e-2, 1e-3, 1e-4):
        assert 0.92 < nulls.at(size, NORMAL.inv_cdf(1 - p))[0] / np.quantile(z, 1 - p) < 1.2
    assert nulls.at(size, 3.7)[0] > 5 > nulls.at(1000, 3.7)[0]


def test_a_constant_signal_has_the_limits_of_the_normal_distribution():
    nulls = calibration.draw(np.ones((400, 1), dtype=int), None, 0)
    assert nulls.at(100, 3.0).tolist() == [3.0]


def test_signals_that_say_the_same_count_as_one():
    one = np.random.default_rng(0).integers(0, 10, (1000, 1))
    same = calibration.draw(np.repeat(one, 8, axis=1), None, 0).independent(500)
    other = calibration.draw(np.random.default_rng(0).integers(0, 10, (1000, 8)), None, 0).independent(500)
    assert same < 2 < 4 < other < 14


def test_rows_in_order_that_depend_on_one_another_raise_no_more_alarms_and_shuffled_ones_do():
    x, answers = months.population(40000, seed=2, memory=0.9)
    ordered = months.made_from(x, answers, 10000)
    assert ordered.nulls.block_rows >= 32
    later = x[10000:], answers[10000:]
    assert share_over(ordered, *later, 200, 600, in_order=True) < 0.15
    mixed = np.random.default_rng(0).permutation(10000)
    shuffled = months.made_from(x[mixed], answers[mixed], 10000)
    assert shuffled.nulls.block_rows == 1
    assert share_over(shuffled, *later, 200, 600, in_order=True) > 0.9


def test_a_file_sorted_by_class_is_no_sequence_in_time(people):
    x, answers = (part[:5000] for part in people)
    order = np.argsort(answers.argmax(axis=1), kind="stable")
    assert months.made_from(x[order], answers[order], 5000).nulls.block_rows == 1


def test_traffic_whose_rows_depend_on_one_another_is_measured_and_judged_by_that():
    x, answers = months.population(40000, seed=3, memory=0.9)
    mixed = np.random.default_rng(0).permutation(10000)
    made = months.made_from(x[mixed], answers[mixed], 10000)
    windows = [drift.window_of(made, months.SPEC, *hour) for hour in hours(x[10000:], answers[10000:], 200)]
    seen = drift.unrest(made, windows[:100])
    assert (seen.level[:-1] > 1).all() and (seen.scale[:-1] > 1.5).all()
    judged = [drift.judge(made, window_with(window, seen), "short") for window in windows[100:]]
    naive = [drift.judge(made, window, "short") for window in windows[100:]]
    assert sum(map(bool, judged)) <= 1 and sum(map(bool, naive)) > 20
    moved = drift.window_of(made, months.SPEC, x[10000:12000] + np.float32([2, 0, 0, 0, 0, 0]), answers[10000:12000])
    assert "age" in {found.signal for found in drift.judge(made, window_with(moved, seen), "short")}


def test_independent_traffic_is_calm(made, people):
    x, answers = (part[20000:50000] for part in people)
    seen = drift.unrest(made, [drift.window_of(made, months.SPEC, *hour) for hour in hours(x, answers, 200)])
    assert (seen.level == 0).all() and (seen.scale == 1).all()


def test_one_large_change_is_no_unrest(made, people):
    x, answers = (part[20000:50000].copy() for part in people)
    x[15000:, :4] += 3
    seen = drift.unrest(made, [drift.window_of(made, months.SPEC, *hour) for hour in hours(x, answers, 200)])
    assert (seen.level == 0).all() and (seen.scale[:-1] == 1).all()


def hours(x, answers, rows):
    return [(x[at : at + rows], answers[at : at + rows]) for at in range(0, len(x) - rows + 1, rows)]


def window_with(window, seen):
    return drift.Window(window.counts, window.sums, window.rows, seen)


def test_limits_fall_with_fewer_looks_and_rise_with_a_smaller_budget(made):
    df = np.full(len(made.bins) + 1, 9)
    (strict, _), (usual, _) = (calibration.monthly(made.nulls, df, budget, 100) for budget in (0.001, 0.05))
    assert all(strict[window] > usual[window] for window in usual)
    assert usual["short"] > usual["medium"] > usual["long"]


@pytest.mark.parametrize("poisoned", [0.005, 0.01, 0.05])
@pytest.mark.parametrize("poison", [1e9, -1e9, np.nan])
def test_a_shift_of_a_fifth_of_a_deviation_is_found_in_spite_of_a_poisoned_reference(poisoned, poison):
    generator = np.random.default_rng(4)

    def rows(count, shift=0.0):
        x = generator.standard_normal((count, 3)).astype(np.float32)
        x[:, 0] += shift
        return x, generator.dirichlet(np.ones(3), count).astype(np.float32)

    x, answers = rows(4000)
    x[: int(4000 * poisoned), 0] = poison
    made = reference.build(ReferenceSettings(), reference.HeldOut(TABLE, x, answers))
    assert made.outside[0] == pytest.approx(poisoned)
    clean, moved = (drift.window_of(made, TABLE, *rows(10000, shift)) for shift in (0.0, 0.2))
    found = {found.signal for found in drift.judge(made, clean, "medium")}
    assert found <= ({"embedding"} if poisoned > 0.01 else set())  # that one has the poisoned rows in its mean
    assert "age" in {found.signal for found in drift.judge(made, moved, "medium")}
    for shift in (3.0, 10.0):
        assert any(
            f.signal.startswith("age")
            for f in drift.judge(made, drift.window_of(made, TABLE, *rows(300, shift)), "short")
        )


def test_a_value_that_stands_for_none_in_reference_and_traffic_alike_is_no_drift():
    def rows(seed, share):
        generator = np.random.default_rng(seed)
        x = generator.standard_normal((4000, 3)).astype(np.float32)
        x[generator.random(4000) < share, 0] = 999_999
        return x, generator.dirichlet(np.ones(3), 4000).astype(np.float32)

    made = reference.build(ReferenceSettings(), reference.HeldOut(TABLE, *rows(0, 0.03)))
    assert drift.judge(made, drift.window_of(made, TABLE, *rows(1, 0.03)), "medium") == []
    more = drift.judge(made, drift.window_of(made, TABLE, *rows(2, 0.08)), "medium")
    assert more[0].signal == "age" + drift.OUTSIDE and "age" not in {found.signal for found in more}


@pytest.mark.proof
def test_at_most_one_clean_month_in_twenty_raises_an_alarm():
    fired, told = {20: [], 100: [], 500: []}, {20: [], 100: [], 500: []}
    for seed in range(40):
        x, answers = months.population(60000, seed)
        made = months.made_from(x, answers, 5000)
        codes = months.coded(made, x[20000:], answers[20000:])
        for rate, found in fired.items():
            for month in range(2):
                both, sure = months.month(made, codes, rate, 100 * seed + month)
                found.append(bool(sure))
                told[rate].append(bool(both))
    for rate, found in fired.items():
        print(
            f"\n{rate} rows/h: {np.mean(found):.1%} of {len(found)} clean months over z, {np.mean(told[rate]):.1%} told"
        )
    assert 0 < np.mean([month for found in told.values() for month in found]) < 0.05


@pytest.mark.parametrize("product", [True, False])
@given(st.integers(20, 300), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_windows_counted_by_a_product_and_judged_by_one_sum_are_as_any_others(product, rows, signals, seed):
    generator = np.random.default_rng(seed)
    codes = generator.integers(-1, generator.integers(1, 16, signals), (rows, signals))
    places = np.array([generator.permutation(rows)[: rows // 2] for _ in range(7)])
    counted = counter(codes)(places) if product else count(codes[places])
    assert counted.dtype == np.float64 and np.array_equal(counted, count(codes[places]))
    whole = count(codes[None])[0]
    found = calibration.z_of_parts(counted, whole)
    np.testing.assert_allclose(
        found, calibration.z_scores(counted, whole - counted), rtol=1e-6, atol=1e-3
    )  # a cube root of nearly 0


def test_a_window_that_is_a_small_part_of_many_rows_is_counted_without_a_product(monkeypatch):
    codes = np.random.default_rng(0).integers(0, 10, (3000, 4))
    many, few = np.arange(1000).reshape(2, 500), np.arange(40).reshape(4, 10)
    seen = []
    monkeypatch.setattr(counting, "count", lambda some: seen.append(some.shape) or count(some))
    assert np.array_equal(counter(codes)(many), count(codes[many])) and not seen
    assert np.array_equal(counter(codes)(few), count(codes[few])) and seen == [(4, 10, 4)]
