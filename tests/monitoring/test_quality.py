import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring import quality
from monitoring.quality import Joined


@given(st.integers(1, 5000), st.floats(0, 1))
def test_the_interval_is_that_of_scipy(rows, share):
    from scipy.stats import binomtest

    right = round(rows * share)
    expected = binomtest(right, rows).proportion_ci(confidence_level=0.95, method="wilson")
    assert quality.wilson(right, rows) == pytest.approx((expected.low, expected.high), abs=1e-9)


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


def test_versions_are_measured_apart():
    measured = quality.by_version([Joined("one", "a", "a", 1.0), Joined("two", "a", "b", 1.0)])
    assert (measured["one"].value, measured["two"].value) == (1.0, 0.0)


def test_a_version_without_labels_has_no_value():
    measured = quality.by_version([Joined("v", "a", None, None)])["v"]
    assert measured.value is None and measured.coverage == 0
