"""Real torchrun processes on loopback, over gloo."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pair
import pytest
import torch

from demo.stack import free_ports
from registry import store
from registry.errors import ConfigError
from training.fit import distributed, loop
from training.fit.distributed import World

ROOT = Path(__file__).parents[3]


def torchrun(*words):
    """Start two processes; a group of their own, so that a test can end them all."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launcher, "--master-port", str(free_ports(1)[0]), *map(str, words)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def last(folder):
    return torch.load(folder / loop.CHECKPOINT, weights_only=True)


def test_two_processes_end_with_the_weights_of_one_dropout_and_batch_norm_included(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    process = torchrun(pair.__file__, tmp_path / "two", 4)
    alone = pair.train(tmp_path / "one", pair.in_pieces(8), World())
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    one, two = last(tmp_path / "one"), last(tmp_path / "two")
    assert one["step"] == two["step"] == alone.steps == 18
    for kind in ("model", "average", "best"):
        for name, value in one[kind].items():
            assert torch.allclose(value.double(), two[kind][name].double(), rtol=0, atol=1e-5), (kind, name)
    assert torch.equal(one["torch_rng"], two["torch_rng"])
    for mine, theirs in zip(one["history"], two["history"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)


def test_one_process_alone_joins_nothing_and_shares_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined("cpu") as world:
        assert (world.rank, world.size, world.leads) == (0, 1, True)
        first, own = world.share(np.arange(7))
        assert (first, own.tolist()) == (0, list(range(7)))
        tensor = torch.ones(3)
        world.add_up([tensor])
        world.wait()
        assert tensor.tolist() == [1, 1, 1]
        assert not torch.distributed.is_initialized()
    assert distributed.words() == ["vigil"]


def test_rows_are_shared_without_gap_or_overlap():
    parts = [World(rank, 3).share(np.arange(10)) for rank in range(3)]
    assert [first for first, _ in parts] == [0, 4, 7]
    assert np.concatenate([own for _, own in parts]).tolist() == list(range(10))
    assert [World(rank, 3).leads for rank in range(3)] == [True, False, False]


def test_a_lost_process_is_told_from_a_bug():
    assert distributed.is_loss(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]"))
    assert not distributed.is_loss(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_more_processes_than_rows_of_a_batch_are_refused(tmp_path):
    config = replace(pair.CONFIG, loop=replace(pair.CONFIG.loop, batch_rows=2))
    with pytest.raises(ConfigError, match="loop.batch_rows: 2 rows for 3 processes"):
        pair.train(tmp_path, config, World(0, 3))


VIGIL = """
name = "pair"
[data]
source = "digits"
[model]
kind = "cnn"
width = 8
[loop]
epochs = 8
patience_epochs = 8
checkpoint_steps = 3
"""


def vigil(tmp_path, folder, *words):
    config = tmp_path / "pair.toml"
    config.write_text(VIGIL)
    return torchrun("-m", "vigil", "train", config, "--run-folder", folder, *words)


@pytest.mark.proof
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_a_resumed_pair_ends_with_the_same_bits(tmp_path, eventually, victim):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    process = vigil(tmp_path, folder)
    eventually("a checkpoint", lambda: (folder / loop.CHECKPOINT).exists(), 120)
    workers = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    before = time.monotonic()
    os.kill(int(workers.stdout.split()[victim]), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - before < 30
    assert process.returncode == 1
    assert f"vigil: training: process {1 - victim} of 2 stopped, because another one ended" in said
    digests = []
    for place, words in ((folder, ["--resume", "--json"]), (whole, ["--json"])):
        said, _ = (process := vigil(tmp_path, place, *words)).communicate(timeout=300)
        assert process.returncode == 0
        digests.append(hashlib.sha256(store.open_release(json.loads(said)["tag"]).read("model.onnx")).hexdigest())
    assert digests[0] == digests[1]
    assert (folder / loop.HISTORY).read_bytes() == (whole / loop.HISTORY).read_bytes()
