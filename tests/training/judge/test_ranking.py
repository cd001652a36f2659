import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from training.judge import intervals, ranking

generator = np.random.default_rng(0)
Y = generator.integers(0, 4, 400)
SCORES = np.round(generator.random((400, 4)) + 0.4 * np.eye(4)[Y], 1)  # with many ties


@pytest.mark.parametrize("y", [Y, np.where(Y == 3, 0, Y)], ids=["all classes", "one absent"])
def test_the_area_is_that_of_scikit_learn_ties_and_absent_classes_included(y):
    expected = np.mean([roc_auc_score(y == c, SCORES[:, c]) for c in np.unique(y)])
    assert ranking.area(y, SCORES)["value"] == pytest.approx(expected)


def test_the_interval_is_close_to_that_of_resampled_rows():
    found, draws = ranking.area(Y, SCORES), np.random.default_rng(1).integers(0, 400, (300, 400))
    ends = np.quantile([ranking.area(Y[rows], SCORES[rows])["value"] for rows in draws], [0.025, 0.975])
    assert (found["lower"], found["upper"]) == pytest.approx(ends, abs=0.15 * (ends[1] - ends[0]))


@pytest.mark.parametrize(("rows", "shift"), [(60, 3.5), (180, 0.8)])
def test_the_interval_holds_the_truth_as_often_as_promised_also_where_the_area_is_almost_one(rows, shift):
    draw, y, held = np.random.default_rng(2), (np.arange(rows) % 3 == 0).astype(np.int64), 0
    for _ in range(300):
        score = draw.normal(0, 1, rows) + shift * y
        found = ranking.area(y, np.stack([-score, score], axis=1))
        held += found["lower"] <= stats.norm.cdf(shift / 2**0.5) <= found["upper"]
    assert held >= 0.92 * 300  # 95 % are meant; resampled rows: 72 % of the first


def test_a_perfect_order_is_no_surer_than_the_smallest_class_allows():
    fewest = int(np.bincount(Y).min())
    assert ranking.area(Y, np.eye(4)[Y]) == intervals.share(fewest, fewest)
    assert ranking.area(Y, 1 - np.eye(4)[Y]) == intervals.share(0, fewest)


def test_rows_of_one_class_leave_the_area_unknown():
    assert ranking.area(np.zeros(9, np.int64), SCORES[:9, :2]) == {"value": 0.0, "lower": 0.0, "upper": 1.0}
