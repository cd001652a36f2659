import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from training import augment
from training.augment import Keyed
from training.config import Augment
from training.data import Moments, moments

IMAGES = np.random.default_rng(0).integers(0, 17, (12, 8, 8), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 255, (12, 6, 5, 3), dtype=np.uint8)
TABLE = np.random.default_rng(2).normal(3, 2, (12, 4)).astype(np.float32)
ALL = Augment(shift_pixels=1.5, rotate_degrees=20, noise=0.1, erase_pixels=3, mask_share=0.3)


@pytest.mark.parametrize("x", [IMAGES, COLOUR, TABLE], ids=["images", "colour images", "table"])
@given(order=st.permutations(range(12)), size=st.integers(1, 12), epoch=st.integers(0, 99))
@settings(max_examples=20)
def test_a_changed_row_does_not_depend_on_its_batch(x, order, size, epoch):
    whole = augment.rows(x, Keyed(3, epoch, np.arange(12)), ALL, moments(x))
    index = np.array(order[:size])
    part = augment.rows(x[index], Keyed(3, epoch, index), ALL, moments(x))
    assert np.array_equal(part, whole[index])


@pytest.mark.parametrize("x", [IMAGES, TABLE], ids=["images", "table"])
def test_another_seed_or_epoch_changes_rows_otherwise(x):
    found = [augment.rows(x, Keyed(s, e, np.arange(12)), ALL, moments(x)) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize("x", [IMAGES, COLOUR, TABLE], ids=["images", "colour images", "table"])
def test_everything_off_leaves_the_values_as_they_are(x):
    assert np.array_equal(augment.rows(x, Keyed(0, 0, np.arange(12)), Augment(), moments(x)), x.astype(np.float32))


def test_moving_agrees_with_scipy():
    x = IMAGES.astype(np.float32)
    keyed = Keyed(5, 2, np.arange(12))
    drawn = 2 * augment.draw.uniform(5, keyed.stream(0), keyed.index, 3) - 1
    moved = augment.moved(x, keyed, 1.5, 25.0)
    for image, got, (down, right, turn) in zip(x, moved, drawn, strict=True):
        angle = np.deg2rad(25.0 * turn)
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([3.5, 3.5])
        offset = centre - matrix @ centre + 1.5 * np.array([down, right])
        expected = ndimage.affine_transform(np.pad(image, 4), matrix, offset + 4 - matrix @ [4, 4], order=1)
        assert got == pytest.approx(expected[4:12, 4:12], abs=1e-4)


def test_a_shift_alone_keeps_the_mass_of_an_image_that_stays_inside():
    x = np.zeros((50, 9, 9), dtype=np.float32)
    x[:, 4, 4] = 1
    moved = augment.moved(x, Keyed(0, 0, np.arange(50)), 2.0, 0.0)
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
