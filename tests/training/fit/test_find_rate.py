import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from registry import store
from registry.errors import DataError
from training.fit import find_rate, step
from training.task import Order, prepare

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The range test of examples/digits.toml, its picture, and the folder it lies in."""
    folder = tmp_path_factory.mktemp("digits")
    return *find_rate.find(Order(EXAMPLES / "digits.toml", folder), lambda line: None), folder


def test_the_suggestion_for_digits_is_near_the_rate_its_example_was_tuned_to(digits):
    found, _, _ = digits
    assert 3e-4 < found.peak < 3e-2  # the example says 3e-3
    assert found.peak < found.lowest_at


def test_the_rates_rise_by_one_factor_and_the_test_ends_where_the_loss_explodes(digits):
    found, _, _ = digits
    factors = np.array(found.rates[1:]) / found.rates[:-1]
    assert factors == pytest.approx(factors[0])
    assert len(found.losses) == len(found.rates) <= find_rate.STEPS
    assert found.losses[0] == pytest.approx(np.log(10), abs=0.5)  # a guess among ten digits
    assert max(found.smoothed[:-1]) <= find_rate.EXPLODED * min(found.smoothed)


def test_the_picture_is_one_svg_file_that_needs_no_other(digits):
    _, picture, folder = digits
    drawn = picture.read_text()
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in drawn and "<script" not in drawn
    assert json.loads((folder / find_rate.NUMBERS).read_text())["peak"] == digits[0].peak


def test_nothing_is_published_and_no_checkpoint_is_left(digits):
    _, _, folder = digits
    assert sorted(path.name for path in folder.iterdir()) == ["find_rate.json", "find_rate.svg"]
    assert store.releases() == []


def test_the_curve_is_the_same_each_time(digits):
    found, _, _ = digits
    task = prepare(Order(EXAMPLES / "digits.toml"))
    assert find_rate.range_test(task) == found


def test_the_average_has_no_pull_towards_zero():
    assert find_rate.smooth([2.0] * 5) == pytest.approx([2.0] * 5)
    assert find_rate.smooth([1.0, 3.0])[1] == pytest.approx((0.9 * 0.1 * 1 + 0.1 * 3) / (1 - 0.81))


def test_a_loss_that_is_never_finite_is_refused(monkeypatch, tmp_path):
    task = prepare(Order(EXAMPLES / "digits.toml", tmp_path))
    monkeypatch.setattr(step.Stepper, "step", lambda *_: (float("nan"), False))
    with pytest.raises(DataError, match="not finite at the first step"):
        find_rate.range_test(task)
