import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from monitoring.judge import estimates, label_shift
from monitoring.judge.estimates import Doubt, Estimation


def softmax(z):
    power = np.exp(z - z.max(axis=1, keepdims=True))
    return (power / power.sum(axis=1, keepdims=True)).astype(np.float32)


def world(rows, seed, sureness=1.0, classes=4, mix=None):
    """Return probabilities of a model and labels drawn from the true ones; sureness 2: the model is too sure."""
    generator = np.random.default_rng(seed)
    truth = generator.choice(classes, rows, p=mix)
    z = generator.standard_normal((rows, classes)) + 2.0 * (np.arange(classes) == truth[:, None])
    return softmax(2.0 * sureness * z), truth  # at sureness 1 they are the posterior of an even mix


@pytest.fixture(scope="module")
def digits():
    """Return a network's probabilities and labels of digits: half to fit the estimation on, half as traffic."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order] / 16, y[order]
    model = MLPClassifier((16,), max_iter=40, random_state=0)
    with pytest.warns(match="Maximum iterations"):
        model.fit(x[:500], y[:500])
    return model, (x[500:1150], y[500:1150]), (x[1150:], y[1150:])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 1000))
def test_sums_add_up_over_rows(sizes, seed):
    fitted = Estimation.fit(*world(500, 1))
    parts = [world(n, seed + i)[0] for i, n in enumerate(sizes)]
    together = fitted.sums(np.concatenate(parts))
    assert sum(fitted.sums(part) for part in parts) == pytest.approx(together, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 4, 60])  # of the last no confusion is kept
def test_the_sums_of_runs_are_those_of_each_run(classes):
    fitted, outputs = Estimation.fit(*world(500, 1, classes=classes)), world(300, 2, classes=classes)[0]
    starts = np.array([0, 1, 2, 50, 299])
    found = fitted.sums_of_runs(outputs, starts)
    for sums, run in zip(found, np.split(outputs, starts[1:]), strict=True):
        assert sums == pytest.approx(fitted.sums(run), abs=1e-9)


def test_it_is_the_same_after_a_way_through_json():
    fitted = Estimation.fit(*world(500, 1))
    assert estimates.parse(json.loads(json.dumps(asdict(fitted)))) == fitted


def test_the_calibration_is_the_logistic_regression_of_scikit_learn():
    outputs, labels = world(3000, 2, sureness=1.7)
    confidence, right = outputs.max(axis=1).astype(np.float64), outputs.argmax(axis=1) == labels
    features = estimates._features(confidence)
    plain = LogisticRegression(C=1e9, tol=1e-10, max_iter=5000).fit(features[:, 1:], right)
    fitted = Estimation.fit(outputs, labels)
    ours = 1 / (1 + np.exp(-features @ np.array(fitted.weights)))
    assert ours == pytest.approx(
        plain.predict_proba(features[:, 1:])[:, 1], abs=2e-3
    )  # Platt's targets differ a little


def test_a_model_that_is_too_sure_is_not_believed_as_it_says():
    fitted = Estimation.fit(*world(4000, 3, sureness=3.0))
    outputs, labels = world(20_000, 4, sureness=3.0)
    truth = (outputs.argmax(axis=1) == labels).mean()
    found = fitted.estimate(fitted.sums(outputs), len(outputs))
    assert outputs.max(axis=1).mean() - truth > 0.08
    assert abs(found.cbpe.value - truth) < 0.02 and abs(found.atc.value - truth) < 0.02


@pytest.mark.parametrize(("held_out", "rows"), [(200, 100), (300, 1000), (3000, 500)])
def test_the_intervals_cover_the_accuracy_of_the_very_rows(held_out, rows):
    inside, draws = np.zeros(2), 400
    for seed in range(draws):
        fitted = Estimation.fit(*world(held_out, 2 * seed, sureness=1.5))
        outputs, labels = world(rows, 2 * seed + 1, sureness=1.5)
        found = fitted.estimate(fitted.sums(outputs), rows)
        truth = float((outputs.argmax(axis=1) == labels).mean())
        inside += [found.cbpe.holds(truth), found.atc.holds(truth)]
    print(f"{held_out} held out, {rows} rows: CBPE covers {inside[0] / draws:.1%}, ATC {inside[1] / draws:.1%}")
    assert (inside / draws >= 0.92).all()


def test_the_doubt_is_the_spread_of_the_error_on_the_labelled_rows():
    fitted = Estimation.fit(*world(2000, 1))
    generator, errors, said = np.random.default_rng(5), [], []
    for seed in range(600):
        outputs, labels = world(400, 1000 + seed)
        sums, picked = fitted.sums(outputs), generator.choice(400, 80, replace=False)
        truth = (outputs.argmax(axis=1) == labels)[picked].mean()
        errors.append(sums[0] / 400 - truth)
        said.append(fitted.doubt(sums, 400, 80))
    assert np.std(errors) == pytest.approx(np.mean(said), rel=0.12)


def test_a_threshold_decides_the_answer():
    outputs, labels = world(2000, 7, classes=2)
    fitted = Estimation.fit(outputs, labels, 0.2)
    truth = ((outputs[:, 1] >= 0.2) == labels).mean()
    found = fitted.estimate(fitted.sums(outputs), len(outputs))
    assert found.cbpe.value == pytest.approx(truth, abs=0.01)
    assert found.atc.value == pytest.approx(truth, abs=0.01)
    assert [one.value for one in found.label_shares.shares] == pytest.approx(np.bincount(labels) / 2000, abs=1e-6)


def test_a_model_without_an_error_is_not_taken_to_be_sure_of_all():
    outputs, labels = world(500, 8, sureness=4.0)
    fitted = Estimation.fit(outputs, outputs.argmax(axis=1))
    found = fitted.estimate(fitted.sums(outputs), 500)
    assert 0.97 < found.cbpe.value < 1 and found.cbpe.upper <= 1
    assert found.atc.value == 1 and 0.98 < found.atc.lower < 1
    assert labels.shape == (500,)


@pytest.mark.parametrize(("rows", "classes"), [(99, 3), (500, 1)])
def test_with_few_rows_or_in_a_regression_there_is_no_estimation(rows, classes):
    outputs = np.full((rows, classes), 1 / classes, dtype=np.float32)
    assert Estimation.fit(outputs, np.zeros(rows, dtype=int)) is None


def test_drift_and_few_rows_make_an_estimate_invalid():
    fitted = Estimation.fit(*world(5000, 1))
    outputs, _ = world(2000, 2)
    assert fitted.estimate(fitted.sums(outputs), 2000).valid
    doubt = Doubt(estimates.DRIFTED, "drift of brightness, embedding")
    drifted = fitted.estimate(fitted.sums(outputs), 2000, [doubt])
    assert drifted.doubts == (doubt,) and not drifted.valid
    few = fitted.estimate(fitted.sums(outputs[:10]), 10)
    assert [one.kind for one in few.doubts] == [estimates.FEW, estimates.WIDE]
    assert few.doubts[0].text == "10 rows; at least 50 are needed"


@pytest.mark.parametrize(("held_out", "rows", "valid"), [(5000, 2000, True), (300, 2000, False), (5000, 200, False)])
def test_an_estimate_whose_interval_is_wide_is_not_valid_and_a_valid_one_is_near_the_truth(held_out, rows, valid):
    for seed in range(40):
        fitted = Estimation.fit(*world(held_out, 2 * seed))
        outputs, labels = world(rows, 2 * seed + 1)
        found = fitted.estimate(fitted.sums(outputs), rows)
        assert found.valid == valid
        if valid:
            assert abs(found.cbpe.value - (outputs.argmax(axis=1) == labels).mean()) < 0.05


def test_the_share_of_each_class_is_found_after_the_mix_changed(digits):
    model, (x, y), (tx, ty) = digits
    fitted = Estimation.fit(model.predict_proba(x), y)
    before, after = [], []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        mix = generator.dirichlet(np.ones(10))
        rows = generator.choice(len(ty), 1000, p=(mix / np.bincount(ty))[ty])
        outputs, truth = model.predict_proba(tx[rows]), np.bincount(ty[rows], minlength=10) / 1000
        found = fitted.estimate(fitted.sums(outputs), 1000).label_shares
        assert found.reason == ""
        answered = np.bincount(outputs.argmax(axis=1), minlength=10) / 1000
        before.append(np.abs(answered - truth).sum())
        after.append(np.abs(np.array([one.value for one in found.shares]) - truth).sum())
    assert np.mean(after) < np.mean(before)


def test_the_intervals_of_the_label_shares_cover_them():
    inside = []
    for seed in range(200):
        fitted = Estimation.fit(*world(1500, 2 * seed))
        outputs, labels = world(500, 2 * seed + 1, mix=[0.1, 0.2, 0.3, 0.4])
        found = fitted.estimate(fitted.sums(outputs), 500).label_shares
        truth = np.bincount(labels, minlength=4) / 500
        inside += [one.holds(share) for one, share in zip(found.shares, truth, strict=True)]
        assert sum(one.value for one in found.shares) == pytest.approx(1)
    print(f"intervals of label shares cover {np.mean(inside):.1%}")
    assert 0.92 <= np.mean(inside) <= 0.99


def test_answers_that_no_mix_of_the_classes_gives_are_not_explained_by_one():
    confusion = np.array([[900, 50, 50], [50, 900, 50], [50, 50, 900]], dtype=np.float64)
    assert label_shift.shares(confusion, [450, 450, 100]).reason == ""
    assert "no mix" in label_shift.shares(confusion, [500, 500, 0]).reason


@pytest.mark.parametrize(
    ("confusion", "why"),
    [
        ([[50, 50], [50, 50]], "nearly the same answers"),
        ([[100, 0], [2, 1]], "a class has 3 held-out rows"),
        ([[100]], "1 classes"),
    ],
)
def test_a_release_that_cannot_tell_the_classes_apart_says_so(confusion, why):
    assert why in label_shift.condition(np.array(confusion, dtype=np.float64))


def test_beyond_50_classes_accuracy_is_estimated_and_the_mix_is_not():
    outputs, labels = world(600, 1, classes=60)
    fitted = Estimation.fit(outputs, labels)
    sums = fitted.sums(outputs)
    found = fitted.estimate(sums, 600)
    assert len(sums) == estimates.MOMENTS and found.label_shares is None
    assert found.cbpe.value == pytest.approx((outputs.argmax(axis=1) == labels).mean(), abs=0.01)
    assert fitted.mix_reason == "more than 50 classes"
