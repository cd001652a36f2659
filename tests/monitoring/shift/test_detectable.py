import months
import numpy as np
import pytest

from monitoring.shift import detectable
from monitoring.shift.calibration import z_scores
from monitoring.shift.detectable import Sight

SHARES = np.array([0.1, 0.12, 0.08, 0.1, 0.1, 0.11, 0.09, 0.1, 0.1, 0.1])
LIMITS = {"short": (5.2, 20.0), "medium": (4.7, 20.0), "long": (4.3, 20.0)}


def sight(shares=SHARES, rows=5000, psi_floor=0.0, min_rows=100):
    return Sight(shares, LIMITS, rows, psi_floor, min_rows)


def seen(shares, moved, window, rows, reference_rows=5000, draws=2000):
    """Return the share of drawn windows, of drawn references, that are over the limit."""
    generator = np.random.default_rng(0)
    z = z_scores(
        generator.multinomial(rows, moved, (draws, 1)), generator.multinomial(reference_rows, shares, (draws, 1))
    )
    base, slope = LIMITS[window]
    return np.mean(z > base + slope / rows)


@pytest.mark.parametrize("moved", [detectable.share_grown, detectable.mean_moved])
@pytest.mark.parametrize(("window", "rows"), [("short", 100), ("short", 500), ("medium", 2400), ("long", 84000)])
def test_the_smallest_shift_is_seen_four_times_in_five(moved, window, rows):
    shift = detectable.smallest(sight(), window, rows, moved)
    assert seen(SHARES, moved(SHARES, shift), window, rows) == pytest.approx(0.8, abs=0.07)
    assert seen(SHARES, moved(SHARES, shift / 2), window, rows) < 0.25


def test_what_is_smaller_than_the_floor_does_not_show_however_many_rows_there_are():
    shift = detectable.smallest(sight(rows=10**7, psi_floor=0.02), "long", 10**7, detectable.mean_moved)
    assert shift == pytest.approx(np.sqrt(0.02), rel=0.05)  # of normal distributions the PSI is the square of the shift
    assert detectable.smallest(sight(rows=10**7), "long", 10**7, detectable.mean_moved) < shift / 10


def test_in_a_window_of_too_few_rows_nothing_shows():
    assert detectable.smallest(sight(), "short", 99, detectable.share_grown) is None


def test_a_mean_that_moves_moves_the_shares_as_a_normal_distribution_does():
    from scipy.stats import norm

    cuts = norm.ppf(np.cumsum(SHARES)[:-1])
    expected = np.diff([0, *norm.cdf(cuts, loc=0.4), 1])
    np.testing.assert_allclose(detectable.mean_moved(SHARES, 0.4), expected, atol=1e-9)


def test_shares_that_grow_still_sum_to_one_and_only_one_grows():
    grown = detectable.share_grown(SHARES, 0.05)
    assert grown.sum() == pytest.approx(1) and (grown > SHARES).sum() == 1
    assert (grown - SHARES).max() == pytest.approx(0.05)


def test_a_reference_says_what_it_sees_and_more_traffic_or_longer_windows_see_more():
    made = months.made_from(*months.population(5000, 0), 5000)
    shown = {(shift.rows_per_h, shift.window): shift for shift in made.shifts}
    assert len(shown) == 12
    for measure in ("class_points", "deviations"):
        short = [getattr(shown[rate, "short"], measure) for rate in detectable.RATES_PER_H]
        assert short == sorted(short, reverse=True) and short[-1] > 0
        assert getattr(shown[100, "long"], measure) < getattr(shown[100, "medium"], measure) < short[0]
