import numpy as np
import pytest
from scipy import stats

from training.config import Config, Evaluate, Gate, Quality
from training.judge import intervals, verdict

CLASSES, ROWS = 4, 400
DEMO, NUMERIC = Config("demo"), Config("demo", task="regression")
Y = np.arange(ROWS) % CLASSES


def answers(right, sureness=0.9, seed=0):
    """Return probabilities that are right for a share of the rows, the wrong ones picked at random."""
    wrong = np.random.default_rng(seed).permutation(ROWS) >= round(right * ROWS)
    table = np.full((ROWS, CLASSES), (1 - sureness) / (CLASSES - 1))
    table[np.arange(ROWS), (Y + wrong) % CLASSES] = sureness
    return table


BASELINES = {"majority": np.full((ROWS, CLASSES), 1 / CLASSES), "linear": answers(0.9)}


def gate(model, baselines=BASELINES, config=DEMO, y=Y, classes=tuple("abcd")):
    return verdict.gate(config, verdict.Answered(y, classes, model, baselines))


def beats(model, baselines=BASELINES):
    return gate(model, baselines)["beats_baselines"]


def test_a_model_that_is_better_or_cannot_be_told_from_linear_holds():
    assert beats(answers(0.97, seed=1))
    assert beats(answers(0.9, seed=1))
    assert beats(answers(0.895, seed=1))


def test_a_model_worse_than_linear_beyond_noise_does_not_hold():
    assert not beats(answers(0.8, seed=1))


def test_a_model_as_accurate_but_wrongly_sure_of_itself_does_not_hold():
    assert not beats(answers(0.9, sureness=0.9999999))


def test_a_model_no_better_than_the_majority_does_not_hold_even_beside_a_bad_linear_one():
    assert not beats(answers(0.26), BASELINES | {"linear": answers(0.1, seed=2)})


def test_the_gate_states_its_rules_and_the_gain_over_each_baseline():
    config = Config("demo", gate=Gate(margin=0.03, confidence=0.9))
    found = gate(answers(0.97, seed=1), config=config)
    assert (found["margin"], found["confidence"]) == (0.03, 0.9)
    gain = found["gain_over"]["linear"]["accuracy"]
    assert gain["lower"] < gain["value"] < gain["upper"]
    assert abs(gain["value"] - 0.07) < 1e-9
    assert found["gain_over"]["linear"]["log_loss"]["value"] > 0


def test_the_floor_is_that_of_the_config_or_else_of_the_linear_baseline():
    measured = {"linear": {"accuracy": {"value": 0.96, "lower": 0.94, "upper": 0.98}}}
    assert verdict.quality(Config("demo"), measured) == {
        "metric": "accuracy", "floor": 0.94, "source": "linear baseline, lower end", "decline": 0.01,
    }  # fmt: skip
    own = verdict.quality(Config("demo", quality=Quality(0.8, decline=0.03)), measured)
    assert own == {"metric": "accuracy", "floor": 0.8, "source": "config", "decline": 0.03}


def test_a_model_that_finds_some_of_the_rare_rows_holds_though_the_majority_is_as_accurate():
    rare = (np.arange(2000) % 100 == 0).astype(np.int64)
    chance = np.where(rare == 1, 0.4, 0.005)
    model, majority = (np.stack([1 - p, p], axis=1) for p in (chance, np.full(2000, 0.01)))
    found = gate(model, {"majority": majority, "linear": majority}, y=rare, classes=("no", "yes"))
    assert found["gain_over"]["majority"]["accuracy"]["value"] == 0
    assert found["beats_baselines"]


generator = np.random.default_rng(0)
TARGET = generator.normal(10, 3, 500)


def near(deviation, seed):
    return TARGET + np.random.default_rng(seed).normal(0, deviation, 500)


NUMBERS = {"mean": np.full(500, TARGET.mean()), "linear": near(1.0, 1)}


def judged(prediction, config=NUMERIC, baselines=NUMBERS):
    return verdict.judge(config, verdict.Answered(TARGET, (), prediction.astype(np.float32)[:, None], baselines))


@pytest.mark.parametrize(("deviation", "holds"), [(0.5, True), (0.95, True), (1.3, False), (4.0, False)])
def test_a_regression_must_be_nearer_than_the_mean_and_not_surely_farther_than_linear(deviation, holds):
    assert judged(near(deviation, 4)).gate["beats_baselines"] is holds


