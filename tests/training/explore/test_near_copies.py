"""Images that were saved anew are found across parts; images that are only alike are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from training.config import Data, Split
from training.explore import near_copies
from training.rows import data, split


def test_a_brighter_and_a_noisy_copy_are_found_with_the_image_they_were_made_of():
    table = data.load(Data("digits"), Path())
    g = np.random.default_rng(0)
    x = table.x.astype(np.int64) * 12
    brighter, noisy = x[:30] + 20, np.clip(x[30:60] + g.integers(-4, 5, x[30:60].shape), 0, 255)
    rows = np.concatenate([x, brighter, noisy]).astype(np.uint8)
    key = data.row_keys(rows)
    given = np.arange(len(rows)) >= len(x)
    copied = replace(table, x=rows, y=np.append(table.y, table.y[:60]), key=key, unit=key, given_test=given)
    found = near_copies.find(copied, split.deal(key, Split(), given))
    assert {(pair.test_row - len(x), pair.other_row) for pair in found} == {(i, i) for i in range(60)}


def test_digits_of_different_writers_are_no_copies_however_they_are_dealt():
    table = data.load(Data("digits"), Path())
    for seed in range(3):
        assert near_copies.find(table, split.deal(table.unit, Split(seed=seed))) == []


def test_blank_images_are_not_copies_of_each_other():
    x = np.zeros((40, 8, 8), dtype=np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None]
    key = data.row_keys(x)
    table = data.Table(x, np.arange(40) % 2, (), ("0", "1"), key, key, "")
    assert near_copies.find(table, split.deal(key, Split())) == []
