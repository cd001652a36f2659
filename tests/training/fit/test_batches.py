import threading

import numpy as np
import pytest
import torch

from training.config import Augment, Config, Loop
from training.fit import augment, batches
from training.fit.distributed import World
from training.rows.data import moments

generator = np.random.default_rng(0)
TRAIN = batches.Rows(generator.normal(size=(50, 4)).astype(np.float32), generator.integers(0, 3, 50))
CONFIG = Config("demo", loop=Loop(batch_rows=16, micro_rows=5), augment=Augment(noise=0.5))
CPU = torch.device("cpu")


def feed(config=CONFIG, world=None):
    return batches.Feed(config, TRAIN, moments(TRAIN.x), world or World(), CPU)


@pytest.mark.parametrize(("rows", "batch_rows"), [(1, 4), (3, 2), (65, 64), (127, 64), (128, 64), (450, 32)])
def test_batches_hold_every_row_once_and_none_is_tiny(rows, batch_rows):
    found = batches.deal(rows, batch_rows, seed=0, epoch=1)
    assert sorted(np.concatenate(found).tolist()) == list(range(rows))
    assert min(len(batch) for batch in found) >= min(rows, batch_rows)
    assert max(len(batch) for batch in found) < 2 * batch_rows


@pytest.mark.parametrize(
    ("rows", "micro_rows", "sizes"),
    [
        (16, 0, [16]),
        (16, 5, [4, 4, 4, 4]),
        (17, 5, [5, 4, 4, 4]),
        (3, 2, [3]),
        (2, 2, [2]),
        (5, 2, [3, 2]),
        (1, 2, [1]),
    ],
)
def test_a_batch_is_cut_evenly_and_never_to_a_single_row(rows, micro_rows, sizes):
    found = batches.cut(np.arange(rows), micro_rows)
    assert [len(piece) for piece in found] == sizes
    assert np.concatenate(found).tolist() == list(range(rows))


def test_a_batch_is_the_changed_copies_of_its_rows():
    (first, *_), epoch = feed().batch(4), 1  # three batches an epoch
    index = batches.cut(batches.deal(50, 16, 0, 1)[1], 5)[0]
    expected = augment.batch(TRAIN.x, TRAIN.y, augment.Keyed(0, epoch, index), CONFIG.augment, moments(TRAIN.x))
    assert np.array_equal(first.x.numpy(), expected.x)
    assert np.array_equal(first.y.numpy(), TRAIN.y[index])


def test_batches_made_ahead_are_those_made_one_by_one():
    made = feed()
    for step, pieces in enumerate(feed().ahead(2, 9), start=2):
        expected = made.batch(step)
        assert len(pieces) == len(expected)
        assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(pieces, expected, strict=True))
    assert step == 8


def test_processes_share_each_piece_and_its_rows_are_changed_as_by_one():
    whole = feed().batch(1)
    config = Config("demo", loop=Loop(batch_rows=16, micro_rows=0), augment=CONFIG.augment)
    (alone,) = feed(config).batch(1)
    parts = [feed(config, World(rank, 3)).batch(1)[0] for rank in range(3)]
    assert torch.equal(torch.cat([part.x for part in parts]), alone.x)
    assert [(part.first, part.whole) for part in parts] == [(0, 17), (6, 17), (12, 17)]
    assert sum(piece.whole for piece in whole) == 17


def test_a_failure_while_a_batch_is_made_reaches_the_loop_and_leaves_no_thread(monkeypatch):
    def broken(*_):
        raise ValueError("no such pixel")

    monkeypatch.setattr(augment, "batch", broken)
    with pytest.raises(ValueError, match="no such pixel"):
        list(feed().ahead(0, 3))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


def test_leaving_early_stops_the_thread():
    ahead = feed().ahead(0, 10**9)
    next(ahead)
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("feed")]
