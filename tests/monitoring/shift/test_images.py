import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.shift import images


def named(x):
    return dict(zip(images.NAMES, images.measure(x.astype(np.float32)).T, strict=True))


@pytest.mark.parametrize("shape", [(6, 8, 8), (3, 28, 20), (2, 224, 224)])
def test_the_measures_of_an_image_agree_with_numpy_and_scipy(shape):
    from scipy.ndimage import laplace

    x = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    found = named(x)
    for i, image in enumerate(x.astype(np.float64)):
        expected = {
            "brightness": image.mean(), "contrast": image.std(), "sharpness": laplace(image)[1:-1, 1:-1].var(),
            "edge_x": np.abs(np.diff(image, axis=1)).mean(), "edge_y": np.abs(np.diff(image, axis=0)).mean(),
            "above_mean": (image > image.mean()).mean(),
            "centre_x": (image * np.arange(shape[2])).sum() / image.sum(),
            "centre_y": (image * np.arange(shape[1])[:, None]).sum() / image.sum(),
        }  # fmt: skip
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(value, rel=1e-4), name


def test_a_cut_off_image_is_dark_or_saturated_in_any_unit():
    x = np.random.default_rng(0).normal(100, 30, (1, 32, 32))
    for image in (x, x / 255, (x - 100) / 30):
        middle = np.median(image)
        dark, burnt = named(image.clip(middle, None)), named(image.clip(None, middle))
        assert dark["dark"][0] == burnt["saturated"][0] == pytest.approx(0.5, abs=0.01)
        assert dark["saturated"][0] == burnt["dark"][0] == pytest.approx(1 / 1024)


def test_an_image_of_one_colour_is_dark_and_saturated_and_has_finite_measures():
    for level in (0, 7, -3.5):
        found = named(np.full((2, 5, 4), level))
        assert found["dark"].tolist() == found["saturated"].tolist() == [1, 1]
        assert all(np.isfinite(values).all() for values in found.values())


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_pooling_keeps_few_blocks_and_the_mean_of_an_even_image(height, width, most):
    x = np.full((2, height, width), 3.0, np.float32)
    blocks = images.pooled(x, most)
    assert blocks.shape[1] <= most * most
    np.testing.assert_allclose(blocks, 3.0)


def test_a_small_image_is_not_pooled():
    x = np.arange(128, dtype=np.float32).reshape(2, 8, 8)
    np.testing.assert_array_equal(images.pooled(x, 8), x.reshape(2, 64))
