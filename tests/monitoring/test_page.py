import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics import ServingMetrics, SignalCollector, SignalState
from monitoring.page import Page
from monitoring.signals import BINS

GENERATOR = np.random.default_rng(0)


def state(metrics, version, signals):
    """Return the state of a release whose rows were counted; names need escaping."""
    counts = metrics.signal_counts("m", version, signals)
    counts += GENERATOR.integers(0, 10**9, counts.shape)
    names = tuple(f'the "{k}" \\ column' for k in range(signals))
    return SignalState("m", version, names, counts, GENERATOR.dirichlet(np.ones(BINS), signals), 1000)


def parsed(text):
    own = ("process_",)  # these change from one look to the next
    found = {family.name: family for family in text_string_to_metric_families(text.decode())}
    return {
        name: sorted((one.name, sorted(one.labels.items()), float(one.value)) for one in family.samples)
        for name, family in found.items()
        if not name.startswith(own)
    }


def expected(metrics, states):
    registry = CollectorRegistry()
    registry.register(metrics.counts)
    registry.register(SignalCollector(lambda: states, metrics.counts))
    return parsed(generate_latest(registry))


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "with other workers"])
def test_the_page_says_what_the_collectors_say_however_often_releases_change(tmp_path, shared):
    metrics = ServingMetrics(CollectorRegistry(), tmp_path if shared else None)
    if shared:
        state(ServingMetrics(CollectorRegistry(), tmp_path), "v2", 4)
    page, all_states = Page(metrics), [state(metrics, f"v{k}", 3 + k) for k in range(3)]
    for chosen in ([], [0], [0, 1], [1], [1, 2], [2, 1], []):
        states = [all_states[k] for k in chosen]
        for one in states:
            one.counts[0, 3] += 5
        metrics.input_rows.labels("m", "v").inc(5)
        assert parsed(page.text(states)) == expected(metrics, states)


def test_a_page_of_a_release_of_thirty_columns_has_less_than_200_kb(tmp_path):
    metrics = ServingMetrics(CollectorRegistry(), tmp_path)
    versions = ["20261124t110000z-aabbccdd"]
    for version in versions:
        for stage in ("decode", "queue", "infer", "encode"):
            metrics.stage_seconds.labels("breast_cancer", version, stage).observe(0.001)
    names = tuple(f"mean fractal dimension {k}" for k in range(34))
    states = [
        SignalState("breast_cancer", version, names, np.full((34, BINS), 1e6), np.full((34, BINS), 1 / 17), 400)
        for version in versions
    ]
    assert len(Page(metrics).text(states)) < 200_000
