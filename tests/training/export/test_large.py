"""A model of more than 2 GiB on its whole way; needs 10 GB of memory and 7 GB of disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WAY = """
import json, os, resource, sys, time
from pathlib import Path
import numpy as np, torch
from tiny_release import make_draft
from registry import store
from registry.release import InputSpec
from serving.engine import Engine
from training.export import certificate, export
from training.fit import models
from training.rows.data import Moments

torch.set_num_threads(1)
spec, folder, began = InputSpec("float32", (16384,)), Path(sys.argv[1]), time.monotonic()

def done(stage):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{stage}: after {time.monotonic() - began:.0f} s, peak {peak:.1f} GiB", file=sys.stderr, flush=True)

# One weight alone is larger than 2 GiB.
body = torch.nn.Sequential(torch.nn.Linear(16384, 33000, bias=False), torch.nn.ReLU(), torch.nn.Linear(33000, 2))
model = models.Classifier(body, Moments(np.float32(0), np.float32(1)))
asked, path = export.Asked(spec, ("a", "b")), folder / "model.onnx"
done("built")
export.export(model, asked, path, {"name": "large"})
done("exported")
rows = np.random.default_rng(0).standard_normal((64, 16384)).astype(np.float32)
parity = certificate.certify(model, asked, path, rows, certificate.Limit(1e-4))
done("certified")
answers = models.predict(model, rows)[0]
del model, body
keys = np.arange(len(rows), dtype=np.uint64)
np.savez(folder / "heldout.npz", key=keys, x=rows, y=answers.argmax(axis=1), probabilities=answers)
made = store.publish(make_draft("large", spec, ("a", "b"), parity=parity), folder)
done("published")
opened = store.open_release(made.tag)
done("opened")
served = Engine(opened, ("cpu",), threads=1).run(rows)[0]
done("served")
sizes = {name: entry.size_bytes for name, entry in opened.manifest.files.items()}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
gap = float(np.abs(served - answers).max())
print(json.dumps({"sizes": sizes, "gap": gap, "peak_gib": peak, "parity": parity["max_difference"]}))
"""


@pytest.mark.proof
def test_a_model_of_more_than_2_gib_is_exported_published_verified_and_served(tmp_path):
    root = Path(__file__).parents[3]
    (tmp_path / "files").mkdir()
    paths = os.pathsep.join([str(root), str(root / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "BENTOML_HOME": str(tmp_path / "bentoml")}
    command = [sys.executable, "-c", WAY, str(tmp_path / "files")]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=900)
    found = json.loads(done.stdout)
    print(found)
    assert found["sizes"]["model.onnx"] < 10_000
    assert found["sizes"]["model.onnx.data"] > 2**31
    assert found["parity"] <= 1e-4 and found["gap"] <= 1e-4
    assert found["peak_gib"] < 10
