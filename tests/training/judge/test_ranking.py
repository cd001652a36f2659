import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.judge import ranking

generator = np.random.default_rng(0)
Y = generator.integers(0, 4, 400)
SCORES = np.round(generator.random((400, 4)) + 0.4 * np.eye(4)[Y], 1)  # with many ties


def test_both_ways_give_the_area_of_scikit_learn_ties_and_absent_classes_included():
    for y in (Y, np.where(Y == 3, 0, Y)):
        present = np.unique(y)
        expected = np.mean([roc_auc_score(y == c, SCORES[:, c]) for c in present])
        assert ranking.area(y, SCORES)["value"] == pytest.approx(expected)
        assert ranking.delong(y, SCORES)["value"] == pytest.approx(expected)


def test_the_interval_of_delong_is_close_to_that_of_the_bootstrap():
    drawn, normal = ranking.area(Y, SCORES), ranking.delong(Y, SCORES)
    width = drawn["upper"] - drawn["lower"]
    for end in ("lower", "upper"):
        assert normal[end] == pytest.approx(drawn[end], abs=0.1 * width)


def test_many_rows_and_classes_take_the_interval_that_needs_no_resamples(monkeypatch):
    monkeypatch.setattr(ranking, "MOST_CELLS", 400 * 4 * 1000 - 1)
    assert ranking.area(Y, SCORES) == ranking.delong(Y, SCORES)


def test_a_perfect_order_has_area_one_and_both_intervals_say_so():
    scores = np.eye(4)[Y]
    for found in (ranking.area(Y, scores), ranking.delong(Y, scores)):
        assert found == {"value": 1.0, "lower": 1.0, "upper": 1.0}
