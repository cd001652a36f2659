import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks import estimates
from benchmarks.shifts import CLEAN, FAMILIES
from monitoring.shift import drift


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    return estimates.traffic(found.images.astype(np.uint8), found.target, 400, 500)


def test_a_window_counts_what_drift_counts_of_its_rows(digits):
    built, rows = digits.reference, np.arange(300)
    window = digits.window([(CLEAN, rows[:100]), ("noise_large", rows[100:])])
    assert window.counts.sum(axis=1).tolist() == [300] * len(built.bins)
    assert set(drift.scores(built, window)) == {*(one.name for one in built.bins), "embedding"}
    assert digits.estimated([(CLEAN, rows)]) == pytest.approx(digits.sums[CLEAN][:300].sum(axis=0))


def test_a_wrong_estimate_of_large_shifts_is_never_called_valid(digits, monkeypatch):
    monkeypatch.setattr("monitoring.judge.estimates.MOST_HALF", 1.0)  # so that drift alone decides
    figures = estimates.measure([digits], 6, 500)
    large = [one for name, one in figures.items() if name.startswith(("noise_large", "image_large", "image_medium"))]
    assert len(large) == 12 and sum(one["far"] for one in large) > 30
    assert [one["missed"] for one in large] == [0] * 12
    assert figures[estimates.CLEAN_KIND]["valid"] > 0 and set(figures) > {f"{f.name} 50%" for f in FAMILIES}


def test_bbse_is_nearer_to_a_mix_that_changed_strongly_than_the_answers_are(digits):
    found = estimates.mixes([digits], 20, 500)["strong"]
    assert found["bbse"] < found["answered"] and found["valid"] > 0.5
