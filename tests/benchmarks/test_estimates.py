from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from benchmarks import believing, estimates
from benchmarks.believing import RULES, Evidence
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
    monkeypatch.setattr("benchmarks.believing.MOST_HALF", 1.0)  # so that drift alone decides
    windows = estimates.looked([digits], 6, 500)
    figures = estimates.measured(windows)
    large = [one for name, one in figures.items() if name.startswith(("noise_large", "image_large", "image_medium"))]
    assert len(large) == 12 and sum(one["far"] for one in large) > 30
    assert [one["missed"] for one in large] == [0] * 12
    assert figures[estimates.CLEAN_KIND]["valid"] > 0 and set(figures) > {f"{f.name} 50%" for f in FAMILIES}
    rules = believing.compare([(kind == estimates.CLEAN_KIND, one) for kind, some in windows.items() for one in some])
    assert rules[believing.CHOSEN]["believed"] == sum(one["missed"] for one in figures.values())
    assert rules["ATC and CBPE agree, drift or not"]["believed"] > rules[believing.CHOSEN]["believed"]


def test_a_rule_believes_what_it_says_and_no_wide_interval():
    calm = Evidence(0.01, True, 0.01, 0.005, frozenset(), 0.0, 0.01)
    assert all(believing.valid(calm, rule) for rule in RULES.values())
    assert not any(believing.valid(replace(calm, half=0.03), rule) for rule in RULES.values())
    believed = {
        name: {
            "mix": believing.valid(replace(calm, drifted=frozenset({"predicted_class", "class 3 missing"})), rule),
            "image": believing.valid(replace(calm, drifted=frozenset({"brightness"}), psi=0.06), rule),
            "far": believing.valid(replace(calm, drifted=frozenset({"embedding"}), distance=0.04, apart=0.02), rule),
        }
        for name, rule in RULES.items()
    }
    assert not any(believed[believing.CHOSEN].values())
    assert believed["drift of the mix of classes is allowed"] == {"mix": True, "image": False, "far": False}
    assert believed["drift of answers and embedding alone"] == {"mix": False, "image": True, "far": False}
    assert believed["largest PSI below 0.05"] == {"mix": True, "image": False, "far": True}
    assert believed["largest PSI below 0.07"]["image"]
    assert not believed["distance of the embedding below 0.03"]["far"]
    assert believed["distance of the embedding below 0.05"]["far"]
    assert not believed["ATC and CBPE agree, drift or not"]["far"]


def test_a_rule_is_told_by_the_wrong_ones_it_believes_and_the_good_ones_it_refuses():
    calm = Evidence(0.01, True, 0.01, 0.005, frozenset(), 0.0, 0.01)
    drifted = replace(calm, drifted=frozenset({"brightness"}))
    found = [(True, calm), (True, drifted), (False, drifted), (False, replace(calm, error=0.2))]
    said = believing.compare(found)[believing.CHOSEN]
    assert said == {"wrong": 1, "believed": 1, "refused_under_shift": 1.0, "refused_clean": 0.5}
    assert f"{believing.CHOSEN:46}         1 of 1" in believing.as_text(believing.compare(found))


def test_bbse_is_nearer_to_a_mix_that_changed_strongly_than_the_answers_are(digits):
    found = estimates.mixes([digits], 20, 500)["strong"]
    assert found["bbse"] < found["answered"] and found["valid"] > 0.5
