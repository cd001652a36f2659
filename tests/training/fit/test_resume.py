"""Real `vigil train` processes, stopped and killed, and what --resume makes of the rest."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry import store
from training import run
from training.fit import loop

ROOT = Path(__file__).parents[3]
EVERYTHING_ON = """
name = "stopped"
[data]
source = "digits"
[augment]
shift_pixels = 1
noise = 0.1
mixup = 0.2
[model]
kind = "cnn"
width = 4
depth = 1
dropout = 0.3
[loop]
epochs = {epochs}
patience_epochs = {epochs}
batch_rows = 64
micro_rows = 24
ema = 0.98
checkpoint_steps = 3
"""


@dataclass(frozen=True)
class Run:
    """A run of EVERYTHING_ON in a folder of its own, as one or several processes."""

    folder: Path
    epochs: int

    def start(self, *words):
        """Start the command line; it is its own process group."""
        config = self.folder.parent / "stopped.toml"
        config.write_text(EVERYTHING_ON.format(epochs=self.epochs))
        command = [sys.executable, "-m", "vigil", "train", config, "--run-folder", self.folder, "--json", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(self, *words):
        """Run to the end; return digests of model and history, and all metrics."""
        said, errors = (process := self.start(*words)).communicate(timeout=300)
        assert process.returncode == 0, errors
        outcome = json.loads(said)
        model = store.open_release(outcome["tag"]).read("model.onnx")
        history = (self.folder / loop.HISTORY).read_bytes()
        return hashlib.sha256(model).hexdigest(), hashlib.sha256(history).hexdigest(), outcome["metrics"]

    def finish_here(self, resume):
        """The same in this process, which saves the time to load everything anew."""
        config = self.folder.parent / "stopped.toml"
        config.write_text(EVERYTHING_ON.format(epochs=self.epochs))
        found = run.train(config, self.folder, resume)
        history = (self.folder / loop.HISTORY).read_bytes()
        return store.open_release(found.tag).read("model.onnx"), history, found.metrics

    def kill_while_training(self, eventually, wait_s, *words):
        """Start, and kill -9 this long after the process saved its first checkpoint; it may have ended by then."""
        before = self.saved()
        process = self.start(*words)
        eventually("a new checkpoint", lambda: self.saved() != before or process.poll() is not None, 120)
        time.sleep(wait_s)
        process.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), errors
        return process.returncode

    def saved(self):
        path = self.folder / loop.CHECKPOINT
        return path.stat().st_mtime_ns if path.exists() else 0


def test_sigterm_saves_and_exits_with_the_command_to_resume(tmp_path, eventually):
    stopped = Run(tmp_path / "run", epochs=4000)
    process = stopped.start()
    eventually("a checkpoint", stopped.saved, 120)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"resume with vigil train {tmp_path / 'stopped.toml'} --run-folder {stopped.folder} --resume" in said
    assert store.releases("stopped") == []


def test_a_run_killed_twice_ends_with_the_bits_of_one_left_alone(tmp_path, eventually):
    killed, whole = Run(tmp_path / "run", epochs=8), Run(tmp_path / "whole", epochs=8)
    assert killed.kill_while_training(eventually, 0.0) == -signal.SIGKILL
    assert killed.kill_while_training(eventually, 0.1, "--resume") == -signal.SIGKILL
    assert killed.finish_here(resume=True) == whole.finish_here(resume=False)


@pytest.mark.proof
def test_twenty_kills_at_random_moments_change_no_bit(tmp_path, eventually):
    """Runs are killed again and again, until each of them comes to its end; export and publication included."""
    generator, kills, runs = random.Random(0), 0, 0
    whole = Run(tmp_path / "whole", epochs=40)
    expected = whole.finish()
    training_s = sum(json.loads(line)["train_s"] for line in (whole.folder / loop.TIMING).read_text().splitlines())
    while kills < 20:
        killed, runs = Run(tmp_path / f"run{runs}", epochs=40), runs + 1
        while killed.kill_while_training(eventually, generator.uniform(0, training_s / 4), "--resume"):
            kills += 1
        assert killed.finish("--resume") == expected
    assert runs > 1
