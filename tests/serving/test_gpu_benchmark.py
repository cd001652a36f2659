"""The script for a machine with a GPU, run here through the CPU: every line of it that CUDA does not need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks import residual

ROOT = Path(__file__).resolve().parents[2]


def test_it_checks_answers_times_every_batch_and_sees_cuda_refused(tmp_path):
    words = ["--provider", "cpu", "--size", "small", "--seconds", "0.001", "--out", str(tmp_path / "found.json")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "benchmarks.gpu", *words], check=True, env=environment, capture_output=True)
    found = json.loads((tmp_path / "found.json").read_text())
    for precision in ("fp32", "fp16"):
        assert found[precision]["parity"]["within"]
        assert all(batch["of_bare"]["graphs"] > 0 for batch in found[precision]["rows_per_s"].values())
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert {said["reason"] for said in found["without_a_gpu"].values()} == {"provider"}


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_the_network_tells_images_apart(half):
    size = residual.SIZES["small"]
    session = onnxruntime.InferenceSession(residual.build(size, half), providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(0).standard_normal((8, 3, size.pixels, size.pixels)).astype(np.float32)
    answers = session.run(["probabilities"], {"input": rows})[0]
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-2)
    assert answers.std(axis=0).max() > 1e-3 and answers.max() < 0.999
