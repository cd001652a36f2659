import pickle
import random
from dataclasses import replace

import pytest
import torch

from registry.errors import CheckpointError
from training.fit import checkpoint


def state(step=1, settings=None):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    weights = model.state_dict()
    return checkpoint.State(step, settings or {"seed": 0}, weights, optimizer.state_dict(), weights)


def test_what_was_saved_comes_back_with_the_random_streams(tmp_path):
    path = tmp_path / "last.pt"
    saved = state(step=7)
    checkpoint.save(path, saved)
    expected = torch.rand(3), random.random()
    torch.manual_seed(99)
    random.seed(99)
    loaded = checkpoint.load(path, {"seed": 0})
    assert loaded.step == 7
    assert loaded.best_loss == float("inf")
    assert all(torch.equal(loaded.model[name], saved.model[name]) for name in saved.model)
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], saved.optimizer["state"][0]["exp_avg"])
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]


def test_a_crash_while_saving_keeps_the_last_good_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(path, state(step=1))

    def crash(_descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, state(step=2))
    assert checkpoint.load(path, {"seed": 0}).step == 1


def test_a_checkpoint_of_other_settings_is_refused_by_the_names_of_the_keys(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, state(settings={"loop": {"seed": 0, "epochs": 3}, "data_digest": "abc"}))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, {"loop": {"seed": 1, "epochs": 3}, "data_digest": "abd"})
    assert "data_digest was 'abc', is now 'abd'; loop.seed was 0, is now 1;" in str(caught.value)
    assert "epochs" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 500, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "last.pt"
    checkpoint.save(path, state())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="cannot be read.*train without --resume"):
        checkpoint.load(path, {"seed": 0})


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    path, drawn, refused = tmp_path / "last.pt", random.Random(0), 0
    checkpoint.save(path, whole := replace(state(), model={"weight": torch.randn(100, 50)}))
    content = path.read_bytes()
    for _ in range(100):
        flipped = bytearray(content)
        flipped[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
        path.write_bytes(flipped)
        try:
            loaded = checkpoint.load(path, {"seed": 0})
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(loaded.model["weight"], whole.model["weight"])
    assert refused > 80


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    path = tmp_path / "last.pt"
    torch.save({"step": Attack()}, path, pickle_module=pickle)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(path, {})
    assert not (tmp_path / "touched").exists()


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "last.pt", {})


def test_the_order_of_an_epoch_is_a_permutation_of_its_own():
    one, again, next_epoch, other_seed = (checkpoint.order(50, s, e) for s, e in ((3, 0), (3, 0), (3, 1), (4, 0)))
    assert torch.equal(one, again)
    assert sorted(one.tolist()) == list(range(50))
    assert not torch.equal(one, next_epoch)
    assert not torch.equal(one, other_seed)
