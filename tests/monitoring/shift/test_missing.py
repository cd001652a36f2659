import numpy as np
import pytest

from monitoring.shift import binning, missing
from monitoring.shift.calibration import WINDOW_MINUTES

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
    lost = missing.losses(np.array([5, 45, 50, 0]), np.array([0.2, 0.3, 0.5, 0]))
    assert lost == pytest.approx([0.75, -0.5, 0, 0])


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


def looks(rows_by_minute, window, reference_counts):
    """Return whether any class is missing, at each minute from which on the window is full."""
    running = np.concatenate([np.zeros((1, rows_by_minute.shape[1])), np.cumsum(rows_by_minute, axis=0)])
    length = WINDOW_MINUTES[window]
    counts = running[length:] - running[:-length]
    rows, shares = int(reference_counts.sum()), reference_counts / reference_counts.sum()
    z = missing.each(counts, shares, rows)
    lost = 1 - counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) / shares
    over = (z > missing.monthly(0.01, len(shares))[window]) & (lost >= missing.LEAST_LOSS)
    return over.any(axis=1) & (counts.sum(axis=1) >= 100)


def test_a_class_that_is_gone_is_told_within_twelve_hours_at_a_hundred_rows_an_hour():
    generator, hours = np.random.default_rng(0), []
    for knock_out in range(40):
        usual = generator.dirichlet(np.full(10, 300.0))
        gone = usual.copy()
        gone[knock_out % 10] *= 0.03  # other rows are taken for it now and then
        day = generator.poisson(usual * 100 / 60, (1440, 10))
        after = generator.poisson(gone / gone.sum() * 100 / 60, (1440, 10))
        found = looks(np.concatenate([day, after]), "medium", generator.multinomial(8000, usual))
        assert not found[0]
        hours.append(found.argmax() / 60 if found.any() else np.inf)
    print(f"\nhours to the alert: median {np.median(hours):.1f}, nine in ten {np.quantile(hours, 0.9):.1f}, "
          f"longest {max(hours):.1f}")  # fmt: skip
    assert max(hours) <= 12


@pytest.mark.proof
@pytest.mark.parametrize("rows_per_h", [20, 100, 1000])
def test_hardly_a_clean_month_misses_a_class(rows_per_h):
    generator, months = np.random.default_rng(1), []
    for month in range(30):
        usual = np.array([EVEN, (0.7, 0.2, 0.05, 0.03, 0.02), (0.9, 0.1)][month % 3])
        rows = generator.poisson(usual * rows_per_h / 60, (37 * 1440, len(usual)))
        reference = generator.multinomial(5000, usual)
        months.append(any(looks(rows, window, reference).any() for window in WINDOW_MINUTES))
    print(f"\n{rows_per_h} rows/h: {np.mean(months):.1%} of {len(months)} clean months, 1 % stated")
    assert np.mean(months) <= 0.05


def test_a_bin_is_called_by_the_classes_it_holds():
    few = binning.of_index("predicted_class", np.array([0, 1, 2]), 3)
    assert binning.held(few, ("low", "middle", "high")) == ("low", "middle", "high", "")
    column = np.random.default_rng(0).integers(0, 40, 2000)
    many = binning.of_index("predicted_class", column, 40)
    names = binning.held(many, [f"c{k}" for k in range(40)])
    assert len(names) == len(many.cuts) + 1 and names[0].startswith("c0") and names[-1].endswith("c39")
