import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from registry.release import InputSpec
from training.config import Data
from training.fit import baselines
from training.rows import split
from training.rows.data import load

generator = np.random.default_rng(0)
TOWN = generator.integers(0, 3, 200)
SIZE = generator.normal(50, 20, 200)
MIXED = np.column_stack([TOWN, SIZE]).astype(np.float32)
SPEC = InputSpec("float32", (2,), ("town", "size"), {"town": ("Bern", "Genf", "Chur")})


def test_the_majority_answers_the_shares_of_the_training_labels():
    answer = baselines.majority(np.array([0, 1, 1, 1]), 3)(np.zeros((2, 4)))
    assert answer.tolist() == [[0.25, 0.75, 0.0]] * 2


def test_the_mean_answers_the_mean_of_the_training_targets():
    assert baselines.mean(np.array([1.0, 2.0, 6.0]))(np.zeros((2, 4))).tolist() == [[3.0], [3.0]]


def test_linear_reaches_the_published_figures_in_cross_validation(tmp_path):
    for source, classes, expected in (("digits", 10, 0.969), ("breast_cancer", 2, 0.979)):
        table, scores = load(Data(source), tmp_path), []
        fold = split.folds(table.unit, 5, 0)
        for number in range(5):
            seen, held = fold != number, fold == number
            answer = baselines.linear(table.x[seen], table.y[seen], classes)
            scores.append((answer(table.x[held]).argmax(axis=1) == table.y[held]).mean())
        assert np.mean(scores) == pytest.approx(expected, abs=0.01)


def test_linear_gives_a_class_it_never_saw_no_probability():
    x, y = load_breast_cancer(return_X_y=True)
    answer = baselines.linear(x.astype(np.float32), y * 2, 3)(x[:5].astype(np.float32))
    assert answer.shape == (5, 3)
    assert (answer[:, 1] == 0).all()


def test_ridge_is_that_of_scikit_learn():
    x, y = load_diabetes(return_X_y=True)
    x = x.astype(np.float32)
    expected = make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(x, y).predict(x)
    assert baselines.ridge(x, y)(x) == pytest.approx(expected[:, None], rel=1e-4)


def test_categories_enter_both_linear_baselines_one_hot_as_in_scikit_learn():
    standard = StandardScaler().fit_transform(SIZE[:, None].astype(np.float32))
    features = np.column_stack([OneHotEncoder(sparse_output=False).fit_transform(TOWN[:, None]), standard])
    target = np.array([30.0, 10.0, 20.0])[TOWN] + SIZE
    expected = Ridge(alpha=1.0).fit(features, target).predict(features)
    assert baselines.ridge(MIXED, target, SPEC)(MIXED)[:, 0] == pytest.approx(expected, rel=1e-5)
    label = (TOWN == 1).astype(np.int64)  # no line through the index 0, 1, 2 can tell the middle one
    expected = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, label).predict_proba(features)
    assert baselines.linear(MIXED, label, 2, SPEC)(MIXED) == pytest.approx(expected, abs=1e-3)
    assert baselines.linear(MIXED, label, 2)(MIXED)[:, 1].max() < 0.6
