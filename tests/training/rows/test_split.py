import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from registry.errors import DataError
from training.config import Data, Split
from training.rows import data, split


@given(st.lists(st.integers(0, 2**64 - 1), max_size=200), st.integers(0, 1000))
@settings(max_examples=50)
def test_every_row_lands_in_one_part(units, seed):
    parts = split.deal(np.array(units, dtype=np.uint64), Split(seed=seed))
    assert sorted(np.concatenate([parts.train, parts.validation, parts.test]).tolist()) == list(range(len(units)))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=100), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_a_row_keeps_its_part_when_rows_are_added_shuffled_or_copied(units, random):
    more = units + [random.getrandbits(64) for _ in range(50)] + units[:3]
    random.shuffle(more)

    def part_of(values):
        parts = split.deal(np.array(values, dtype=np.uint64), Split())
        found = {}
        for name, rows in vars(parts).items():
            for row in rows:
                assert found.setdefault(values[row], name) == name  # copies land together
        return found

    before, after = part_of(units), part_of(more)
    assert all(after[unit] == part for unit, part in before.items())


def test_the_shares_come_out_as_asked_on_real_rows(tmp_path):
    table = data.load(Data("digits"), tmp_path)
    counts = split.deal(table.unit, Split(0.5, 0.15, 0.35)).counts()
    for name, share in (("train", 0.5), ("validation", 0.15), ("test", 0.35)):
        assert counts[name] / 1797 == pytest.approx(share, abs=0.04)


def test_digits_are_split_as_they_were_when_releases_were_published(tmp_path):
    table = data.load(Data("digits", first_rows=900), tmp_path)
    assert split.deal(table.unit, Split(0.5, 0.15, 0.35)).counts() == {
        "train": 457,
        "validation": 136,
        "test": 307,
    }


def test_a_test_set_that_came_as_such_is_the_test_part_and_the_rest_is_dealt_in_proportion():
    units = np.random.default_rng(0).integers(0, 2**63, 4000, dtype=np.uint64)
    given_test = np.arange(4000) >= 3000
    parts = split.deal(units, Split(0.6, 0.2, 0.2), given_test)
    assert np.array_equal(parts.test, np.arange(3000, 4000))
    assert len(parts.train) + len(parts.validation) == 3000
    assert len(parts.train) / 3000 == pytest.approx(0.75, abs=0.03)


def test_another_seed_deals_anew():
    units = np.arange(1000, dtype=np.uint64)
    one, two = (set(split.deal(units, Split(seed=seed)).test.tolist()) for seed in (0, 1))
    assert len(one & two) < 0.5 * len(one)


def test_rows_of_one_group_stay_together(tmp_path):
    rows = "".join(f"{i},{i % 40},{i % 2}\n" for i in range(400))
    (tmp_path / "rows.csv").write_text("a,g,y\n" + rows)
    table = data.load(Data("csv", "rows.csv", target="y", group="g"), tmp_path)
    parts = split.checked(table, Split())
    groups = [set((rows % 40).tolist()) for rows in vars(parts).values()]
    assert sum(len(group) for group in groups) == 40


def test_folds_are_even_and_keep_copies_together():
    units = np.repeat(np.arange(2000, dtype=np.uint64), 2)
    fold = split.folds(units, 5, seed=0)
    assert set(fold.tolist()) == set(range(5))
    assert np.array_equal(fold[::2], fold[1::2])
    assert np.bincount(fold).min() > 600


def table_of(tmp_path, x, y):
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    return data.load(Data("npz", "rows.npz"), tmp_path)


def test_parts_too_small_to_judge_by_are_refused(tmp_path):
    x = np.arange(40.0)[:, None]
    with pytest.raises(DataError, match=r"data: \d+ validation rows of 40; at least 10 are needed"):
        split.checked(table_of(tmp_path, x, np.arange(40) % 2), Split())


def test_a_class_without_a_training_row_is_refused(tmp_path):
    x = np.arange(400.0)[:, None]
    test_row = int(split.deal(data.row_keys(x.astype(np.float32)), Split()).test[0])
    y = np.arange(400) % 2
    y[test_row] = 2
    with pytest.raises(DataError, match="no training row of class 2; at least one per class"):
        split.checked(table_of(tmp_path, x, y), Split())


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_a_number_that_never_changes_in_a_part_is_refused(tmp_path, part):
    x, y = np.arange(400.0)[:, None], np.arange(400.0)
    y[getattr(split.deal(data.row_keys(x.astype(np.float32)), Split()), part)] = 7.5
    np.savez(tmp_path / "rows.npz", x=x, y=y)
    table = data.load(Data("npz", "rows.npz"), tmp_path, "regression")
    with pytest.raises(DataError, match=rf"the target is 7.5 in all \d+ {part} rows; one that changes is needed"):
        split.checked(table, Split())


def test_label_noise_replaces_about_the_share_that_was_asked_for():
    y, key = np.arange(20_000) % 10, np.arange(20_000, dtype=np.uint64)
    noisy = split.noisy_labels(y, key, 0.5, 10)
    assert (noisy != y).mean() == pytest.approx(0.5 * 0.9, abs=0.02)  # one in ten draws the old label
    assert stats.chisquare(np.bincount(noisy[noisy != y], minlength=10)).pvalue > 1e-3
    assert np.array_equal(split.noisy_labels(y, key, 0.0, 10), y)


def test_the_halves_of_the_rows_outside_a_fold_are_as_large_as_any():
    unit = np.arange(10_000, dtype=np.uint64)
    left = unit[split.folds(unit, 2, 0) == 0]
    assert split.halves(left).mean() == pytest.approx(0.5, abs=0.03)
