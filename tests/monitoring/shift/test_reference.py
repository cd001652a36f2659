import numpy as np
import pytest
from tiny_release import HOMES, IMAGE, TABLE, rows_of

from monitoring.shift import reference, signals
from monitoring.shift.reference import ReferenceSettings
from monitoring.shift.signals import Binner
from registry.errors import DataError, ReleaseError
from registry.release import InputSpec

SETTINGS = ReferenceSettings()


def table(rows, seed=0, shift=0.0):
    generator = np.random.default_rng(seed)
    x = (generator.standard_normal((rows, 3)) + shift).astype(np.float32)
    return x, generator.dirichlet(np.ones(3), rows).astype(np.float32)


def counts(made, x, p):
    return Binner(made.bins).count(signals.compute(TABLE, x, p))


def test_the_shares_of_every_signal_sum_to_one_and_are_those_of_its_rows():
    x, p = table(400)
    made = reference.build(SETTINGS, reference.HeldOut(TABLE, x, p))
    np.testing.assert_allclose(made.padded_shares().sum(axis=1), 1)
    np.testing.assert_allclose(made.padded_shares() * made.rows, counts(made, x, p), atol=1e-9)


def test_the_artefact_survives_its_own_json():
    made = reference.build(SETTINGS, reference.HeldOut(TABLE, *table(200)))
    assert reference.parse(made.to_json()) == made


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"bins": 3}'])
def test_an_unreadable_artefact_says_what_to_do(content):
    with pytest.raises(ReleaseError, match="reference.json cannot be read"):
        reference.parse(content)


def test_too_few_rows_are_refused_with_the_cure():
    with pytest.raises(DataError, match="30 held-out rows cannot fill 10 bins; at least 50"):
        reference.build(SETTINGS, reference.HeldOut(TABLE, *table(30)))


def test_z_is_the_two_sample_chi_square_of_scipy_made_normal():
    from scipy.stats import chi2_contingency

    generator = np.random.default_rng(1)
    window, whole = generator.integers(1, 50, (6, 16)), generator.integers(1, 400, (6, 16))
    expected = []
    for one, other in zip(window, whole, strict=True):
        chi2, _, df, _ = chi2_contingency([one, other], correction=False)
        expected.append((np.cbrt(chi2 / df) - (1 - 2 / (9 * df))) / np.sqrt(2 / (9 * df)))
    np.testing.assert_allclose(reference.z_scores(window, whole), expected, rtol=1e-9)


def test_bins_that_are_empty_on_both_sides_do_not_count():
    window, whole = np.array([[5, 9, 0, 0]]), np.array([[50, 40, 0, 0]])
    np.testing.assert_allclose(
        reference.z_scores(window, whole), reference.z_scores(window[:, :2], whole[:, :2]), rtol=1e-12
    )


@pytest.mark.parametrize("rows", [100, 300, 1000])
def test_traffic_like_the_reference_stays_under_the_limits(rows):
    held, traffic = table(500, seed=2), 400
    made = reference.build(SETTINGS, reference.HeldOut(TABLE, *held))
    normal = counts(made, *held)
    largest = [reference.z_scores(counts(made, *table(rows, seed=s)), normal).max() for s in range(10, 10 + traffic)]
    # The short window allows 0.05 / 3 alarms in 2,880 looks: none may come in 400 windows.
    assert max(largest) < made.z_thresholds["short"]
    assert np.mean(np.array(largest) > made.z_thresholds["long"]) < 0.01


def test_a_shift_of_half_a_deviation_is_over_the_limit():
    held = table(500, seed=2)
    made = reference.build(SETTINGS, reference.HeldOut(TABLE, *held))
    z = reference.z_scores(counts(made, *table(500, seed=3, shift=0.5)), counts(made, *held))
    assert (z[:3] > made.z_thresholds["short"]).all()
    assert (z[3:] < made.z_thresholds["short"]).all()


