"""Wrong labels that were planted are among the hints; data that cannot be known raise none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from training.config import Data
from training.explore import label_hints
from training.rows import data


def flipped(table, share, seed=0):
    """Return the table with this share of its labels moved to another class, and which rows they are."""
    g = np.random.default_rng(seed)
    wrong = np.zeros(len(table.y), dtype=bool)
    wrong[g.choice(len(table.y), round(share * len(table.y)), replace=False)] = True
    classes = len(table.classes)
    return replace(table, y=np.where(wrong, (table.y + g.integers(1, classes, len(table.y))) % classes, table.y)), wrong


@pytest.fixture(scope="module")
def digits():
    return data.load(Data("digits"), Path())


def test_nine_in_ten_flipped_labels_of_the_digits_are_hinted_at_and_nine_in_ten_hints_are_right(digits):
    table, wrong = flipped(digits, 0.05)
    found = label_hints.find(table, most=1000)
    rows = np.array([hint.row for hint in found.listed])
    assert found.judged and found.count == len(rows)
    assert wrong[rows].sum() >= 0.9 * wrong.sum()
    assert wrong[rows].mean() >= 0.9
    told = [hint.said == digits.classes[digits.y[hint.row]] for hint in found.listed if wrong[hint.row]]
    assert np.mean(told) >= 0.9


def test_the_surest_hints_come_first_and_are_wrong_labels(digits):
    table, wrong = flipped(digits, 0.05, seed=1)
    first = [hint.row for hint in label_hints.find(table).listed[:20]]
    assert wrong[first].all()


@pytest.mark.parametrize("source", ["digits", "breast_cancer"])
def test_sound_data_have_hardly_any_hint(source):
    found = label_hints.find(data.load(Data(source), Path()))
    assert found.judged and found.count <= 0.005 * found.rows


def test_flipped_labels_of_a_table_are_hinted_at():
    table, wrong = flipped(data.load(Data("breast_cancer"), Path()), 0.05)
    rows = [hint.row for hint in label_hints.find(table).listed]
    assert wrong[rows].mean() >= 0.8 and wrong[rows].sum() >= 0.6 * wrong.sum()


def test_a_column_that_was_written_with_the_label_in_view_hides_nothing_if_it_is_left_out():
    table, wrong = flipped(data.load(Data("breast_cancer"), Path()), 0.05)
    leaky = replace(table, x=np.column_stack([table.x, table.y]).astype(np.float32), names=(*table.names, "leak"))
    assert label_hints.find(leaky).count <= 2
    assert label_hints.find(leaky, {30}) == label_hints.find(table)


@pytest.mark.parametrize("signal", [0.0, 0.5])
def test_a_model_that_knows_too_little_is_asked_nothing(signal):
    g = np.random.default_rng(0)
    x = g.normal(size=(2000, 10)).astype(np.float32)
    y = (signal * x[:, 0] + g.normal(size=2000) > 0).astype(np.int64)
    table = data.Table(x, y, tuple("abcdefghij"), ("0", "1"), data.row_keys(x), data.row_keys(x), "")
    found = label_hints.find(table)
    assert not found.judged and found.count == 0


def test_a_frequent_class_alone_is_no_knowledge():
    g = np.random.default_rng(0)
    x = g.normal(size=(2000, 4)).astype(np.float32)
    y = (g.random(2000) < 0.05).astype(np.int64)
    table = data.Table(x, y, tuple("abcd"), ("0", "1"), data.row_keys(x), data.row_keys(x), "")
    assert not label_hints.find(table).judged


def test_disagreements_are_said_with_half_the_probability_and_deny_the_label():
    p = np.array([[0.9, 0.1], [0.08, 0.92], [0.05, 0.95], [0.3, 0.7], [0.6, 0.4], [0.1, 0.9]])
    y = np.array([0, 0, 0, 1, 1, 0])
    rows, other = label_hints.disagreements(p, y)
    assert rows.tolist() == [2, 1, 5] and other.tolist() == [1, 1, 1]


def test_a_class_that_is_never_sure_may_be_said_with_its_usual_probability():
    p = np.array([[0.45, 0.45, 0.1], [0.5, 0.4, 0.1], [0.44, 0.5, 0.06], [0.46, 0.46, 0.08]])
    rows, other = label_hints.disagreements(p, np.array([0, 1, 2, 2]))  # usual: 0.45, 0.4, 0.07
    assert rows.tolist() == [2, 3] and other.tolist() == [1, 0]


def test_a_target_with_a_slip_of_the_decimal_point_is_the_first_hint_of_a_regression():
    bunch = load_diabetes()
    x, y = bunch.data.astype(np.float32), bunch.target.copy()
    y[17] *= 10
    table = data.Table(x, y, tuple(bunch.feature_names), (), data.row_keys(x), data.row_keys(x), "")
    found = label_hints.find(table)
    assert found.listed[0].row == 17 and found.count <= 3
    clean = replace(table, y=bunch.target)
    assert label_hints.find(clean).count == 0
