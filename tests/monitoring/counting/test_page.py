import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tiny_release import rows_of

from monitoring.counting.page import Page
from monitoring.counting.signal_metrics import SignalCollector, SignalState
from monitoring.metrics import ServingMetrics
from monitoring.shift import reference
from monitoring.shift.bulk import Counting, Totals
from monitoring.shift.reference import ReferenceSettings
from monitoring.shift.support import Support
from registry.release import InputSpec

GENERATOR = np.random.default_rng(0)


def state(metrics, version, signals):
    """Return the state of a release whose rows were counted; names need escaping."""
    counts = metrics.signal_counts("m", version, signals)
    counts += GENERATOR.integers(0, 10**9, counts.shape)
    names = tuple(f'the "{k}" \\ column' for k in range(signals))
    sums = metrics.embedding_sums("m", version, signals)
    sums += GENERATOR.random(len(sums)) * 1e6
    sums[-1] = np.rint(sums[-1])
    shares = [GENERATOR.dirichlet(np.ones(3 + k)) for k in range(signals)]
    return SignalState("m", version, names, counts, shares, 1000, sums, np.arange(1.0, signals + 1))


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


@pytest.mark.parametrize(("columns", "most_bytes"), [(30, 140_000), (500, 190_000)])
def test_the_page_of_a_release_has_less_than_200_kb_however_many_columns_it_has(tmp_path, columns, most_bytes):
    spec = InputSpec("float32", (columns,), tuple(f"mean fractal dimension {k}" for k in range(columns)))
    x, p = rows_of(spec, 400), GENERATOR.dirichlet(np.ones(10), 400).astype(np.float32)
    made = reference.build(ReferenceSettings(), reference.HeldOut(spec, x, p, None, Support.of(x)))
    counting = Counting.of(made, spec)
    metrics = ServingMetrics(CollectorRegistry(), tmp_path)
    totals = Totals.new(counting)
    totals.counts[:], totals.sums[:] = 1e6, 1e7 / 3
    for stage in ("decode", "queue", "infer", "encode"):
        metrics.stage_seconds.labels("breast_cancer", "20261124-110000-aabbccdd", stage).observe(0.001)
    place = "breast_cancer", "20261124-110000-aabbccdd"
    centres = made.embedding.centres
    names = counting.meter.signals
    state = SignalState(
        *place, names, totals.counts, made.shares, made.rows, totals.sums, centres,
        made.far, made.outside, made.padded_slopes(),
    )  # fmt: skip
    text = Page(metrics).text([state])
    assert 20_000 < len(text) < most_bytes
    assert text.count(b"vigil_signal_bin_total{") >= 5 * len(names)
