import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_release import TABLE

from monitoring.shift import drift, embedding, reference
from monitoring.shift.reference import ReferenceSettings
from monitoring.shift.signals import Binner, compute


def table(rows, seed=0, shift=0.0):
    generator = np.random.default_rng(seed)
    x = (generator.standard_normal((rows, 3)) + shift).astype(np.float32)
    return x, generator.dirichlet(np.ones(3), rows).astype(np.float32)


@pytest.fixture(scope="module")
def made():
    return replace(reference.build(ReferenceSettings(), reference.HeldOut(TABLE, *table(2000, seed=2))), embedding=None)


def window(made, rows, seed=3, shift=0.0):
    return drift.window_of(made, TABLE, *table(rows, seed, shift))


def test_a_reference_of_an_older_release_has_neither_embedding_nor_estimation(made):
    said = json.loads(made.to_json())
    del said["embedding"], said["estimation"]
    old = reference.parse(json.dumps(said).encode())
    assert old == made and old.embedding is None and old.estimation is None


def test_a_window_counts_what_the_service_counts(made):
    x, p = table(300, seed=5)
    found = drift.window_of(made, TABLE, x, p)
    np.testing.assert_array_equal(found.counts, Binner(made.bins).count(compute(TABLE, x, p)))
    assert found.rows == 300 and found.sums is None


def test_the_scores_are_the_z_of_the_rules(made):
    found = window(made, 300)
    expected = reference.z_scores(found.counts, made.padded_shares() * made.rows)
    assert list(drift.scores(made, found).values()) == expected.tolist()
    assert list(drift.scores(made, found)) == [bins.name for bins in made.bins]


def test_an_embedding_is_one_more_signal(made):
    seen = replace(made, embedding=embedding.fit(*table(2000, seed=2)))
    usual, moved = (drift.window_of(seen, TABLE, *table(300, 3, shift)) for shift in (0.0, 1.0))
    assert usual.sums.shape == (len(seen.embedding.centres),)
    assert drift.scores(seen, usual)["embedding"] < 3 < drift.scores(seen, moved)["embedding"]
    assert "embedding" in {found.signal for found in drift.judge(seen, moved, "short")}


@pytest.mark.parametrize("length", ["short", "medium", "long"])
def test_the_judge_wants_both_keys_and_enough_rows(made, length):
    moved = window(made, 300, shift=1.0)
    found = drift.judge(made, moved, length)
    assert {f.signal for f in found} == {"age", "height", "weight"}
    assert [f.z for f in found] == sorted((f.z for f in found), reverse=True)
    assert drift.judge(replace(made, psi_floor=9.0), moved, length) == []
    assert drift.judge(replace(made, min_rows=301), moved, length) == []
    assert drift.judge(made, window(made, 300), length) == []


def test_nothing_is_said_of_no_rows(made):
    empty = drift.window_of(made, TABLE, *table(0))
    assert drift.scores(made, empty) == {}
    assert drift.judge(made, empty, "short") == drift.alarms(made, empty, 0.05) == []


def test_a_class_that_no_longer_comes_is_named(made):
    x, p = table(2000, seed=9)
    kept = p.argmax(axis=1) != 0
    found = drift.alarms(made, drift.window_of(made, TABLE, x[kept][:60], p[kept][:60]), 0.05)
    named = {finding.signal: finding for finding in found}
    assert named["class 0 missing"].psi == 1 and named["class 0 missing"].z > named["class 0 missing"].limit
    called = replace(made, classes=("low", "middle", "high", ""))
    longer = drift.window_of(made, TABLE, x[kept][:200], p[kept][:200])
    assert "class low missing" in {finding.signal for finding in drift.judge(called, longer, "medium")}


def test_a_half_of_a_class_is_missed_before_its_chi_square_is_over_its_limit(made):
    x, p = table(4000, seed=9)
    kept = (p.argmax(axis=1) != 0) | (np.arange(4000) % 2 == 0)
    found = [
        {f.signal for f in drift.alarms(made, drift.window_of(made, TABLE, x[kept][k:][:80], p[kept][k:][:80]), 0.05)}
        for k in range(0, 2400, 80)
    ]
    assert sum("class 0 missing" in names for names in found) > sum("predicted_class" in names for names in found)


def test_what_the_missing_class_may_alarm_is_taken_from_the_others(made):
    moved = window(made, 200, shift=1.0)
    _, used = drift.missing.limit(made.shares[-1], 200, made.rows, 0.05 * drift.missing.SHARE)
    assert 0 < used <= 0.03
    limits = {f.signal: f.limit for f in drift.alarms(made, moved, 0.05)}
    expected = dict(zip((bins.name for bins in made.bins), made.nulls.limits(200, 0.05 - used), strict=False))
    assert limits["age"] == pytest.approx(expected["age"])
