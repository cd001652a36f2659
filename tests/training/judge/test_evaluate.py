import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats
from sklearn import metrics as oracle

from training.judge import calibration, evaluate, intervals

CLASSES = ("a", "b", "c", "d")
generator = np.random.default_rng(0)
Y = generator.integers(0, 4, 400)
LOGITS = generator.normal(size=(400, 4)) + 1.2 * np.eye(4)[Y]
PROBABILITIES = special.softmax(LOGITS, axis=1)


def found():
    return evaluate.metrics(Y, PROBABILITIES, CLASSES)


def test_every_headline_metric_agrees_with_scikit_learn():
    predicted = PROBABILITIES.argmax(axis=1)
    values = {name: entry["value"] for name, entry in found().items() if isinstance(entry, dict) and "value" in entry}
    assert values.pop("ece") == pytest.approx(naive_ece(PROBABILITIES, Y), abs=1e-12)
    assert values == pytest.approx({
        "accuracy": oracle.accuracy_score(Y, predicted),
        "balanced_accuracy": oracle.balanced_accuracy_score(Y, predicted),
        "log_loss": oracle.log_loss(Y, PROBABILITIES),
        "brier": oracle.brier_score_loss(Y, PROBABILITIES, scale_by_half=False),
        "roc_auc": oracle.roc_auc_score(Y, PROBABILITIES, multi_class="ovr"),
    }, abs=1e-12)  # fmt: skip


def naive_ece(probabilities, y):
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs((predicted == y)[inside].mean() - confidence[inside].mean())
    return total


def test_the_table_of_classes_and_the_confusion_matrix_agree_with_scikit_learn():
    predicted, result = PROBABILITIES.argmax(axis=1), found()
    precision, recall, f1, rows = oracle.precision_recall_fscore_support(Y, predicted)
    assert result["confusion"] == oracle.confusion_matrix(Y, predicted).tolist()
    for c, name in enumerate(CLASSES):
        expected = {"precision": precision[c], "recall": recall[c], "f1": f1[c]}
        values = {key: entry["value"] for key, entry in result["per_class"][name].items() if key != "rows"}
        assert values == pytest.approx(expected)
        assert result["per_class"][name]["rows"] == rows[c]


def test_balanced_accuracy_without_a_mistake_is_as_sure_as_its_rows_allow():
    even, rare = np.arange(120) % 2, (np.arange(120) >= 110).astype(np.int64)
    for y, rows in ((even, 120), (rare, 4 / (1 / 110 + 1 / 10))):
        assert evaluate.headline(y, np.eye(2)[y])["balanced_accuracy"] == pytest.approx(intervals.share(rows, rows))


def test_the_interval_of_balanced_accuracy_holds_the_truth_where_a_class_is_rare():
    draw, y, held = np.random.default_rng(3), (np.arange(120) >= 110).astype(np.int64), 0
    for seed in range(100):
        said = np.where(draw.random(120) < np.where(y == 1, 0.9, 0.999), y, 1 - y)
        found = evaluate.headline(y, 0.8 * np.eye(2)[said] + 0.1, seed=seed)["balanced_accuracy"]
        held += found["lower"] <= (0.9 + 0.999) / 2 <= found["upper"]
    assert held >= 88  # resampled rows alone: 65


@given(weights=st.lists(st.integers(0, 3), min_size=400, max_size=400))
@settings(max_examples=25)
def test_a_weighted_metric_is_the_metric_of_the_repeated_rows(weights):
    repeated = np.repeat(np.arange(400), weights)
    if len(np.unique(Y[repeated])) < 2:
        return
    weighted, plain = evaluate.functions(Y, PROBABILITIES), evaluate.functions(Y[repeated], PROBABILITIES[repeated])
    for name in weighted:
        value = weighted[name](np.array([weights], dtype=float))[0]
        assert value == pytest.approx(plain[name](np.ones((1, len(repeated))))[0], abs=1e-9), name


