"""The bets against exact products, and how often they are wrong and right over all looks, by simulation."""

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.judge import evidence
from monitoring.judge.evidence import Pairs
from registry import gate

CONFIDENCE = 0.95
ENOUGH = -np.log1p(-CONFIDENCE)
COUNTS = st.tuples(st.integers(0, 400), st.integers(0, 400), st.integers(0, 4000)).filter(any)
MARGINS = st.floats(-0.3, 0.3)


def wealth(side, pairs, margin, upto):
    """Return the log of the wealth after rows (runs, n, outcomes), which are counted up to each look."""
    one_by_one = np.array([side(_single(pairs, k), margin) for k in range(len(pairs.old))])
    logs = upto @ one_by_one
    most = logs.max(axis=-1, keepdims=True)
    return most[..., 0] + np.log(np.exp(logs - most).mean(axis=-1))


def _single(pairs, k):
    return Pairs(pairs.old[k : k + 1], pairs.new[k : k + 1], np.ones(1), pairs.relative)


def classified(better, worse, shape, seed):
    """Return counts (runs, looks, 3) of better, worse and alike after each row, whose shares are given."""
    draw = np.random.default_rng(seed).random(shape)
    rows = np.stack([draw < better, (draw >= better) & (draw < better + worse), draw >= better + worse], axis=-1)
    return rows.cumsum(axis=1, dtype=np.float64)


def often(share, runs):
    """Return how many of `runs` may show what has a chance of `share`, at 1 in 1000."""
    return share * runs + NormalDist().inv_cdf(0.999) * (runs * share * (1 - share)) ** 0.5


@given(COUNTS, MARGINS, st.randoms(use_true_random=False))
def test_wealth_is_that_of_betting_row_by_row_in_any_order(counts, margin, random):
    better, worse, alike = (count % 30 for count in counts)
    rows = [1.0] * better + [-1.0] * worse + [0.0] * alike
    random.shuffle(rows)
    for side, sign in ((evidence._less, 1), (evidence._more, -1)):
        expected = []
        for stake in evidence.STAKES:
            purse = 1.0
            for row in rows:
                purse *= 1 + stake * sign * (row + margin) / (1 - sign * margin)
            expected.append(purse)
        found = np.exp(side(evidence.of_classes(better, worse, len(rows)), margin))
        assert found == pytest.approx(expected, rel=1e-9)


@given(COUNTS, st.floats(0.5, 0.999))
def test_the_bounds_hold_the_observed_loss_and_say_what_the_bettors_say(counts, confidence):
    better, worse, alike = counts
    rows = sum(counts)
    pairs = evidence.of_classes(better, worse, rows)
    lower, upper = evidence.bounds(pairs, confidence)
    assert lower <= (worse - better) / rows <= upper
    for margin in (-0.1, 0.02, 0.1):
        if abs(margin - upper) > 2 * evidence.NEAR:
            assert evidence.loses_less(pairs, margin, confidence) == (margin > upper)
        if abs(margin - lower) > 2 * evidence.NEAR:
            assert evidence.loses_more(pairs, margin, confidence) == (margin < lower)


@given(COUNTS, st.floats(0, 0.2))
def test_both_sides_are_each_others_mirror(counts, margin):
    better, worse, alike = counts
    one, other = (evidence.of_classes(*pair, sum(counts)) for pair in ((better, worse), (worse, better)))
    assert evidence._less(one, margin) == pytest.approx(evidence._more(other, -margin), rel=1e-9, abs=1e-9)


def test_without_a_row_nothing_is_sure():
    for pairs in (evidence.of_classes(0, 0, 0), evidence.of_errors(np.empty(0), np.empty(0), 1.0)):
        assert not evidence.loses_less(pairs, 0.02, CONFIDENCE) and not evidence.loses_more(pairs, 0.02, CONFIDENCE)
        assert evidence.rows_to_tell(pairs, 0.02, CONFIDENCE) is None


def test_large_errors_count_as_the_most_and_no_row_decides_alone():
    old, new = np.full(200, 0.5), np.full(200, 0.4)
    new[7] = 1e12
    capped = new.copy()
    capped[7] = 10.0
    one, other = (evidence.of_errors(old, errors, 10.0) for errors in (new, capped))
    assert evidence.bounds(one, CONFIDENCE) == evidence.bounds(other, CONFIDENCE)
    assert not evidence.loses_more(one, 0.02, CONFIDENCE)


def test_errors_in_blocks_are_those_in_one(monkeypatch):
    draw = np.random.default_rng(0).exponential(1.0, (2, 1000))
    pairs = evidence.of_errors(*draw, 10.0)
    whole = evidence.bounds(pairs, CONFIDENCE)
    monkeypatch.setattr(evidence, "BLOCK", 64)
    assert evidence.bounds(pairs, CONFIDENCE) == pytest.approx(whole, abs=2e-5)


@pytest.mark.parametrize(("better", "worse", "rows"), [(40, 20, 400), (10, 12, 1000), (20, 60, 1000), (0, 0, 60)])
def test_as_many_rows_as_it_says_tell_and_fewer_do_not(better, worse, rows):
    def tells(growth):
        pairs = Pairs(*((one := evidence.of_classes(better, worse, rows)).old, one.new), one.counts * growth)
        return evidence.loses_less(pairs, 0.02, CONFIDENCE) or evidence.loses_more(pairs, 0.02, CONFIDENCE)

    needed = evidence.rows_to_tell(evidence.of_classes(better, worse, rows), 0.02, CONFIDENCE)
    assert tells(1.01 * needed / rows) and not tells(0.97 * needed / rows)


