import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from monitoring.judge import decline

PER_DAY = 86_400 / decline.STEP_S


def first_alarm(chances, per_step, level, runs, seed=0):
    """Return per run the row of the first alarm, -1 if there is none; one look a row.

    chances: of a right answer, per step. The wealth of each stake, all bettors together, grows row by row.
    """
    generator = np.random.default_rng(seed)
    rise, fall = (np.exp(logs) for logs in decline.factors(level))
    wealth, first = np.zeros((runs, decline.STAKES)), np.full(runs, -1)
    for step, chance in enumerate(chances):
        wealth += 1  # a bettor begins
        for row in range(per_step):
            right = generator.random(runs) < chance
            wealth = np.minimum(wealth * np.where(right[:, None], fall, rise), 1e200)
            over = wealth.mean(axis=1) / decline.bettors(decline.STEP_S) >= decline.limit()
            first[over & (first < 0)] = step * per_step + row
    return first


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40), st.floats(0.1, 0.99))
def test_the_evidence_is_the_mean_over_all_bettors_and_stakes(counts, level):
    right, wrong = (np.array(column) for column in zip(*counts, strict=True))
    found = decline.judge(right, right + wrong, level)
    rise, fall = decline.factors(level)
    logs = [right[j:].sum() * fall + wrong[j:].sum() * rise for j in range(len(counts))]
    expected = logsumexp(np.concatenate(logs)) - math.log(decline.STAKES * decline.bettors(decline.STEP_S))
    if (right + wrong).sum():
        assert found.evidence == pytest.approx(math.exp(min(expected, 700)), rel=1e-9)
        assert found.alarm == (expected >= math.log(20))
    else:
        assert found.evidence == 0 and found.begun is None


@given(st.floats(0.02, 0.999))
def test_no_stake_wins_in_the_mean_while_quality_is_at_the_level(level):
    rise, fall = decline.factors(level)
    assert len(rise) == decline.STAKES
    for chance, sign in ((level, 0), (min(1.0, level + 0.02), -1)):
        mean = chance * np.exp(fall) + (1 - chance) * np.exp(rise)
        assert (mean <= 1 + 1e-9).all() and (sign == 0 or (mean < 1).all())


def test_a_drop_is_dated_and_its_quality_is_told():
    labelled = np.full(60, 50)
    right = np.where(np.arange(60) < 40, 48, 38)
    found = decline.judge(right, labelled, 0.95)
    assert found.alarm and found.begun == 40 and found.quality == pytest.approx(0.76)


def test_days_that_were_good_do_not_hide_a_drop_that_comes_late():
    def rows_to_find(good_days):
        days = round(good_days * PER_DAY)
        right = np.concatenate([np.full(days, 97), np.full(40, 85)])
        return next(
            n for n in range(40) if decline.judge(right[: days + n + 1], np.full(days + n + 1, 100), 0.95).alarm
        )

    assert rows_to_find(0) == rows_to_find(29) < 6


def test_what_is_older_than_a_month_counts_no_more():
    bad, good = np.full(8, 10), np.full(round(30 * PER_DAY), 95)
    right, labelled = np.concatenate([bad, good]), np.full(128, 100)
    found = decline.judge(right, labelled, 0.9)
    assert not found.alarm
    assert found.begun >= 8


def test_the_level_is_the_quality_at_the_release_less_the_tolerance_or_what_was_sure():
    assert decline.level(0.95, 0.945, 0.02) == pytest.approx(0.93)
    assert decline.level(0.95, 0.90, 0.02) == 0.90


def test_a_level_of_nothing_is_never_fallen_under():
    assert decline.judge(np.array([0]), np.array([1000]), 0.0) == decline.Decline(0.0, 0.0)


def test_a_release_without_an_error_can_decline():
    found = decline.judge(np.array([90]), np.array([100]), decline.level(1.0, 0.9999))
    assert found.alarm and math.isfinite(found.evidence)


def test_an_alarm_is_false_in_at_most_5_percent_of_months():
    false = [
        (first_alarm(np.full(120, level), 25, level, 800, seed) >= 0).mean()
        for seed, level in enumerate((0.6, 0.9, 0.99))
    ]
    print("false alarms in 30 days at 100 labels a day:", false)
    assert max(false) <= 0.05


@pytest.mark.proof
def test_how_soon_a_drop_is_found_and_how_often_an_alarm_is_false():
    for level in (0.6, 0.8, 0.9, 0.94, 0.99):
        for per_step in (25, 250):
            false = (first_alarm(np.full(120, level), per_step, level, 2000) >= 0).mean()
            print(
                f"quality stays at the level {level}, {4 * per_step} labels a day: {false:.2%} false alarms in 30 days"
            )
            assert false <= 0.05
    for drop, most in ((0.02, 12_000), (0.05, 1200), (0.10, 300)):
        for per_step in (25, 250):
            good, bad = 80, 40 + 16_000 // per_step if drop == 0.02 else 80
            chances = np.concatenate([np.full(good, 0.95), np.full(min(bad, 120), 0.95 - drop)])
            first = first_alarm(chances, per_step, 0.94, 400)
            late = first[first >= 0] - good * per_step
            middle, most_rows = np.quantile(late, [0.5, 0.9])
            told = f"found in {(first >= 0).mean():.0%}, median {middle:.0f} labels, 90 % {most_rows:.0f}"
            print(f"0.95 falls by {drop} on day 20, level 0.94, {4 * per_step} labels a day: {told}")
            assert (late > 0).all() and middle <= most