@pytest.mark.parametrize(("right", "rows"), [(0, 10), (7, 10), (10, 10), (283, 307), (9990, 10_000)])
def test_the_interval_of_accuracy_is_the_wilson_interval_of_scipy(right, rows):
    expected = stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    result = intervals.share(right, rows)
    assert (result["lower"], result["upper"]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_bootstrap_interval_is_close_to_that_of_scipy():
    losses = calibration.row_log_loss(Y, PROBABILITIES)
    expected = stats.bootstrap((losses,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    result = found()["log_loss"]
    width = expected.high - expected.low
    assert result["lower"] == pytest.approx(expected.low, abs=0.08 * width)
    assert result["upper"] == pytest.approx(expected.high, abs=0.08 * width)


def test_intervals_are_the_same_in_every_run_and_hold_the_value():
    assert found() == found()
    for name in ("accuracy", "balanced_accuracy", "log_loss", "brier", "roc_auc"):
        assert found()[name]["lower"] < found()[name]["value"] < found()[name]["upper"]


def test_bootstrap_in_chunks_covers_every_resample(monkeypatch):
    wanted = {"mean": lambda w: w @ np.arange(400) / w.sum(axis=1)}
    whole = intervals.bootstrap(wanted, 400, seed=0)
    monkeypatch.setattr(intervals, "_CHUNK_CELLS", 400 * 7)
    assert intervals.bootstrap(wanted, 400, seed=0) == whole


def test_a_class_absent_from_the_test_rows_leaves_every_number_finite():
    y = np.where(Y == 3, 0, Y)
    result = evaluate.metrics(y, PROBABILITIES, CLASSES)
    for name in ("accuracy", "balanced_accuracy", "log_loss", "brier", "ece", "roc_auc"):
        assert np.isfinite(list(result[name].values())).all(), name
    assert result["balanced_accuracy"]["value"] == pytest.approx(
        oracle.recall_score(y, PROBABILITIES.argmax(axis=1), labels=[0, 1, 2], average="macro")
    )
    assert result["per_class"]["d"]["recall"]["value"] == 0.0


def test_a_certain_wrong_answer_costs_much_but_not_everything():
    loss = calibration.row_log_loss(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]], dtype=np.float32))
    assert loss.tolist() == pytest.approx([-np.log(np.finfo(np.float32).eps), 0.0])


def platt_loss(inverse, logits, y):
    n, classes = logits.shape
    target = np.full((n, classes), 1 / (n + 2) / (classes - 1))
    target[np.arange(n), y] = (n + 1) / (n + 2)
    return -(target * special.log_softmax(inverse * logits, axis=1)).sum()


@pytest.mark.parametrize("scale", [0.3, 1.0, 6.0])
def test_the_temperature_is_the_minimum_that_scipy_finds(scale):
    logits = scale * LOGITS
    best = optimize.minimize_scalar(platt_loss, bounds=(0.05, 20), args=(logits, Y), method="bounded")
    assert 1 / calibration.temperature(logits, Y) == pytest.approx(best.x, rel=1e-3)


def test_the_temperature_lowers_the_log_loss_of_a_model_that_is_too_sure():
    hot = 6 * LOGITS
    cooled = special.softmax(hot / calibration.temperature(hot, Y), axis=1)
    assert oracle.log_loss(Y, cooled) < 0.5 * oracle.log_loss(Y, special.softmax(hot, axis=1))


def test_rows_that_are_all_right_do_not_make_the_model_certain():
    y = np.arange(100) % 4
    confidence = special.softmax(5 * np.eye(4)[y] / calibration.temperature(5 * np.eye(4)[y], y), axis=1).max()
    assert confidence == pytest.approx(101 / 102, abs=1e-6)


def test_reliability_bins_hold_every_row():
    bins = calibration.reliability(Y, PROBABILITIES)
    assert sum(entry["rows"] for entry in bins) == 400
    share = sum(entry["accuracy"] * entry["rows"] for entry in bins) / 400
    assert share == pytest.approx(found()["accuracy"]["value"])


@pytest.mark.parametrize("rows", [20, 2000])
def test_the_gain_of_a_loss_has_the_t_interval_of_scipy(rows):
    a, b = generator.normal(0.3, 1, rows), generator.normal(0, 1, rows)
    result, expected = intervals.gain(a, b, 0.95), stats.ttest_rel(a, b).confidence_interval(0.90)
    assert (result["lower"], result["upper"]) == pytest.approx((expected.low, expected.high), rel=5e-3)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_gain_of_accuracy_is_called_sure_where_mcnemars_test_calls_it_so(confidence):
    called = []
    for better in range(12):
        theirs, ours = np.zeros((2, 60), dtype=bool)
        theirs[:better], ours[better : better + 4] = True, True
        found = intervals.gain_of_accuracy(theirs, ours, confidence)
        called.append((found["lower"] > 0, found["upper"] < 0))
        z = (better - 4) / (better + 4) ** 0.5
        assert called[-1] == (stats.norm.sf(z) < 1 - confidence, stats.norm.cdf(z) < 1 - confidence)
        assert found["value"] == pytest.approx((better - 4) / 60)
    assert {(True, False), (False, False), (False, True)} == set(called)


