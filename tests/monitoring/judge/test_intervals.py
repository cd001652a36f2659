import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score

from monitoring.judge import intervals


def confusion_of(truth, said, classes):
    return np.bincount(truth * classes + said, minlength=classes**2).reshape(classes, classes).astype(np.float64)


def drawn(chances, rows, generator, draws):
    """Return counts (draws, k, k) of `rows` rows whose cells have these chances (k, k)."""
    counts = generator.multinomial(rows, chances.ravel(), draws)
    return counts.reshape(draws, *chances.shape).astype(np.float64)


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0.5, 0.9999))
def test_the_interval_of_a_share_is_that_of_scipy(rows, share, confidence):
    right = round(rows * share)
    expected = stats.binomtest(right, rows).proportion_ci(confidence_level=confidence, method="wilson")
    assert intervals.wilson(right, rows, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=200))
def test_the_interval_of_a_mean_is_that_of_scipy(numbers):
    values = np.array(numbers)
    found = intervals.mean(values.sum(), (values**2).sum(), len(values))
    assert found.value == pytest.approx(values.mean(), abs=1e-6)
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert found.upper - found.value == pytest.approx(half, rel=0.01, abs=1e-3)
    assert found.value - found.lower == pytest.approx(half, rel=0.01, abs=1e-3)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_a_share_lies_within_its_own_interval_and_meets_it_at_0_and_1(rows, part):
    for right in (0, rows, part * rows):
        found = intervals.share(right, rows)
        assert 0 <= found.lower <= found.value <= found.upper <= 1
    assert intervals.share(0, rows).lower == 0 and intervals.share(rows, rows).upper == 1


@given(st.integers(2, 6), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_macro_f1_and_balanced_accuracy_are_those_of_scikit_learn(classes, rows, seed):
    generator = np.random.default_rng(seed)
    truth, said = generator.integers(0, classes, (2, rows))
    table = confusion_of(truth, said, classes)
    found = intervals.macro_f1(table)
    assert found.value == pytest.approx(f1_score(truth, said, average="macro"))
    assert 0 <= found.lower <= found.value <= found.upper <= 1
    true = table.sum(axis=1)
    some = true > 0
    recalled = intervals.mean_of_shares(np.diag(table)[some], true[some])
    if some.sum() > 1 and np.isin(said, truth).all():  # scikit-learn warns of all else
        assert recalled.value == pytest.approx(balanced_accuracy_score(truth, said))
    assert 0 <= recalled.lower <= recalled.value <= recalled.upper <= 1


def test_the_slope_of_macro_f1_is_its_derivative():
    table = np.random.default_rng(0).integers(1, 50, (4, 4)).astype(np.float64)
    slope = intervals._f1_slope(table, np.ones(4, dtype=bool))
    for place in np.ndindex(4, 4):
        more, fewer = table.copy(), table.copy()
        more[place] += 1e-4
        fewer[place] -= 1e-4
        change = intervals.macro_f1(more).value - intervals.macro_f1(fewer).value
        assert slope[place] == pytest.approx(change / 2e-4, rel=1e-5, abs=1e-9)


GOOD = np.array([[0.48, 0.01, 0.01], [0.01, 0.28, 0.01], [0.004, 0.006, 0.19]])
RARE = np.array([[0.90, 0.02, 0.01], [0.005, 0.034, 0.001], [0.004, 0.002, 0.024]])
POOR = np.array([[0.2, 0.1, 0.05], [0.1, 0.2, 0.05], [0.05, 0.05, 0.2]])
COVERAGE = [(GOOD, 100), (GOOD, 300), (GOOD, 2000), (RARE, 300), (RARE, 2000), (POOR, 100), (POOR, 2000)]


@pytest.mark.parametrize(("chances", "rows"), COVERAGE)
def test_intervals_of_macro_f1_and_balanced_accuracy_cover_the_truth(chances, rows):
    draws = 600
    tables = drawn(chances, rows, np.random.default_rng(1), draws)
    true_f1 = float(np.mean(2 * np.diag(chances) / (chances.sum(axis=0) + chances.sum(axis=1))))
    true_recall = float((np.diag(chances) / chances.sum(axis=1)).mean())
    inside = np.zeros(2)
    for table in tables:
        some = table.sum(axis=1) > 0
        recalled = intervals.mean_of_shares(np.diag(table)[some], table.sum(axis=1)[some])
        inside += [intervals.macro_f1(table).holds(true_f1), recalled.holds(true_recall)]
    covered = inside / draws
    print(f"{rows} rows: macro F1 {covered[0]:.1%}, balanced accuracy {covered[1]:.1%}")
    assert (covered >= 0.925).all() and (covered <= 1).all()
