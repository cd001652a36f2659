import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from registry.errors import ConfigError
from training.config import Augment
from training.fit import augment
from training.fit.augment import Keyed
from training.rows.data import Moments, moments

IMAGES = np.random.default_rng(0).integers(0, 17, (12, 8, 8), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 255, (12, 6, 5, 3), dtype=np.uint8)
TABLE = np.random.default_rng(2).normal(3, 2, (12, 4)).astype(np.float32)
ON_IMAGES = {
    "all, between pixels": Augment(0.5, 0.2, 0.4, shift_pixels=1.5, rotate_degrees=20, noise=0.1, erase_pixels=3),
    "whole pixels": Augment(flip_share=0.5, shift_pixels=2),
}
ON_TABLES = {"table": Augment(noise=0.1, mask_share=0.3)}
CASES = [pytest.param(x, changes, id=name) for x, all_changes in (
    (IMAGES, ON_IMAGES), (COLOUR, ON_IMAGES), (TABLE, ON_TABLES)) for name, changes in all_changes.items()]  # fmt: skip
LABELS = np.arange(12) % 3


def batch(x, seed, epoch, index, changes):
    return augment.batch(x, LABELS, Keyed(seed, epoch, np.asarray(index)), changes, moments(x))


@pytest.mark.parametrize(("x", "changes"), CASES)
@given(order=st.permutations(range(12)), size=st.integers(1, 12), epoch=st.integers(0, 99))
@settings(max_examples=20)
def test_a_changed_row_does_not_depend_on_its_batch(x, changes, order, size, epoch):
    whole, index = batch(x, 3, epoch, range(12), changes), order[:size]
    part = batch(x, 3, epoch, index, changes)
    for name in ("x", "y", "partner_y", "share"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[index])
    assert part.x.dtype == part.share.dtype == np.float32 and part.x.shape == (size, *x.shape[1:])


@pytest.mark.parametrize(("x", "changes"), CASES)
def test_another_seed_or_epoch_changes_rows_otherwise(x, changes):
    found = [batch(x, seed, epoch, range(12), changes).x for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("x", [IMAGES, COLOUR, TABLE], ids=["images", "colour images", "table"])
def test_everything_off_leaves_the_values_as_they_are(x):
    same = batch(x, 0, 0, [3, 1, 1], Augment())
    assert np.array_equal(same.x, x[[3, 1, 1]].astype(np.float32))
    assert np.array_equal(same.y, LABELS[[3, 1, 1]]) and np.array_equal(same.partner_y, same.y)
    assert same.share.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("x", "changes", "message"),
    [
        (TABLE, Augment(flip_share=0.5), "augment.flip_share: the rows are vectors; accepted for them are noise, mask"),
        (TABLE, Augment(mixup=0.2), "augment.mixup: the rows are vectors"),
        (IMAGES, Augment(mask_share=0.1), "augment.mask_share: the rows are images; accepted for them are noise, flip"),
    ],
)
def test_a_change_that_has_no_meaning_for_the_rows_is_refused(x, changes, message):
    with pytest.raises(ConfigError, match=message):
        batch(x, 0, 0, [0], changes)


def test_every_image_is_mirrored_in_its_share_of_the_epochs():
    x = np.arange(300 * 2, dtype=np.uint8).reshape(300, 1, 2) % 251
    for share in (0.5, 0.3, 1.0):
        mirrored = np.stack([
            augment.flipped(x, Keyed(0, epoch, np.arange(300)), share)[:, 0, 0] == x[:, 0, 1] for epoch in range(10)
        ])  # fmt: skip
        assert (mirrored.sum(axis=0) == 10 * share).all()
        assert mirrored[0].mean() == pytest.approx(share, abs=0.1)
    one, two = (augment.flipped(COLOUR, Keyed(0, epoch, np.arange(12)), 0.5) for epoch in (0, 1))
    assert np.array_equal(one, two[:, :, ::-1])


def test_whole_pixels_move_as_numpy_rolls_them_to_every_place_equally_often():
    x = np.zeros((2500, 7, 6, 2), dtype=np.uint8)
    x[:, 2:5, 2:4] = np.arange(1, 13).reshape(3, 2, 2)
    moved = augment.moved(x, Keyed(0, 0, np.arange(2500)), 2.0, 0.0)
    rolled = {np.roll(x[0], (a, b), (0, 1)).tobytes(): 0 for a in range(-2, 3) for b in range(-2, 3)}
    for image in moved:
        rolled[image.tobytes()] += 1
    assert len(rolled) == 25
    assert stats.chisquare(list(rolled.values())).pvalue > 1e-3
    gone = augment.moved(np.ones((50, 2, 2), dtype=np.uint8), Keyed(0, 0, np.arange(50)), 2.0, 0.0)
    assert set(gone.sum(axis=(1, 2)).tolist()) == {0, 1, 2, 4}


