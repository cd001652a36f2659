import numpy as np
import pytest

from monitoring.judge import intervals, quality
from monitoring.judge.quality import Joined


def test_accuracy_and_confusion_agree_with_scikit_learn():
    from sklearn.metrics import accuracy_score, confusion_matrix

    generator = np.random.default_rng(0)
    truth, said = (generator.choice(list("abc"), 200).tolist() for _ in range(2))
    joined = [Joined("v", p, t, 1.0) for t, p in zip(truth, said, strict=True)]
    joined += [Joined("v", "a", None, None)] * 50
    measured = quality.by_version(joined)["v"]
    assert measured.value == pytest.approx(accuracy_score(truth, said))
    assert (measured.rows, measured.labelled, measured.coverage) == (250, 200, 0.8)
    matrix = confusion_matrix(truth, said, labels=list("abc"))
    for i, t in enumerate("abc"):
        for j, p in enumerate("abc"):
            assert measured.confusion.get((t, p), 0) == matrix[i, j]


def test_the_share_within_a_tolerance_agrees_with_numpy():
    generator = np.random.default_rng(0)
    truth = generator.normal(1e5, 1e4, 300)
    said = (truth + generator.normal(0, 500, 300)).astype(np.float32)
    said[:20], truth[:20] = np.arange(20), np.arange(20) + 600.0  # exactly at the tolerance: right
    joined = [Joined("v", repr(float(p)), repr(float(t)), 1.0, number=True) for p, t in zip(said, truth, strict=True)]
    joined += [Joined("v", "1.0", None, None, number=True)] * 100
    measured = quality.by_version(joined, {"v": 600.0})["v"]
    right = np.abs(said.astype(np.float64) - truth) <= 600
    assert 0.5 < measured.value == right.mean() < 1
    assert (measured.lower, measured.upper) == intervals.wilson(int(right.sum()), 300)
    assert (measured.rows, measured.labelled, measured.confusion) == (400, 300, {})


def test_a_label_that_is_no_number_is_none_in_a_regression():
    joined = [Joined("v", "1.0", label, 1.0, number=True) for label in ("1.0", "dear", "nan", "inf", "9")]
    measured = quality.by_version(joined, {"v": 0.5})["v"]
    assert (measured.labelled, measured.value, measured.coverage) == (2, 0.5, 0.4)


def test_without_its_tolerance_a_regression_has_no_value():
    measured = quality.by_version([Joined("v", "1.0", "1.0", 1.0, number=True)])["v"]
    assert (measured.labelled, measured.value, measured.lower, measured.upper) == (1, None, None, None)


def test_versions_are_measured_apart():
    measured = quality.by_version([Joined("one", "a", "a", 1.0), Joined("two", "a", "b", 1.0)])
    assert (measured["one"].value, measured["two"].value) == (1.0, 0.0)


def test_a_version_without_labels_has_no_value():
    measured = quality.by_version([Joined("v", "a", None, None)])["v"]
    assert measured.value is None and measured.coverage == 0
