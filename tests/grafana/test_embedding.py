"""A network of one's own that gives out an embedding: from its training to the alert that names it."""

import itertools

import numpy as np
import pytest

from monitoring.shift import drift, reference
from registry import aliases, store
from registry.release import REFERENCE
from tests.grafana.test_replicas import prometheus
from training import run

NETWORK = """
import torch


class Network(torch.nn.Module):
    # Answers from c and d alone, and gives out how the other two go together besides.
    def __init__(self, outputs):
        super().__init__()
        self.first, self.last = torch.nn.Linear(2, 8), torch.nn.Linear(8, outputs)

    def forward(self, x):
        hidden = torch.relu(self.first(x[:, 2:]))
        return self.last(hidden), torch.cat([hidden, 20 * x[:, :1] * x[:, 1:2], x[:, :2] ** 3], dim=1)


def build(shape, outputs):
    return Network(outputs)
"""
SETTINGS = """
name = "pairs"
purpose = "Say whether c is large."
[data]
source = "csv"
path = "rows.csv"
target = "large"
[split]
train = 0.4
validation = 0.1
test = 0.5
[model]
kind = "pairs_network:build"
[loop]
epochs = 2
"""
PATIENCE_S = 90
COLUMNS, WIDTH = ("a", "b", "c", "d"), 8 + 1 + 2


def rows(count, correlation, seed):
    """Return rows whose columns are each normal, whatever the correlation of a and b."""
    found = np.random.default_rng(seed).standard_normal((count, len(COLUMNS)))
    found[:, 1] = correlation * found[:, 0] + np.sqrt(1 - correlation**2) * found[:, 1]
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def release(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    x = rows(1600, 0.7, 0)
    large = x[:, 2] + 0.5 * np.random.default_rng(1).standard_normal(len(x)) > 0
    lines = [",".join((*map(str, row), "yes" if y else "no")) for row, y in zip(x.tolist(), large, strict=True)]
    (folder / "rows.csv").write_text("\n".join([",".join((*COLUMNS, "large")), *lines]) + "\n")
    (folder / "pairs_network.py").write_text(NETWORK)
    (folder / "pairs.toml").write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        made = store.open_release(run.train(folder / "pairs.toml", folder / "run").tag)
        aliases.promote(made.tag, "first", force=True)
        return made


@pytest.fixture(scope="module")
def service(release, place, start_ready):
    return start_ready(place)


def test_the_reference_is_laid_over_the_embedding_that_the_file_gives_out(release):
    made = reference.parse(release.read(REFERENCE))
    assert made.watched == {"embedding": WIDTH}
    assert release.manifest.parity["outputs"] == ["probabilities", "logits", "embedding"]
    assert len(made.slopes) == len(made.bins) + 1


def test_a_client_gets_the_embedding_where_it_asks_for_it_and_nowhere_else(service):
    x = rows(2, 0.7, 3)
    _, said = service.call("/v1/predict", {"rows": x.tolist()})
    assert "embedding" not in str(said)
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    asked = {"inputs": [tensor], "outputs": [{"name": "embedding"}]}
    (found,) = service.call("/v2/models/pairs/infer", asked)[1]["outputs"]
    assert (found["name"], found["datatype"], found["shape"]) == ("embedding", "FP32", [2, WIDTH])
    told = {one["name"]: one for one in service.call("/v2/models/pairs")[1]["outputs"]}
    assert told["embedding"]["shape"] == [-1, WIDTH]


def test_a_shift_that_only_the_embedding_shows_fires_the_rule_that_names_it(release, service, eventually, tmp_path):
    made = reference.parse(release.read(REFERENCE))
    with prometheus(tmp_path, (service.url.removeprefix("http://"),)) as ask:
        eventually("Prometheus", ask.ready, PATIENCE_S)
        eventually("the server", lambda: ask("vigil_ready"), PATIENCE_S)
        z = 'max by (signal) (model_signal:drift_z{signal="embedding"})'

        seeds = itertools.count(5)

        def send(correlation):
            some = rows(50, correlation, next(seeds)).tolist()
            answered = service.call("/v1/predict", {"rows": some})[0] == 200
            return answered and ask('model_signal:drift_rows{signal="embedding",window="long"}').get(
                ("embedding", ""), 0
            )

        def named():
            return {signal for signal, _ in ask("model_signal:drifted_z")}

        eventually("usual rows", lambda: send(0.7) > 300, PATIENCE_S)
        # its z comes by a later rule of the group
        usual = eventually("its z", lambda: ask(z), PATIENCE_S)["embedding", ""]
        assert usual < min(made.z_thresholds.values()) and not named()
        assert eventually("the signal that drifted", lambda: send(-0.7) and named(), PATIENCE_S) == {"embedding"}
        shifted = eventually("its z", lambda: ask(z), PATIENCE_S)["embedding", ""]
        eventually("the alert", lambda: ask('ALERTS{alertname="VigilDataDrift"}'), PATIENCE_S)
        print(f"\nz of the embedding: {usual:.2f}, with the shift {shifted:.1f}")


def test_the_log_which_has_no_embedding_is_judged_without_it(release):
    made = reference.parse(release.read(REFERENCE))
    outputs = np.full((300, 2), 0.5, np.float32)
    window = drift.window_of(made, release.manifest.input, rows(300, 0.7, 7), outputs)
    assert window.sums is None and "embedding" not in drift.scores(made, window)