def test_answers_that_never_disagree_are_not_called_surely_equal():
    found = intervals.gain_of_accuracy(np.zeros(50, dtype=bool), np.zeros(50, dtype=bool), 0.95)
    assert found["upper"] == -found["lower"] == pytest.approx(1.6449**2 / (50 + 1.6449**2), abs=1e-4)


def test_the_temperature_is_undone_exactly_to_tell_what_it_changed():
    before, after = (special.softmax(LOGITS / t, axis=1) for t in (1.0, 1.7))
    found = calibration.compared(Y, after, 1.7)
    assert found["before"]["log_loss"]["value"] == pytest.approx(oracle.log_loss(Y, before))
    assert found["after"]["brier"]["value"] == pytest.approx(oracle.brier_score_loss(Y, after, scale_by_half=False))
    assert found["before"]["ece"]["value"] == pytest.approx(naive_ece(before, Y))


def test_a_bin_of_the_reliability_diagram_has_the_wilson_interval_of_scipy():
    for entry in calibration.reliability(Y, PROBABILITIES):
        right = round(entry["accuracy"] * entry["rows"])
        expected = stats.binomtest(right, entry["rows"]).proportion_ci(0.95, method="wilson")
        assert (entry["lower"], entry["upper"]) == pytest.approx((expected.low, expected.high))


def test_many_classes_are_told_by_the_pairs_that_were_confused(monkeypatch):
    monkeypatch.setattr(evaluate, "MOST_CLASSES", 3)
    result, matrix = found(), oracle.confusion_matrix(Y, PROBABILITIES.argmax(axis=1))
    assert "confusion" not in result
    counts = [count for _, _, count in result["confused"]]
    assert counts == sorted(counts, reverse=True)
    rebuilt = np.diag(np.diag(matrix))
    for true, predicted, count in result["confused"]:
        rebuilt[true, predicted] = count
    assert (rebuilt == matrix).all()


def test_a_class_has_the_wilson_intervals_of_scipy_and_those_of_f1_are_close_to_the_bootstrap():
    entry, predicted = found()["per_class"]["b"], PROBABILITIES.argmax(axis=1)
    right = int(((predicted == 1) & (Y == 1)).sum())
    for name, of in (("recall", (Y == 1).sum()), ("precision", (predicted == 1).sum())):
        expected = stats.binomtest(right, int(of)).proportion_ci(0.95, method="wilson")
        assert (entry[name]["lower"], entry[name]["upper"]) == pytest.approx((expected.low, expected.high))

    def f1(y, called):
        return oracle.f1_score(y, called, labels=[1], average="macro")

    drawn = stats.bootstrap(
        (Y, predicted), f1, paired=True, vectorized=False, method="percentile", n_resamples=300, rng=1
    )
    width = drawn.confidence_interval.high - drawn.confidence_interval.low
    ends = (drawn.confidence_interval.low, drawn.confidence_interval.high)
    assert (entry["f1"]["lower"], entry["f1"]["upper"]) == pytest.approx(ends, abs=0.2 * width)


def test_a_class_that_is_always_right_is_not_called_perfect_for_sure():
    entry = evaluate.per_class(np.zeros(20, dtype=int), np.zeros(20, dtype=int), ("a", "b"))
    assert (entry["a"]["f1"]["value"], entry["b"]["recall"]) == (1.0, {"value": 0.0, "lower": 0.0, "upper": 1.0})
    assert 0.8 < entry["a"]["f1"]["lower"] < 0.95


def test_the_share_of_f1_covers_the_truth_about_as_often_as_it_promises():
    truth = 2 * 0.4 * 0.8 / (2 * 0.4 * 0.8 + 0.6 * 0.1 + 0.4 * 0.2)
    inside = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        y = (draw.random(150) < 0.4).astype(int)
        called = (draw.random(150) < np.where(y == 1, 0.8, 0.1)).astype(int)
        entry = evaluate.per_class(y, called, ("no", "yes"))["yes"]["f1"]
        inside += entry["lower"] <= truth <= entry["upper"]
    assert inside / 400 == pytest.approx(0.95, abs=0.03)


def test_no_interval_leaves_its_value_outside():
    even = np.full((400, 4), 0.25)
    error = evaluate.headline(np.arange(400) % 4, even)["ece"]
    assert error["lower"] <= error["value"] == 0


def test_the_values_alone_are_those_that_have_intervals():
    assert evaluate.values(Y, PROBABILITIES) == {
        name: pytest.approx(entry["value"]) for name, entry in evaluate.headline(Y, PROBABILITIES).items()
    }
