import numpy as np
import pytest

from benchmarks import shifts
from benchmarks.shifts import CLEAN, FAMILIES, Classifier, Family, Warp

STILL = Warp(0, 0, 0, 0)


def blobs(rows, seed=0):
    """Return images of two classes, lit at the top or at the bottom, and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, rows)
    images = generator.integers(0, 60, (rows, 9, 9))
    images[labels == 0, :3] += 150
    images[labels == 1, 6:] += 150
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def learned():
    return Classifier(2, hidden=16).fit(*blobs(600), epochs=8)


def test_the_classifier_learns_and_an_attack_of_small_steps_makes_every_row_less_sure(learned):
    images, labels = blobs(300, seed=1)
    before = learned.probabilities(images)
    assert (before.argmax(axis=1) == labels).all()
    attacked = learned.attacked(images, labels)
    assert np.abs(attacked.astype(float) - images).max() <= shifts.EPSILON * images.max() + 1
    after = learned.probabilities(attacked)
    assert (after[np.arange(300), labels] < before[np.arange(300), labels]).mean() > 0.99


def test_a_gradient_of_the_classifier_is_that_of_finite_differences(learned):
    images, labels = blobs(5, seed=2)
    x = learned._flat(images).astype(np.float64)
    gradients = learned._gradients(x, labels)
    loss = lambda: -np.log(learned._forward(x)[1][np.arange(5), labels]).mean()  # noqa: E731
    for weights, gradient in zip(learned._weights, gradients, strict=True):
        place = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        usual = weights[place].copy()
        weights[place] = usual + 1e-2
        above = loss()
        weights[place] = usual - 1e-2
        slope = (above - loss()) / 2e-2
        weights[place] = usual
        assert slope == pytest.approx(gradient[place], rel=0.05)


def test_noise_has_the_stated_deviation():
    images = np.full((200, 12, 12), 120, np.uint8)
    images[0] = 255
    shown = shifts.looks(images, np.zeros(200, int), Classifier(2, 8).fit(images, np.arange(200) % 2, 1))
    for name, deviation in (("noise_small", 1), ("noise_medium", 10)):
        assert shown[name][1:].std() == pytest.approx(np.sqrt(deviation**2 + 1 / 12), rel=0.02)


def test_a_warp_of_nothing_changes_nothing_and_a_flip_mirrors_half_of_the_images():
    images, _ = blobs(50)
    np.testing.assert_array_equal(shifts.warped(images, STILL, np.random.default_rng(0)), images)
    flipped = shifts.warped(images, Warp(0, 0, 0, 0, flip_x=True), np.random.default_rng(0))
    kept = (flipped == images).all(axis=(1, 2))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2))
    assert (kept | mirrored).all() and 10 < mirrored.sum() < 40


def test_rotation_agrees_with_scipy():
    from scipy.ndimage import rotate

    image = np.random.default_rng(0).random((1, 15, 15)).astype(np.float64)
    matrix, move = shifts._transforms(Warp(30, 0, 0, 0), 1, (15, 15), np.random.default_rng(3))
    degrees = np.degrees(np.arctan2(matrix[0, 1, 0], matrix[0, 0, 0]))
    ours = shifts.warped(image, Warp(30, 0, 0, 0), np.random.default_rng(3))
    theirs = rotate(image[0], -degrees, reshape=False, order=1, mode="nearest")
    assert abs(degrees) > 5 and move[0].tolist() == [0, 0]
    np.testing.assert_allclose(ours[0, 3:-3, 3:-3], theirs[3:-3, 3:-3], atol=1e-6)


def test_the_families_are_the_ten_of_the_paper():
    assert len(FAMILIES) == len({family.name for family in FAMILIES}) == 10


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("share", shifts.SHARES)
def test_a_window_holds_the_rows_and_the_classes_that_its_family_says(family: Family, share):
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    kept, moved = shifts.draw(family, share, labels, 400, np.random.default_rng(1))
    assert len(kept) + len(moved) == 400
    part = share if family.look_share is None else family.look_share
    assert len(moved) == (0 if family.look == CLEAN else round(400 * part))
    first = (labels[np.concatenate([kept, moved])] == 0).mean()
    usual = (labels == 0).mean()
    if family.only_first:
        assert first == 1
    elif family.knock_out:
        left = usual * (1 - share)
        assert first == pytest.approx(left / (1 - usual * share), abs=0.05) and (share < 1 or first == 0)
    else:
        assert first == pytest.approx(usual, abs=0.06)
