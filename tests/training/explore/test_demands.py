"""What training demands of its data, on real rows with planted faults and on rows without any."""

import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeClassifier

from registry.errors import DataError
from training.config import Config, Data, Explore, Split
from training.explore import demands, duplicates, leakage
from training.rows import data, split

HERE = Path()


def demand(table, parts=None, **settings):
    config = Config("rows", explore=Explore(**settings))
    return demands.demand(table, split.checked(table, Split()) if parts is None else parts, config)


def table_of(x, y, names=(), group=None, given_test=None, regression=False):
    """Return a Table of rows that were made here; group: whole numbers."""
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    names = names or tuple(f"x{c}" for c in range(x.shape[1] if x.ndim == 2 else 0))
    classes = () if regression else tuple(str(c) for c in range(int(y.max()) + 1))
    key = data.row_keys(x)
    unit = key if group is None else data.row_keys(np.float32(group)[:, None])
    return data.Table(x, y, tuple(names), classes, key, unit, "", given_test=given_test)


@pytest.fixture(scope="module")
def digits():
    return data.load(Data("digits"), HERE)


@pytest.fixture(scope="module")
def copied():
    """Breast cancer rows in 100 groups, 40 rows of which are repeated in another group."""
    bunch = load_breast_cancer()
    x, y = np.concatenate([bunch.data, bunch.data[:40]]), np.concatenate([bunch.target, bunch.target[:40]])
    return table_of(x, y, group=np.append(np.arange(569) % 100, np.arange(100, 140)))


@pytest.mark.parametrize("source", ["digits", "breast_cancer"])
def test_honest_data_passes_untouched(source):
    table = data.load(Data(source), HERE)
    parts = split.checked(table, Split())
    done = demand(table, parts)
    assert done.parts is parts
    assert done.facts == {"rows_in_two_parts": 0, "rows_dropped": 0, "leaks": {}, "overrides": []}


def test_rows_copied_across_groups_stop_a_run_with_two_of_them_named(copied):
    with pytest.raises(DataError) as caught:
        demand(copied)
    said = str(caught.value)
    first, second = map(
        int, re.search(r"value by value: row (\d+) \(from 0\) and row (\d+) \(from 0\);", said).groups()
    )
    assert np.array_equal(copied.x[first], copied.x[second]) and abs(first - second) == 569
    assert "of training or validation stand in a later part too" in said
    assert 'Set [explore] duplicates = "drop"' in said


def test_dropping_leaves_no_content_in_two_parts_and_every_test_row(copied):
    parts = split.checked(copied, Split())
    done = demand(copied, duplicates="drop")
    contents = [set(copied.key[rows].tolist()) for rows in vars(done.parts).values()]
    assert not contents[0] & contents[1] and not contents[0] & contents[2] and not contents[1] & contents[2]
    assert np.array_equal(done.parts.test, parts.test)
    lost = sum(parts.counts().values()) - sum(done.parts.counts().values())
    assert done.facts["rows_dropped"] == lost > 0
    assert "they are dropped there" in done.facts["overrides"][0]


def test_allowed_copies_stay_and_are_recorded(copied):
    parts = split.checked(copied, Split())
    done = demand(copied, duplicates="allow")
    assert done.parts.counts() == parts.counts()
    assert done.facts["rows_in_two_parts"] > 0 == done.facts["rows_dropped"]
    assert "allowed by explore.duplicates" in done.facts["overrides"][0]


def test_a_given_test_set_that_repeats_training_rows_is_found():
    bunch = load_digits()
    x, y = bunch.images.astype(np.uint8), bunch.target
    given = np.arange(len(x) + 5) >= len(x)
    table = table_of(np.concatenate([x, x[:5]]), np.concatenate([y, y[:5]]), given_test=given)
    parts = split.deal(table.unit, Split(), table.given_test)
    with pytest.raises(DataError, match="5 rows of training or validation stand in a later part"):
        demand(table, parts)


def test_a_drop_that_leaves_too_few_rows_is_refused():
    x = np.arange(120.0)[:, None] % 60
    table = table_of(x, np.arange(120) % 2, given_test=np.arange(120) >= 60)
    with pytest.raises(DataError, match="0 train rows"):
        demand(table, split.deal(table.unit, Split(), table.given_test), duplicates="drop")