def test_what_lies_on_the_margin_is_not_told_soon():
    assert evidence.rows_to_tell(evidence.of_classes(10, 12, 100), 0.02, CONFIDENCE) is None


def wrong_looks(better, worse, margin, shape, seed=0):
    """Return in how many runs each side is ever sure, though the loss is exactly the margin."""
    upto = classified(better, worse, shape, seed)
    pairs = evidence.of_classes(0, 0, 0)
    found = [(wealth(side, pairs, margin, upto) >= ENOUGH) for side in (evidence._less, evidence._more)]
    return upto, [int(one.any(axis=1).sum()) for one in found]


@pytest.mark.parametrize(("better", "worse"), [(0.0, 0.02), (0.01, 0.03), (0.09, 0.11), (0.3, 0.32)])
def test_over_three_thousand_looks_a_loss_of_the_margin_is_called_less_or_more_as_rarely_as_stated(better, worse):
    upto, found = wrong_looks(better, worse, 0.02, shape := (400, 3000))
    assert max(found) <= often(1 - CONFIDENCE, shape[0])
    look = upto[0, ::500]
    decided = [evidence.loses_less(evidence.of_classes(b, w, b + w + a), 0.02, CONFIDENCE) for b, w, a in look]
    assert decided == (wealth(evidence._less, evidence.of_classes(0, 0, 0), 0.02, look) >= ENOUGH).tolist()


def test_the_statistic_of_the_gate_would_be_wrong_far_more_often_when_looked_at_again_and_again():
    upto = classified(0.09, 0.11, (400, 3000), 0)[:, 50::50]
    z = NormalDist().inv_cdf(CONFIDENCE)
    promoted = [any(gate.score(int(b), int(w), int(b + w + a), 0.02) >= z for b, w, a in run) for run in upto]
    assert sum(promoted) > 2 * often(1 - CONFIDENCE, 400)


@pytest.mark.parametrize("draw", ["uniform", "exponential"])
def test_over_two_thousand_looks_errors_that_grew_by_the_margin_are_called_so_as_rarely_as_stated(draw):
    runs, margin = 300, 0.1
    generator = np.random.default_rng(0)
    shape = (2, runs, 2000)
    old, new = 0.9 * (
        generator.random(shape) if draw == "uniform" else np.minimum(generator.exponential(0.1, shape), 1)
    )
    pairs = Pairs(old.ravel(), (1 + margin) * new.ravel(), np.ones(old.size), relative=True)  # none above 1: unclipped
    kept = evidence._kept(pairs, margin).reshape(old.shape)
    for gains in (kept, -kept / (1 + margin)):
        logs = np.log1p(gains[..., None] * evidence.STAKES).cumsum(axis=1)
        sure = np.log(np.exp(logs).mean(axis=-1)) >= ENOUGH
        assert int(sure.any(axis=1).sum()) <= often(1 - CONFIDENCE, runs)


@pytest.mark.parametrize(
    ("better", "worse", "margin", "side", "rows"),
    [
        (0.06, 0.02, 0.02, "less", 600),
        (0.01, 0.01, 0.02, "less", 1500),
        (0.0, 0.0, 0.02, "less", 250),
        (0.02, 0.10, 0.02, "more", 600),
        (0.0, 0.2, 0.02, "more", 120),
    ],
)
def test_a_clear_difference_is_told_within_few_rows(better, worse, margin, side, rows):
    pairs = evidence.of_classes(0, 0, 0)
    sides = {"less": evidence._less, "more": evidence._more}
    sure = wealth(sides[side], pairs, margin, classified(better, worse, (200, rows), 1)) >= ENOUGH
    assert sure.any(axis=1).mean() >= 0.9


@pytest.mark.parametrize(("growth", "side"), [(0.8, evidence.loses_less), (1.4, evidence.loses_more)])
def test_a_clear_difference_of_errors_is_told_within_few_rows(growth, side):
    told = 0
    for seed in range(50):
        generator = np.random.default_rng(seed)
        truth = generator.laplace(0, 1, 800)
        other = 0.7 * truth + 0.7 * generator.laplace(0, 1, 800)  # errors of two models of one task go together
        told += side(evidence.of_errors(np.abs(truth), growth * np.abs(other), 10.0), 0.05, CONFIDENCE)
    assert told >= 45


@pytest.mark.proof
def test_over_ten_thousand_looks_no_loss_of_the_margin_is_called_less_or_more_too_often():
    worst = 0.0
    for margin in (0.005, 0.02, 0.05, 0.1):
        for disagreeing in (margin, 0.02 + margin, 0.1 + margin, 0.5):
            better = (disagreeing - margin) / 2
            found = np.zeros(2, dtype=int)
            for seed in range(20):
                found += wrong_looks(better, better + margin, margin, (100, 10_000), seed)[1]
            worst = max(worst, found.max() / 2000)
            print(
                f"margin {margin}, {disagreeing:.3f} disagree: less {found[0] / 2000:.2%}, more {found[1] / 2000:.2%}"
            )
            assert found.max() <= often(1 - CONFIDENCE, 2000)
    print(f"2,000 runs of 10,000 looks each, worst {worst:.2%} for a stated {1 - CONFIDENCE:.0%}")
