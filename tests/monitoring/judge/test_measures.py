import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, mean_absolute_error, recall_score

from monitoring.judge import measures
from monitoring.monitor.state import Aggregate


def drawn(classes, rows, seed):
    generator = np.random.default_rng(seed)
    truth = generator.choice(classes, rows)
    said = np.where(generator.random(rows) < 0.8, truth, generator.choice(classes, rows))
    return truth.tolist(), said.tolist()


def aggregate(truth, said):
    confusion = {}
    for cell in zip(truth, said, strict=True):
        confusion[cell] = confusion.get(cell, 0) + 1
    right = sum(count for (label, predicted), count in confusion.items() if label == predicted)
    return Aggregate("v", "", 0.0, 300.0, len(truth), len(truth), len(truth), right, confusion=confusion)


def test_accuracy_balanced_accuracy_macro_f1_and_recalls_are_those_of_scikit_learn():
    truth, said = drawn(list("abcd"), 700, 0)
    one = aggregate(truth, said)
    assert measures.headline(one).value == pytest.approx(accuracy_score(truth, said))
    found = measures.others(one)
    assert found["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(truth, said))
    assert found["macro_f1"].value == pytest.approx(f1_score(truth, said, average="macro"))
    recalls = measures.recalls(one.confusion, tuple("abcd"))
    expected = recall_score(truth, said, average=None, labels=list("abcd"))
    for name, value in zip("abcd", expected, strict=True):
        assert recalls[name].share.value == pytest.approx(value) and recalls[name].rows == truth.count(name)


def test_a_regression_has_its_mean_absolute_error_with_the_interval_of_scipy():
    generator = np.random.default_rng(0)
    truth, said = generator.normal(0, 3, (2, 400))
    gaps = np.abs(said - truth)
    one = Aggregate("v", "", 0, 300, 400, 400, 400, 10, absolute=gaps.sum(), squared=(gaps**2).sum())
    found = measures.others(one)["mae"]
    assert found.value == pytest.approx(mean_absolute_error(truth, said))
    low, high = stats.t.interval(0.95, 399, gaps.mean(), stats.sem(gaps))
    assert (found.lower, found.upper) == pytest.approx((low, high), rel=1e-4)


def test_of_many_classes_the_frequent_ones_are_shown_and_the_rest_together():
    truth = [f"c{i}" for i in range(80) for _ in range(80 - i)]
    said = [name if place % 4 else "c0" for place, name in enumerate(truth)]
    recalls = measures.recalls(aggregate(truth, said).confusion)
    assert len(recalls) == measures.MOST_CLASSES and set(recalls) == {f"c{i}" for i in range(49)} | {"other"}
    rest = [(t, s) for t, s in zip(truth, said, strict=True) if int(t[1:]) >= 49]
    assert recalls["other"].rows == len(rest)
    assert recalls["other"].share.value == pytest.approx(np.mean([t == s for t, s in rest]))


def test_a_label_that_is_no_class_is_wrong_but_no_class_of_its_own():
    truth, said = drawn(list("ab"), 100, 1)
    whole = aggregate([*truth, "", ""], [*said, "a", "b"])
    assert measures.headline(whole).value == pytest.approx(accuracy_score(truth, said) * 100 / 102)
    assert measures.others(whole) == measures.others(aggregate(truth, said))
    assert set(measures.recalls(whole.confusion)) == {"a", "b"}


def test_without_labels_there_is_nothing_to_measure():
    one = Aggregate("v", "", 0, 300, rows=10)
    assert measures.headline(one) is None and measures.others(one) == {} and measures.recalls({}) == {}
    assert measures.others(Aggregate("v", "", 0, 300, 3, 3, 3, confusion={("", "a"): 3})) == {}