def test_a_regression_no_better_than_the_mean_does_not_hold_even_beside_a_bad_linear_one():
    baselines = NUMBERS | {"linear": near(9.0, 3)}
    assert not judged(NUMBERS["mean"], baselines=baselines).gate["beats_baselines"]


def test_the_gain_of_a_regression_is_the_paired_difference_of_absolute_errors():
    model = near(0.5, 2).astype(np.float32)
    gain = judged(model).gate["gain_over"]["linear"]["absolute_error"]
    pairs = np.abs(NUMBERS["linear"] - TARGET), np.abs(model - TARGET)
    expected = stats.ttest_rel(*pairs).confidence_interval(0.90)
    assert (gain["lower"], gain["upper"]) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_a_regression_is_watched_by_the_share_of_answers_within_its_tolerance():
    found = judged(near(0.5, 2))
    tolerance = found.quality["tolerance"]
    assert found.metrics["within_tolerance"]["value"] == pytest.approx(0.8, abs=0.01)
    inside = int((np.abs(NUMBERS["linear"] - TARGET) <= tolerance).sum())
    assert found.quality == {
        "metric": "within_tolerance", "floor": intervals.share(inside, 500)["lower"],
        "source": "linear baseline, lower end", "tolerance": tolerance, "decline": 0.01,
    }  # fmt: skip


def test_tolerance_and_floor_of_the_config_are_taken_as_they_are():
    found = judged(near(0.5, 2), Config("demo", task="regression", quality=Quality(0.7, 1.5)))
    assert (found.quality["floor"], found.quality["source"], found.quality["tolerance"]) == (0.7, "config", 1.5)
    share = float((np.abs(near(0.5, 2).astype(np.float32) - TARGET) <= 1.5).mean())
    assert found.metrics["within_tolerance"]["value"] == share


def test_a_classification_is_judged_with_all_that_its_manifest_holds():
    found = verdict.judge(Config("demo"), verdict.Answered(Y, tuple("abcd"), answers(0.97), BASELINES, temperature=2.0))
    assert {"accuracy", "roc_auc", "per_class", "confusion", "rows", "calibration"} <= found.metrics.keys()
    assert found.quality["floor"] == found.baselines["linear"]["accuracy"]["lower"]
    assert found.metrics["calibration"]["after"]["log_loss"] == found.metrics["log_loss"]
    assert "tolerance" not in found.quality


def test_a_threshold_decides_accuracy_classes_and_slices_alike_and_for_the_baselines_too():
    y = Y % 2
    p = np.where(y == 1, 0.4, 0.1) + np.linspace(0, 0.05, ROWS)
    model, site = np.stack([1 - p, p], axis=1), np.where(np.arange(ROWS) < 200, "here", "there")
    baselines = {"majority": np.tile([0.6, 0.4], (ROWS, 1)), "linear": model}
    config = Config("demo", evaluate=Evaluate("f1"))
    said = verdict.Answered(y, ("no", "yes"), model, baselines, {"site": site}, threshold=0.3)
    found = verdict.judge(config, said).metrics
    assert found["accuracy"]["value"] == found["per_class"]["yes"]["recall"]["value"] == 1
    assert found["confusion"] == [[200, 0], [0, 200]]
    assert [entry["accuracy"]["value"] for entry in found["slices"]["site"]] == [1, 1]
    assert (found["threshold"]["rule"], found["threshold"]["at_half"]["recall"]["value"]) == ("f1", 0)
    simple = verdict.judge(config, said).baselines
    assert simple["linear"]["accuracy"]["value"] == 1
    assert simple["majority"]["accuracy"]["value"] == float((y == 0).mean())  # one class, whatever is cut where


def test_the_slices_of_a_regression_are_judged_by_tolerance_and_distance():
    site = np.where(np.arange(500) < 100, "far", "near")
    prediction = TARGET + np.where(site == "far", 2.0, 0.1)
    said = verdict.Answered(TARGET, (), prediction, NUMBERS, {"site": site})
    found = verdict.judge(Config("demo", task="regression", quality=Quality(0.0, 1.0)), said).metrics["slices"]["site"]
    assert [(e["value"], e["within_tolerance"]["value"]) for e in found] == [("near", 1), ("far", 0)]
    assert [e["mae"]["value"] for e in found] == pytest.approx([0.1, 2.0])
    assert all(e["differs"] for e in found)
