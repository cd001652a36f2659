"""The pictures of cross-validation and search: each number where it belongs."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import crossval, search
from training.pages import spread

DOT = re.compile(r'<circle cx="([-\d.]+)" cy="([-\d.]+)" r="([\d.]+)" fill="(#\w+)"[^>]*><title>(.*?)</title>')
FINITE = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


def dots(drawn):
    """Return (x, y, radius, colour, words) of every dot."""
    return [(float(x), float(y), float(r), colour, said) for x, y, r, colour, said in DOT.findall(drawn)]


def in_order(places, values):
    """Whether places rise wherever values do; a place is told to a tenth."""
    found = [place for _, place in sorted(zip(values, places, strict=True))]
    return bool((np.diff(found) >= -0.11).all())


@given(st.lists(FINITE, min_size=2, max_size=10), st.lists(FINITE, min_size=2, max_size=10))
def test_each_score_is_one_dot_inside_the_picture_and_a_higher_one_is_further_right(model, linear):
    found = dots(spread.folds("f1", {"model": model, "linear": linear}))
    assert len(found) == len(model) + len(linear)
    assert all(spread.LEFT - 1 <= x <= spread.WIDTH - spread.RIGHT + 1 for x, *_ in found)
    assert in_order([x for x, *_ in found], [*model, *linear])


def test_a_dot_tells_its_fold_and_the_bar_its_mean_and_deviation():
    drawn = spread.folds("accuracy", {"model": [0.9, 0.95, 1.0], "majority": [0.5, 0.5, 0.5]})
    assert [said for *_, said in dots(drawn)][:2] == ["model, fold 1: 0.9", "model, fold 2: 0.95"]
    assert "model: mean 0.95, standard deviation 0.05" in drawn


@given(st.lists(st.tuples(st.floats(1e-6, 1e3), st.none() | st.floats(1e-3, 1e5)), min_size=1, max_size=12))
def test_a_lower_loss_is_further_down_and_a_larger_value_further_right(pairs):
    tried = [(number, value, loss) for number, (value, loss) in enumerate(pairs, 1)]
    tried.append((99, 1.0, 5.0))
    found = dots(spread.trials("schedule.peak", tried))
    assert len(found) == len(tried) and all(0 <= x <= spread.WIDTH for x, *_ in found)
    assert in_order([x for x, *_ in found], [value for _, value, _ in tried])
    ended = [one for one, (*_, loss) in zip(found, tried, strict=True) if loss is None]
    assert all(y == spread.TOP and said.endswith("ended early") for _, y, _, _, said in ended)
    known = [(one, loss) for one, (*_, loss) in zip(found, tried, strict=True) if loss is not None]
    assert in_order([-one[1] for one, _ in known], [loss for _, loss in known])
    lowest = min(loss for _, loss in known)
    assert all((one[3] == spread.ORANGE) == (loss == lowest) for one, loss in known)


@pytest.mark.parametrize("values", [["adam", "<sgd>", "adam"], [True, False, True], [8, "auto", 8]])
def test_words_stand_side_by_side_with_their_names_below(values):
    drawn = spread.trials("kind", [(number, value, 0.5 + number) for number, value in enumerate(values)])
    places = [x for x, *_ in dots(drawn)]
    assert places[0] == places[2] != places[1]
    assert "<sgd>" not in drawn and ("&lt;sgd&gt;</text>" in drawn) == ("<sgd>" in values)


def test_both_pages_hold_all_numbers_and_need_nothing_from_elsewhere():
    scores = {
        "accuracy": {"model": [0.9, 0.95], "linear": [0.8, 0.85]},
        "log_loss": {"model": [0.1, 0.2], "linear": [1, 2]},
    }
    pooled = {"value": 0.925, "lower": 0.9, "upper": 0.95}
    folded = crossval.as_html(crossval.Crossval("<cars>", [40, 41], scores, pooled, "accuracy", 1.5, Path("runs/a")))
    assert folded.count("<circle") == 8 and "log loss: lower is better" in folded and "accuracy: higher is" in folded
    trials = [search.Trial(2, {"a.b": 1, "c": "x"}, 0.25, 3), search.Trial(1, {"a.b": 2, "c": "y"}, None, 1)]
    tried = search.as_html(search.Search("<cars>", trials, Path("cars.best.toml"), 1.5, Path("runs/b")))
    assert tried.count("<circle") == 4 and tried.count("<svg") == 2 and "cars.best.toml" in tried
    for page in (folded, tried):
        assert "&lt;cars&gt;" in page and "<cars>" not in page and "http" not in page and "nan" not in page.lower()