def test_limits_fall_with_fewer_looks_and_rise_with_a_smaller_budget():
    held = table(500)
    usual = reference.build(SETTINGS, reference.HeldOut(TABLE, *held)).z_thresholds
    strict = reference.build(ReferenceSettings(false_alarms_30d=0.001), reference.HeldOut(TABLE, *held)).z_thresholds
    assert usual["short"] > usual["medium"] > usual["long"]
    assert all(strict[window] > usual[window] for window in usual)


def test_leaving_a_constant_column_is_drift():
    x, p = table(400)
    x[:, 1] = 7.0
    made = reference.build(SETTINGS, reference.HeldOut(TABLE, x, p))
    moved, q = table(300, seed=5)
    moved[:, 1] = np.where(np.arange(300) % 3 == 0, 7.5, 7.0)
    z = reference.z_scores(counts(made, moved, q), counts(made, x, p))
    assert z[1] > made.z_thresholds["short"]


def test_poisoned_reference_rows_do_not_hide_a_shift():
    x, p = table(1000, seed=2)
    x[:50, 0] = 1e9
    made = reference.build(SETTINGS, reference.HeldOut(TABLE, x, p))
    z = reference.z_scores(counts(made, *table(1000, seed=3, shift=0.5)), counts(made, x, p))
    assert z[0] > made.z_thresholds["short"]


def test_the_same_rows_give_the_same_artefact():
    generator = np.random.default_rng(0)
    rows, p = generator.integers(0, 17, (200, 8, 8)).astype(np.uint8), table(200)[1]
    held = reference.HeldOut(IMAGE, rows, p)
    assert reference.build(SETTINGS, held).to_json() == reference.build(SETTINGS, held).to_json()


def test_each_category_has_a_bin_of_its_own_with_its_share():
    rows = rows_of(HOMES, 400)
    made = reference.build(SETTINGS, reference.HeldOut(HOMES, rows, rows[:, :1]))
    shares = dict(zip((b.name for b in made.bins), made.padded_shares(), strict=True))
    for column, name in ((1, "city"), (2, "heating")):
        counted = np.bincount(rows[:, column].astype(int), minlength=16)
        np.testing.assert_allclose(shares[name], counted / 400)
    assert set(shares) == {*HOMES.columns, "area empty", "heating empty", "prediction"}


def test_of_too_many_categories_neighbours_share_a_bin_and_none_holds_most():
    spec = InputSpec("float32", (1,), ("city",), {"city": tuple(f"{i:03}" for i in range(200))})
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 200, (2000, 1)).astype(np.float32)
    made = reference.build(SETTINGS, reference.HeldOut(spec, rows, rows))
    assert len(made.shares[0]) == 16 and max(made.shares[0]) < 0.08
    moved = generator.integers(150, 200, (300, 1)).astype(np.float32)
    normal, window = (Binner(made.bins).count(signals.compute(spec, x, x)) for x in (rows, moved))
    assert reference.z_scores(window, normal)[0] > made.z_thresholds["short"]


def test_a_rare_category_that_becomes_common_is_over_the_limit():
    generator = np.random.default_rng(0)
    rows, moved = (rows_of(HOMES, count, seed=count) for count in (600, 300))
    moved[:150, 1] = 2
    made = reference.build(SETTINGS, reference.HeldOut(HOMES, rows, generator.normal(size=(600, 1)).astype(np.float32)))
    said = generator.normal(size=(300, 1)).astype(np.float32)
    whole = Binner(made.bins).count(signals.compute(HOMES, rows, np.zeros((600, 1), dtype=np.float32)))
    z = reference.z_scores(Binner(made.bins).count(signals.compute(HOMES, moved, said)), whole)
    assert z[1] > made.z_thresholds["short"] > z[0]


def test_the_bins_of_a_prediction_fit_its_unit():
    x = rows_of(HOMES, 500)
    price = np.random.default_rng(0).lognormal(12, 0.5, (500, 1)).astype(np.float32)
    made = reference.build(SETTINGS, reference.HeldOut(HOMES, x, price))
    np.testing.assert_allclose(made.shares[-1][1:-1], 0.125, atol=0.02)
    assert made.far[-1] == (0, 9) and made.outside[-1] < 0.01
