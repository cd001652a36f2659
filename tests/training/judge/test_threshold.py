import numpy as np
import pytest
from sklearn import metrics as oracle

from registry.errors import ConfigError
from training.judge import threshold

generator = np.random.default_rng(0)
Y = (generator.random(500) < 0.15).astype(np.int64)
SCORE = np.round(1 / (1 + np.exp(-(generator.normal(size=500) + 2 * Y - 2))), 2)  # with ties
BOTH = np.stack([1 - SCORE, SCORE], axis=1)


def value_at(rule, cut):
    predicted = cut <= SCORE
    if rule == "f1":
        return oracle.f1_score(Y, predicted)
    return oracle.recall_score(Y, predicted) + oracle.recall_score(Y, predicted, pos_label=0) - 1


@pytest.mark.parametrize("rule", ["f1", "youden"])
def test_no_other_threshold_has_a_higher_value(rule):
    chosen = threshold.choose(rule, Y, BOTH)
    best = max(value_at(rule, cut) for cut in np.unique(SCORE))
    assert value_at(rule, chosen) == pytest.approx(best)
    assert chosen not in SCORE


def test_half_leaves_the_likelier_class():
    assert threshold.choose("half", Y, BOTH) is None
    assert threshold.choose("half", Y, np.eye(3)[Y]) is None


def test_a_rule_for_two_classes_refuses_three_and_rows_of_one_class():
    for y, probabilities in ((Y, np.eye(3)[Y]), (np.zeros(500, dtype=np.int64), BOTH)):
        with pytest.raises(ConfigError, match="evaluate.threshold: f1 needs two classes.*accepted here is half"):
            threshold.choose("f1", y, probabilities)


def test_the_report_says_what_changes_between_one_half_and_the_threshold():
    chosen = threshold.choose("f1", Y, BOTH)
    found = threshold.report("f1", Y, BOTH, chosen)
    assert (found["rule"], found["value"]) == ("f1", chosen)
    for name, cut in (("at_half", 0.5), ("at_threshold", chosen)):
        predicted = cut <= SCORE
        values = {key: entry["value"] for key, entry in found[name].items()}
        assert values == pytest.approx({
            "accuracy": oracle.accuracy_score(Y, predicted), "precision": oracle.precision_score(Y, predicted),
            "recall": oracle.recall_score(Y, predicted), "f1": oracle.f1_score(Y, predicted),
            "specificity": oracle.recall_score(Y, predicted, pos_label=0),
        })  # fmt: skip
        assert all(entry["lower"] <= entry["value"] <= entry["upper"] for entry in found[name].values())
    assert found["at_threshold"]["f1"]["value"] > found["at_half"]["f1"]["value"]


def test_the_curve_is_that_of_scikit_learn():
    points = {point["threshold"]: point for point in threshold.curve(Y, BOTH)}
    false_alarms, recall, cuts = oracle.roc_curve(Y, SCORE, drop_intermediate=False)
    assert set(points) == set(cuts[1:])
    for rate, share, cut in zip(false_alarms[1:], recall[1:], cuts[1:], strict=True):
        assert (points[cut]["false_alarms"], points[cut]["recall"]) == pytest.approx((rate, share))
        assert points[cut]["precision"] == pytest.approx(oracle.precision_score(Y, cut <= SCORE))


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    score = generator.random(5000)
    y = (generator.random(5000) < score).astype(np.int64)
    points = threshold.curve(y, np.stack([1 - score, score], axis=1))
    assert len(points) == threshold.MOST_POINTS
    assert points[0]["threshold"] == score.max()
    assert (points[-1]["recall"], points[-1]["false_alarms"]) == (1, 1)
