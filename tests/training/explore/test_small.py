"""Small images and the PNG files made of them, read back by Pillow."""

import base64
import io

import numpy as np
import pytest

from training.explore import small

pillow = pytest.importorskip("PIL.Image", reason="pip install pillow")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1), (64, 64, 3)])
def test_pillow_reads_the_same_pixels_back(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with pillow.open(io.BytesIO(small.png(image))) as read:
        assert np.array_equal(np.asarray(read), image)
    assert base64.b64decode(small.uri(image).removeprefix("data:image/png;base64,")) == small.png(image)


def test_averages_are_the_means_of_squares_and_small_images_stay_as_they_are():
    x = np.arange(2 * 6 * 4, dtype=np.uint8).reshape(2, 6, 4)
    assert np.array_equal(small.averaged(x, 8)[..., 0], x)
    assert np.array_equal(small.averaged(x, 3)[..., 0], x.reshape(2, 3, 2, 2, 2).mean(axis=(2, 4)))
    assert small.averaged(np.zeros((1, 100, 3, 3), dtype=np.uint8), 4).shape[0] == 1


def test_an_image_is_stretched_from_black_to_white():
    image = np.array([[[0.0], [8.0], [16.0], [99.0]]])
    assert small.shown(image, 0, 16).tolist() == [[0, 128, 255, 255]]