def test_brightness_multiplies_an_image_by_one_factor():
    bright = augment.brightened(np.ones((4000, 2, 2, 3), dtype=np.float32), Keyed(0, 0, np.arange(4000)), 0.3)
    assert (bright == bright[:, :1, :1, :1]).all()
    assert stats.kstest((bright[:, 0, 0, 0] - 0.7) / 0.6, "uniform").pvalue > 1e-3


def test_mixup_blends_a_row_with_a_changed_partner_by_a_share_from_the_beta_distribution():
    changes = Augment(flip_share=0.5, shift_pixels=1, mixup=0.3)
    whole = augment.batch(IMAGES, LABELS, Keyed(0, 4, np.arange(12)), changes, moments(IMAGES))
    partner, share = augment.partners(Keyed(0, 4, np.arange(12)), 0.3, 12)
    plain = augment.rows(IMAGES, Keyed(0, 4, np.arange(12)), changes, moments(IMAGES))
    weight = share[:, None, None]
    assert whole.x == pytest.approx(weight * plain + (1 - weight) * plain[partner], abs=1e-5)
    assert np.array_equal(whole.partner_y, LABELS[partner]) and np.array_equal(whole.share, share)
    partner, share = augment.partners(Keyed(0, 0, np.arange(5000)), 0.3, 10)
    assert stats.kstest(share, "beta", (0.3, 0.3)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(partner, minlength=10)).pvalue > 1e-3


@pytest.mark.parametrize(("x", "shift", "turn"), [(IMAGES, 1.5, 25.0), (COLOUR, 1.5, 25.0), (COLOUR, 0.5, 0.0)])
def test_moving_between_pixels_agrees_with_scipy(x, shift, turn):
    keyed, (height, width) = Keyed(5, 2, np.arange(12)), x.shape[1:3]
    drawn = 2 * augment.draw.uniform(5, keyed.stream(0), keyed.index, 3) - 1
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    moved = augment.moved(x, keyed, shift, turn).reshape(12, height, width, -1)
    for image, got, (down, right, part) in zip(x.reshape(moved.shape), moved, drawn, strict=True):
        angle = np.deg2rad(turn * part)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = centre - matrix @ centre + shift * np.array([down, right])
        for channel in range(moved.shape[3]):
            framed = np.pad(image[:, :, channel].astype(np.float64), 4)
            expected = ndimage.affine_transform(framed, matrix, offset + 4 - matrix @ [4, 4], order=1)
            assert got[:, :, channel] == pytest.approx(expected[4:-4, 4:-4], abs=2e-6 * x.max() * 32)


def test_a_shift_alone_keeps_the_mass_of_an_image_that_stays_inside():
    x = np.zeros((50, 9, 9), dtype=np.float32)
    x[:, 4, 4] = 1
    moved = augment.moved(x, Keyed(0, 0, np.arange(50)), 2.5, 0.0)
    assert moved.sum(axis=(1, 2)) == pytest.approx(np.ones(50), abs=1e-5)
    assert len({image.tobytes() for image in moved}) == 50


def test_erasing_blanks_one_square_in_about_half_of_the_images():
    x = np.ones((400, 8, 8), dtype=np.float32)
    erased = augment.erased(x, Keyed(0, 0, np.arange(400)), 3)
    gone = (erased == 0).sum(axis=(1, 2))
    assert set(gone.tolist()) == {0, 9}
    assert (gone == 9).mean() == pytest.approx(0.5, abs=0.1)


def test_noise_has_the_deviation_of_each_column_and_masks_put_its_mean():
    x = np.zeros((4000, 2), dtype=np.float32)
    spread = Moments(np.array([1.0, -5.0]), np.array([1.0, 10.0]))
    keyed = Keyed(0, 0, np.arange(4000))
    noisy = augment.rows(x, keyed, Augment(noise=0.5), spread)
    assert noisy.std(axis=0) == pytest.approx([0.5, 5.0], rel=0.05)
    masked = augment.rows(x, keyed, Augment(mask_share=0.25), spread)
    assert (masked == spread.mean).mean(axis=0) == pytest.approx([0.25, 0.25], abs=0.03)
