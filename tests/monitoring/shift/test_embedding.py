import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from tiny_release import HOMES, IMAGE, rows_of

from monitoring.shift import embedding
from monitoring.shift.embedding import Embedding
from registry.release import InputSpec

KINDS = {
    "image": (IMAGE, 10), "colour": (InputSpec("uint8", (3, 40, 32)), 3), "table": (HOMES, 0),
    "vector": (InputSpec("float32", (700,)), 2), "many classes": (InputSpec("float32", (4,)), 120),
}  # fmt: skip


def answers(rows, classes, seed=0):
    generator = np.random.default_rng(seed)
    if not classes:
        return generator.standard_normal((rows, 1)).astype(np.float32)
    return generator.dirichlet(np.ones(classes), rows).astype(np.float32)


def pair(rows, correlation, seed):
    """Return rows of two columns that are each normal, whatever the correlation, and one answer for all."""
    generator = np.random.default_rng(seed)
    a, b = generator.standard_normal((2, rows))
    x = np.column_stack([a, correlation * a + np.sqrt(1 - correlation**2) * b]).astype(np.float32)
    return x, np.full((rows, 1), 0.5, np.float32)


def z(fitted, reference_rows, inputs, outputs):
    return fitted.z(fitted.sums(inputs, outputs), len(inputs), reference_rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_components_are_white_on_the_reference_and_never_below_zero(kind):
    spec, classes = KINDS[kind]
    x, p = rows_of(spec, 1000), answers(1000, classes)
    fitted = embedding.fit(x, p)
    found = fitted.components(x, p)
    assert found.dtype == np.float32 and found.shape[0] == 1000 and (found >= 0).all()
    _, judged = embedding.dealt(1000, np.random.default_rng(0))
    found = found[judged]
    assert len(judged) == 750
    np.testing.assert_allclose(found.mean(axis=0), fitted.centres, atol=1e-3)
    np.testing.assert_allclose(np.cov(found.T), np.eye(found.shape[1]), atol=1e-2)
    wild = rows_of(spec, 50, seed=9) if spec.dtype == "uint8" else np.full((50, *spec.shape), 1e30, np.float32)
    assert (fitted.components(wild, p[:50]) >= 0).all()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_the_sums_of_parts_add_up_to_those_of_the_whole(sizes):
    x, p = rows_of(IMAGE, sum(sizes)), answers(sum(sizes), 10)
    edges = np.cumsum(sizes)[:-1]
    parts = [FITTED.sums(*part) for part in zip(np.split(x, edges), np.split(p, edges), strict=True)]
    np.testing.assert_allclose(np.sum(parts, axis=0), FITTED.sums(x, p), rtol=1e-6)
    np.testing.assert_allclose(FITTED.sums(x, p), FITTED.components(x, p).sum(axis=0), rtol=1e-5)


FITTED = embedding.fit(rows_of(IMAGE, 300), answers(300, 10))
FITTED_PAIR = embedding.fit(*pair(1000, 0.5, seed=0))


def test_the_score_is_hotellings_t2_made_normal():
    from scipy.stats import f, norm

    m, k = 300 * embedding.JUDGED, len(FITTED.centres)
    for scale, rows in ((0.2, 100), (0.3, 50), (0.1, 3000)):
        gap = np.random.default_rng(rows).standard_normal(k) * scale
        t2 = rows * m / (rows + m) * (gap**2).sum()
        expected = norm.isf(f.sf(t2 * (m - k) / (k * (m - 1)), k, m - k))
        assert FITTED.z((np.array(FITTED.centres) + gap) * rows, rows, 300) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("reference_rows", [400, 2000])
@pytest.mark.parametrize("rows", [20, 200, 1000])
def test_without_drift_the_score_exceeds_a_limit_as_often_as_a_normal_one(reference_rows, rows):
    # Over many references: the share of one alone hangs on what it happens to hold.
    over = []
    for seed in range(60):
        fitted = embedding.fit(*pair(reference_rows, 0.5, seed))
        over += [z(fitted, reference_rows, *pair(rows, 0.5, 1000 + 20 * seed + i)) > 1.645 for i in range(20)]
    assert 0.025 < np.mean(over) < 0.085


def test_a_small_reference_of_images_does_not_make_clean_rows_look_strange():
    # Strokes reach pixels that 300 images leave blank: waves laid by all of those would find each new one far away.
    digits = load_digits()
    images, classes = (digits.images / 16).astype(np.float32), np.eye(10, dtype=np.float32)[digits.target]
    scores = []
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(len(images))
        known, new = order[:300], order[300:1300]
        fitted = embedding.fit(images[known], classes[known])
        scores.append(z(fitted, 300, images[new], classes[new]))
    assert abs(np.mean(scores)) < 0.8


def test_it_sees_that_columns_no_longer_go_together_where_each_alone_is_as_before():
    fitted = embedding.fit(*pair(1000, 0.8, seed=0))
    assert z(fitted, 1000, *pair(200, 0.8, seed=1)) < 3
    assert z(fitted, 1000, *pair(200, -0.8, seed=2)) > 8


def test_one_broken_value_moves_a_window_by_one_row_at_most():
    x, p = pair(1000, 0.8, seed=0)
    fitted = embedding.fit(x, p)
    window, same = pair(200, 0.8, seed=1)
    before = fitted.sums(window, same)
    window[0, 0] = 3e38
    assert np.abs(fitted.sums(window, same) - before).max() <= 2 * max(fitted.centres)
    assert z(fitted, 1000, window, same) < 3


def test_poisoned_reference_rows_do_not_hide_a_shift():
    x, p = pair(2000, 0.8, seed=0)
    x[:100, 0] = 1e9
    fitted = embedding.fit(x, p)
    moved, same = pair(500, 0.8, seed=1)
    assert z(fitted, 2000, moved + np.float32(0.5), same) > 5


def test_the_size_of_a_shift_is_its_squared_distance_and_near_zero_without_one():
    centres = np.array(FITTED.centres)
    gap = np.zeros(len(centres))
    gap[0] = 0.5
    assert FITTED.size((centres + gap) * 1e6, 1e6, 10**6) == pytest.approx(0.25, abs=1e-4)
    sizes = [FITTED_PAIR.size(FITTED_PAIR.sums(*pair(300, 0.5, seed)), 300, 1000) for seed in range(1, 100)]
    assert abs(np.mean(sizes)) < 0.01


def test_few_reference_rows_make_few_components_and_rows_that_are_all_alike_none():
    x, p = rows_of(IMAGE, 240), answers(240, 10)
    assert 1 <= len(embedding.fit(x, p).centres) <= 12
    assert embedding.fit(np.repeat(x[:1], 240, axis=0), np.repeat(p[:1], 240, axis=0)) is None
    assert embedding.fit(x[:199], p[:199]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_it_survives_json_and_stays_small(kind):
    spec, classes = KINDS[kind]
    fitted = embedding.fit(rows_of(spec, 500), answers(500, classes))
    text = json.dumps(asdict(fitted))
    assert Embedding.from_json(json.loads(text)) == fitted
    assert len(text) < 100_000


def test_the_same_rows_give_the_same_embedding():
    x, p = rows_of(HOMES, 300), answers(300, 0)
    assert embedding.fit(x, p) == embedding.fit(x, p)


@settings(max_examples=25)
@given(
    st.sampled_from([(4,), (300,), (9, 9)]),
    st.sampled_from([1e-45, 1e-44, 1e-38, 1e-30, 1.0, 1e30, 1e37, 1e38]),
    st.sampled_from([0.0, 1e-44, 1e30, -1e38, 2e38]),
    st.booleans(),
)
def test_numbers_at_either_end_of_float32_are_embedded_without_a_warning(shape, spread, middle, one):
    x = np.random.default_rng(0).standard_normal((400, *shape))
    wide = np.where(np.arange(shape[-1]) == 0, spread, 1.0) if one else spread  # one column of many, or all
    at = np.where(np.arange(shape[-1]) == 0, middle, 0.0) if one else middle
    x = (x * wide + at).clip(-3.4e38, 3.4e38).astype(np.float32)
    fitted = embedding.fit(x, answers(400, 2))
    if fitted is None:
        return
    assert fitted.low >= (-3.4e38,) * len(fitted.low) and np.abs(fitted.high).max() <= 3.4e38
    worst = np.full((50, *shape), np.finfo(np.float32).max, np.float32)
    for rows in (x, worst, -worst, 0 * worst, worst * 1e-45):
        p = answers(len(rows), 2)
        found = fitted.components(rows, p)
        assert np.isfinite(found).all() and (found >= 0).all()
        assert math.isfinite(z(fitted, 400, rows, p))


@pytest.mark.parametrize("spread", [1e-44, 1e38])
def test_a_shift_is_seen_beside_a_column_at_the_end_of_float32(spread):
    x, p = pair(1000, 0.8, seed=0)
    other = (np.random.default_rng(1).standard_normal((1000, 1)) * spread).clip(-3e38, 3e38).astype(np.float32)
    fitted = embedding.fit(np.concatenate([x, other], axis=1), p)
    moved, _ = pair(1000, -0.8, seed=1)
    assert z(fitted, 1000, np.concatenate([moved, other], axis=1), p) > 10
