import time

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tiny_release import HOMES, make_draft, make_files, rows_of

from monitoring.judge import history, slices
from monitoring.log import recorder
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import state, watch
from monitoring.monitor.watch import WatchSettings
from registry import store

CITIES = HOMES.categories["city"]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def made(tmp_path):
    """Publish a classifier of homes whose quality is measured by city."""
    fitted = slices.fit(("city",), HOMES, rows_of(HOMES, 3000), np.ones(3000, dtype=bool), 0.8)
    said = {"metric": "accuracy", "floor": 0.8, "slices": slices.to_manifest(fitted)}
    draft = make_draft(spec=HOMES, classes=("cheap", "dear"), quality=said)
    return store.publish(draft, make_files(tmp_path / "files", spec=HOMES, classes=("cheap", "dear")))


def fill(log, made, chances, rows=600):
    """Answer `rows` rows and label them; chances: by city, that an answer is right."""
    x, generator = rows_of(HOMES, rows), np.random.default_rng(0)
    right = generator.random(rows) < np.array(chances)[x[:, 1].astype(int)]
    connection, now = recorder.connect(log), time.time()
    outputs = np.array([0.9, 0.1], dtype=np.float32).tobytes()
    with connection:
        for i in range(rows):
            row = (str(i), now - 60, made.name, made.version, "cheap", outputs, x[i].tobytes())
            connection.execute(recorder.PREDICTION, row)
    recorder.add_labels(connection, [(str(i), "cheap" if right[i] else "dear") for i in range(rows)])
    connection.close()
    return x[:, 1].astype(int), right


def look(log):
    registry = CollectorRegistry()
    watch.measure(WatchSettings(log=log), MonitorMetrics(registry), time.time())
    samples = (one for family in registry.collect() for one in family.samples)
    return {one.name + "".join(f" {one.labels[k]}" for k in sorted(one.labels)): one.value for one in samples}


def test_each_slice_is_measured_with_an_interval_that_is_wide_enough_for_all(log, made):
    city, right = fill(log, made, (0.95, 0.95, 0.55))
    found = look(log)
    sure = slices.confidence(4)
    for code, name in enumerate(CITIES):
        here = right[city == code]
        low, high = slices.wilson(int(here.sum()), len(here), sure)
        place = f"city={name} {made.version}"
        assert found[f"vigil_quality_slice value tiny {place}"] == pytest.approx(here.mean())
        assert found[f"vigil_quality_slice lower tiny {place}"] == pytest.approx(low)
        assert found[f"vigil_quality_slice upper tiny {place}"] == pytest.approx(high)
        assert found[f"vigil_quality_slice_rows tiny {place}"] == len(here)
        assert found[f"vigil_quality_slice_floor tiny {place}"] == 0.8
        assert (high < 0.8) == (name == "Rome")
    assert found[f"vigil_quality_value accuracy tiny {made.version}"] == pytest.approx(right.mean())


def test_other_measures_and_the_recall_of_each_class_are_shown(log, made):
    _, right = fill(log, made, (0.9, 0.9, 0.9))
    found = look(log)
    place = f"tiny {made.version}"
    assert found[f"vigil_quality_measure value balanced_accuracy {place}"] == 0.5  # it says "cheap" to all
    hits = right.sum()
    assert found[f"vigil_quality_measure value macro_f1 {place}"] == pytest.approx(2 * hits / (hits + 600) / 2)
    recalls = {name: found[f"vigil_quality_class_recall value {name} {place}"] for name in ("cheap", "dear")}
    assert recalls == {"cheap": 1, "dear": 0}
    assert found[f"vigil_quality_class_rows cheap {place}"] == hits


def test_steps_of_a_month_add_up_to_the_buckets_they_are_made_of(log, made):
    _, right = fill(log, made, (0.9, 0.8, 0.7))
    look(log)
    with state.connect(state.beside(log)) as connection:
        for step_s in (600.0, 21_600.0):
            steps = history.steps(connection, "tiny", time.time() - 86_400, step_s)[made.version]
            assert sum(one.rows for one in steps.values()) == 600
            whole = history.window(connection, "tiny", time.time() - 86_400)[made.version]
            assert (whole.rows, whole.summed, whole.right) == (600, 600, right.sum())
            hits, judged, first = history.counts(steps, int(time.time() / step_s))
            assert (hits.sum(), judged.sum()) == (right.sum(), 600)
            assert first == min(steps)
            estimation = sum(one.sums for one in steps.values())
            assert estimation[3] != 0 and sum(one.labelled_sums for one in steps.values()) == pytest.approx(estimation)
    connection.close()
