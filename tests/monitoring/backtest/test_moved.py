"""Many windows at once against the definition: what `drift.judge` and `drift.unlike` say of each."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_release import TABLE, make_draft, make_files, rows_of

from monitoring.backtest import counted
from monitoring.backtest.counted import Batch
from monitoring.backtest.moved import Lift, moved, unlike
from monitoring.backtest.stack import BLOCK_CELLS, Stack, Stacking, blocks
from monitoring.log.opened import opened
from monitoring.shift import drift, missing
from monitoring.shift.drift import OUTSIDE, Unrest
from monitoring.shift.signals import EMBEDDING
from registry import store
from tests.monitoring.recorded import T0_S, answers, times

SIZES = (40, 120, 400, 1500)
LENGTHS = ("short", "medium", "long")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        yield opened(store.publish(make_draft(spec=TABLE), make_files(folder / "files", TABLE, rows=2000)).tag)


@pytest.fixture(scope="module")
def windows(known):
    """Windows of traffic as it was, moved a little and far, of fewer classes, with rows outside, and without sums."""
    made, generator, spec = [], np.random.default_rng(0), known.release.manifest.input
    for number in range(60):
        rows = rows_of(TABLE, SIZES[number % 4], seed=number + 10)
        rows[:, 1] += (0.0, 0.02, 0.1, 0.5, 0.0)[number % 5]
        rows[generator.random(len(rows)) < 0.05 * (number % 3), 0] = 1e6
        outputs = answers(known.release, rows)
        kept = outputs.argmax(axis=1) != (0 if number % 7 == 0 else -1)
        one = drift.window_of(known.reference, spec, rows[kept], outputs[kept])
        made.append(replace(one, sums=None) if number % 11 == 0 else one)
    return made


def stacked(windows, components):
    sums = [np.full(components, np.nan) if one.sums is None else one.sums for one in windows]
    rows, yes = np.array([one.rows for one in windows]), np.ones(len(windows), bool)
    counts = np.array([one.counts for one in windows])
    return Stack(yes, counts, np.array(sums), rows, yes, np.zeros((len(windows), 0)))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("restless", [False, True])
def test_many_windows_move_as_each_of_them_does(known, windows, length, restless):
    reference, count = known.reference, len(known.reference.bins) + 1
    unrest = [None] * len(windows)
    if restless:  # of which the embedding's is not always known
        drawn = np.random.default_rng(1).uniform(0.0, 2.0, (2, len(windows), count))
        unrest = [Unrest(*(part[i, : count - i % 2] for part in drawn)) if i % 5 else None for i in range(len(windows))]
    found = moved(reference, stacked(windows, len(reference.embedding.centres)), length, Lift.of(reference, unrest))
    names = set()
    for one, single, told in zip(windows, unrest, found, strict=True):
        enough = one.rows >= reference.min_rows
        said = drift.judge(reference, replace(one, unrest=single), length) if enough else []
        assert told == pytest.approx({finding.signal: finding.z for finding in said}, rel=1e-9)
        names |= told.keys()
    assert any(name.endswith(OUTSIDE) for name in names) and any(name.endswith(missing.GONE) for name in names)
    assert EMBEDDING in names and any(not told for told in found)


def test_neighbours_are_as_unlike_as_each_pair_is(known, windows):
    components = len(known.reference.embedding.centres)
    empty = drift.Window(np.zeros_like(windows[0].counts), np.zeros(components), 0)
    earlier, later = [*windows[:30], empty, windows[1]], [*windows[30:], windows[1], empty]
    found = unlike(known.reference, stacked(earlier, components), stacked(later, components))
    for z, *pair in zip(found, earlier, later, strict=True):
        if not all(one.rows for one in pair):
            assert np.isnan(z).all()
            continue
        said = drift.unlike(known.reference, *pair)
        assert z[: len(said)] == pytest.approx(said, rel=1e-9, nan_ok=True) and np.isnan(z[len(said) :]).all()


def test_stacked_windows_hold_the_last_buckets_and_no_other(known):
    rows, at = rows_of(TABLE, 900, seed=2), np.sort(np.random.default_rng(2).choice(times(5000, 8), 900))
    found = counted.count(Batch(known.release.version, at, rows, answers(known.release, rows)), known, 60)
    embedded = np.where(np.arange(len(found.rows)) == 100, 0, found.rows)  # a bucket that a policy hid something of
    found = replace(found, embedded=embedded)
    steps = np.unique(np.random.default_rng(3).integers(int(T0_S // 60) - 20, int(T0_S // 60) + 560, 300))
    stacking, before = Stacking(found, 7), (0, 0)
    for some in np.array_split(steps, 9):
        stack = stacking.over(some)
        for place, step in enumerate(some.tolist()):
            inside = (found.buckets >= step - 7) & (found.buckets < step)
            assert np.array_equal(stack.counts[place], found.counts[inside].sum(axis=0)), step
            assert stack.rows[place] == found.rows[inside].sum()
            assert stack.estimated[place] == pytest.approx(found.estimated[inside].sum(axis=0), abs=1e-9)
            assert stack.whole[place] == (100 not in np.flatnonzero(inside)) == (not np.isnan(stack.sums[place]).any())
            now = tuple(np.searchsorted(found.buckets, (step - 7, step)).tolist())
            assert stack.changed[place] == (now != before), step
            before = now


def test_blocks_are_all_steps_in_order_and_small(known):
    rows = rows_of(TABLE, 10, seed=2)
    found = counted.count(Batch(known.release.version, times(10, 1), rows, answers(known.release, rows)), known, 60)
    parts, steps = list(blocks(np.arange(5000), found)), np.arange(5000)
    assert np.array_equal(np.concatenate(parts), steps) and len(parts) > 1
    assert len(parts[0]) * found.counts[0].size <= BLOCK_CELLS