@pytest.mark.parametrize(
    "leak",
    [
        lambda y, g: y,
        lambda y, g: 7.0 - 3 * y,
        lambda y, g: y + g.normal(0, 0.1, len(y)),
        lambda y, g: np.where(y == 1, g.choice([-2, 2], len(y)), 0) + g.normal(0, 0.2, len(y)),
        lambda y, g: np.where(g.random(len(y)) < 0.003, 1 - y, y),
    ],
)
def test_a_column_written_with_the_answer_in_view_stops_a_run(leak):
    bunch = load_breast_cancer()
    x = np.column_stack([bunch.data, leak(bunch.target, np.random.default_rng(0))])
    table = table_of(x, bunch.target, names=(*bunch.feature_names, "closed_on"))
    with pytest.raises(DataError, match="gives the target away: 'closed_on' \\(balanced accuracy (0.99|1.00)"):
        demand(table)
    done = demand(table, leakage="allow")
    assert list(done.facts["leaks"]) == ["'closed_on'"] and "allowed by explore.leakage" in done.facts["overrides"][0]


@pytest.mark.parametrize("leak", [lambda y: 3 - y / 7, lambda y: np.exp(y / 30), lambda y: (y - 150) * 1.02])
def test_a_copy_of_a_regression_target_stops_a_run(leak):
    bunch = load_diabetes()
    table = table_of(np.column_stack([bunch.data, leak(bunch.target)]), bunch.target, regression=True)
    with pytest.raises(DataError, match="'x10' \\(R2 (0.99|1.00)"):
        demand(table)
    clean = table_of(bunch.data, bunch.target, regression=True)
    assert demand(clean).facts["leaks"] == {}


def test_a_pixel_that_holds_the_label_stops_a_run(digits):
    marked = digits.x.copy()
    marked[:, 0, 7] = digits.y * 20
    with pytest.raises(DataError, match=r"value at \(0, 7\) of the image \(balanced accuracy 1.000\)"):
        demand(table_of(marked, digits.y))


def test_the_score_of_a_column_is_near_that_of_a_small_decision_tree_of_scikit_learn():
    bunch = load_breast_cancer()
    table = table_of(bunch.data, bunch.target)
    tree = DecisionTreeClassifier(max_leaf_nodes=4, class_weight="balanced", random_state=0)
    expected = [
        cross_val_score(tree, bunch.data[:, [c]], bunch.target, scoring="balanced_accuracy").mean() for c in range(30)
    ]
    assert np.abs(leakage.scores(table, np.arange(569)) - expected).max() < 0.06


def test_copies_are_those_that_a_comparison_of_all_pairs_finds():
    g = np.random.default_rng(0)
    x = g.integers(0, 9, (300, 2)).astype(np.float32)
    order = g.permutation(300)
    parts = split.Parts(*(np.sort(order[a:b]) for a, b in ((0, 150), (150, 220), (220, 300))))
    copies = duplicates.find(data.row_keys(x), parts)
    equal = (x[:, None] == x[None]).all(axis=2)
    part = duplicates.part_of(300, parts)
    earlier = np.arange(300)[None] < np.arange(300)[:, None]
    assert np.array_equal(copies.crossing, (equal & (part[:, None] != part[None])).any(axis=1))
    assert np.array_equal(copies.spare, (equal & (part[:, None] < part[None])).any(axis=1))
    assert np.array_equal(copies.repeated, (equal & (part[:, None] == part[None]) & earlier).any(axis=1))
    y = g.integers(0, 2, 300)
    differing = (equal & (y[:, None] != y[None])).any(axis=1)
    assert np.array_equal(duplicates.contradictions(copies, y), np.flatnonzero(differing))
    for a, b in duplicates.pairs(copies, 20):
        assert equal[a, b] and part[a] < part[b]


def test_columns_of_chance_are_never_taken_for_a_leak_also_with_few_rows_and_rare_classes():
    for seed in range(8):
        g = np.random.default_rng(seed)
        y = np.where(g.random(400) < 0.05, 1, 0)
        y[:40] = 2
        table = table_of(g.normal(size=(400, 200)), y)
        scores = leakage.scores(table, np.arange(400))
        assert np.nanmax(scores, initial=0) < 0.9


def test_a_thousand_classes_take_little_memory_and_score_as_column_by_column():
    drawn = np.random.default_rng(0)
    x, y = drawn.normal(size=(20_000, 20)).astype(np.float32), drawn.integers(0, 1000, 20_000)
    half = drawn.integers(0, 2, 20_000)
    tracemalloc.start()
    found = leakage.of_columns(x, y, half, 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20
    assert np.array_equal(
        found, np.concatenate([leakage.of_columns(x[:, c : c + 1], y, half, 1000) for c in range(20)])
    )


def test_a_target_that_never_changes_in_one_half_gives_no_score():
    y = np.append(np.zeros(50), np.arange(50.0))
    found = leakage.of_columns(np.arange(200.0, dtype=np.float32).reshape(100, 2), y, np.repeat([0, 1], 50), 0)
    assert np.isnan(found).all()
