import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from training.judge import regression

generator = np.random.default_rng(0)
Y = generator.normal(50, 8, 300)
PREDICTION = (Y + generator.normal(0, 4, 300)).astype(np.float32)


def test_every_metric_agrees_with_scikit_learn():
    found = regression.metrics(Y, PREDICTION, 3.0)
    assert {name: found[name]["value"] for name in ("mae", "rmse", "r2")} == pytest.approx({
        "mae": oracle.mean_absolute_error(Y, PREDICTION),
        "rmse": oracle.root_mean_squared_error(Y, PREDICTION),
        "r2": oracle.r2_score(Y, PREDICTION),
    })  # fmt: skip
    assert found["rows"] == 300


def test_within_tolerance_counts_both_ends_and_has_the_wilson_interval_of_scipy():
    found = regression.metrics(np.arange(4.0), np.array([0.5, 1.5, 1.0, 3.0]), 0.5)["within_tolerance"]
    expected = stats.binomtest(3, 4).proportion_ci(0.95, method="wilson")
    assert list(found.values()) == pytest.approx([0.75, expected.low, expected.high])


@pytest.mark.parametrize("name", ["mae", "rmse", "r2"])
def test_the_bootstrap_interval_is_close_to_that_of_scipy(name):
    def metric(y, prediction):
        functions = {"mae": oracle.mean_absolute_error, "rmse": oracle.root_mean_squared_error, "r2": oracle.r2_score}
        return functions[name](y, prediction)

    expected = stats.bootstrap(
        (Y, PREDICTION), metric, paired=True, vectorized=False, method="percentile", n_resamples=1000, rng=1
    ).confidence_interval
    found, width = regression.metrics(Y, PREDICTION, 3.0)[name], expected.high - expected.low
    assert (found["lower"], found["upper"]) == pytest.approx((expected.low, expected.high), abs=0.15 * width)


def test_a_weighted_metric_is_the_metric_of_the_repeated_rows():
    weights = generator.integers(0, 4, 300)
    repeated = np.repeat(np.arange(300), weights)
    weighted = regression.functions(Y, PREDICTION)
    plain = regression.functions(Y[repeated], PREDICTION[repeated])
    for name in weighted:
        value = weighted[name](weights[None].astype(float))[0]
        assert value == pytest.approx(plain[name](np.ones((1, len(repeated))))[0], abs=1e-9), name


def test_a_prediction_with_one_column_is_the_same_as_without():
    assert regression.metrics(Y, PREDICTION[:, None], 3.0) == regression.metrics(Y, PREDICTION, 3.0)


def test_targets_far_from_zero_keep_their_r2():
    found = regression.metrics(Y + 1e9, PREDICTION.astype(np.float64) + 1e9, 3.0)["r2"]["value"]
    assert found == pytest.approx(oracle.r2_score(Y, PREDICTION), abs=1e-5)


def test_the_usual_tolerance_holds_at_least_four_in_five_rows_and_no_row_more_than_it_must():
    tolerance = regression.tolerance(0.0, Y, PREDICTION)
    distances = np.abs(PREDICTION - Y)
    assert (distances <= tolerance).mean() >= 0.8
    assert (distances < tolerance).mean() < 0.8
    assert regression.tolerance(2.5, Y, PREDICTION) == 2.5
