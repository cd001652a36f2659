import numpy as np
import pytest

from monitoring.shift import missing

EVEN = (0.1,) * 10


def test_z_is_the_exact_binomial_tail_made_normal_and_penalised_for_the_classes():
    from scipy.stats import binom, norm

    for rows, seen in ((200, 4), (500, 25), (1000, 60)):
        others = (rows - seen) / 9
        counts = np.array([seen, *[others] * 9])
        exact = norm.isf(10 * binom.cdf(seen, rows, 0.1))
        assert missing.z(counts, np.array(EVEN), 10**9) == pytest.approx(exact, abs=0.25)


def test_a_class_that_grew_is_not_missing_and_no_rows_miss_nothing():
    assert missing.z(np.array([60.0, 40.0]), np.array([0.6, 0.4]), 1000) == 0
    assert missing.z(np.zeros(10), np.array(EVEN), 1000) < 1
    assert missing.z(np.array([100.0, 0, 0]), np.array([1.0, 0, 0]), 1000) == 0


def test_the_loss_is_the_part_of_its_share_that_the_class_has_lost():
    assert missing.loss(np.array([5, 45, 50]), np.array([0.2, 0.3, 0.5])) == pytest.approx(0.75)
    assert missing.loss(np.array([20, 30, 50]), np.array([0.2, 0.3, 0.5])) == pytest.approx(0)


@pytest.mark.parametrize("rows", [50, 200, 1000])
@pytest.mark.parametrize("shares", [EVEN, (0.9, 0.1), (0.4, 0.3, 0.2, 0.06, 0.04)])
def test_the_limit_is_exceeded_by_chance_as_seldom_as_asked(rows, shares):
    limit, used = missing.limit(shares, rows, 5000, 0.03)
    generator = np.random.default_rng(7)
    references = generator.multinomial(5000, shares, 20_000) / 5000
    over = missing.z(generator.multinomial(rows, shares, 20_000), references, 5000) > limit
    assert over.mean() < 0.04 and used <= 0.03
    assert over.mean() == pytest.approx(used, abs=0.01)


def test_a_class_that_is_gone_is_found_in_a_hundred_rows():
    counts = np.array([0, *[100 / 9] * 9])
    limit, _ = missing.limit(EVEN, 100, 5000, 0.03)
    assert missing.z(counts, np.array(EVEN), 5000) > limit
    too_few, used = missing.limit(EVEN, 10, 5000, 0.03)
    assert (too_few, used) == (missing.NEVER, 0.0)
