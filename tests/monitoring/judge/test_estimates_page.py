import shutil
import time
from contextlib import closing

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tiny_release import HOMES, IMAGE, make_draft, make_files, rows_of, run

from monitoring.judge import validity
from monitoring.judge.estimates import DRIFTED, HIDDEN
from monitoring.log import policy as policies
from monitoring.log import recorder
from monitoring.log.pseudonym import Pseudonyms
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import watch
from monitoring.monitor.watch import WatchSettings
from monitoring.shift import reference
from registry import store

HOUR_S = 3600.0
CLASSES = ("cat", "dog", "fox")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the files of a release of which 85 % of the held-out rows are right."""
    return make_files(tmp_path_factory.mktemp("made") / "files", classes=CLASSES, seed=5, right=0.85, rows=3000)


@pytest.fixture
def made(files, tmp_path):
    """Publish it, and say so in its manifest."""
    shutil.copytree(files, tmp_path / "files")
    return store.publish(make_draft(classes=CLASSES, accuracy=0.85), tmp_path / "files")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.sqlite"


def fill(log, made, hours, rows, change=lambda x: x, right=0.85, labelled=1.0, spec=IMAGE):
    """Answer `rows` rows in each hour of `hours` before now; a label says that it was right with this chance."""
    generator, connection, now = np.random.default_rng(len(hours) + hours[0]), recorder.connect(log), time.time()
    content = (made.path / "model.onnx").read_bytes()
    for hour in sorted(hours, reverse=True):
        x = change(rows_of(spec, rows, seed=1000 + hour))
        outputs = run(content, x, "probabilities").astype(np.float32)
        places, answers = generator.random(rows), outputs.argmax(axis=1)
        pairs = []
        with connection:
            for i in range(rows):
                ident, at = f"{made.name}-{hour}-{i}", now - (hour + 0.5) * HOUR_S
                row = (ident, at, made.name, made.version, CLASSES[answers[i]], outputs[i].tobytes(), x[i].tobytes())
                connection.execute(recorder.PREDICTION, row)
                truth = answers[i] if places[i] < right else (answers[i] + 1) % 3
                pairs += [(ident, CLASSES[truth])] if generator.random() < labelled else []
        recorder.add_labels(connection, pairs)
    connection.close()


def look(log, **changed):
    """Return what the monitor shows after one look, by name and label values."""
    registry = CollectorRegistry()
    metrics = MonitorMetrics(registry)
    watch.measure(WatchSettings(log=log, window_s=4 * HOUR_S, **changed), metrics, time.time())
    samples = (one for family in registry.collect() for one in family.samples)
    return {one.name + "".join(f" {one.labels[k]}" for k in sorted(one.labels)): one.value for one in samples}


def dark(x):
    return (x // 4).astype(np.uint8)


def test_the_accuracy_is_estimated_without_a_label_and_believed(made, log):
    fill(log, made, [0, 1], 700, labelled=0)
    found = look(log)
    place = f"tiny {made.version}"
    assert found[f"vigil_quality_estimate_valid {place}"] == 1
    assert found[f"vigil_quality_estimate_rows {place}"] == 1400
    for method in ("cbpe", "atc"):
        low, value, high = (
            found[f"vigil_quality_estimate {bound} {method} {place}"] for bound in ("lower", "value", "upper")
        )
        assert low < 0.85 < high and abs(value - 0.85) < 0.03
    assert f"vigil_quality_value accuracy {place}" not in found


def test_traffic_unlike_the_reference_is_not_believed_and_the_reason_is_told(made, log):
    fill(log, made, [0, 1], 700, change=dark, labelled=0)
    found = look(log)
    place = f"tiny {made.version}"
    assert found[f"vigil_quality_estimate_valid {place}"] == 0
    doubts = {reason: found[f"vigil_quality_estimate_doubt tiny {reason} {made.version}"] for reason in
              ("drift", "few_rows", "not_recorded", "wide_interval")}  # fmt: skip
    assert doubts | {"wide_interval": 0} == {"drift": 1, "few_rows": 0, "not_recorded": 0, "wide_interval": 0}


def test_rows_that_were_not_recorded_whole_are_no_ground_for_belief(made, log):
    fill(log, made, [0, 1], 700, labelled=0)
    with closing(recorder.connect(log)) as connection, connection:
        connection.execute("UPDATE predictions SET row = x''")
    found = look(log)
    assert found[f"vigil_quality_estimate_valid tiny {made.version}"] == 0
    assert found[f"vigil_quality_estimate_doubt tiny not_recorded {made.version}"] == 1


POLICIES = {
    "keep": ('area = "keep"\ncity = "keep"\nheating = "keep"', ""),
    "drop": ('area = "keep"\ncity = "keep"\nheating = "drop"', "the log does not hold all of heating"),
    "hash": ('area = "keep"\ncity = "hash"\nheating = "keep"', "the log does not hold all of city"),
    "bins": ('area = "bucket"\ncity = "keep"\nheating = "keep"', "the log does not hold all of area"),
    "edges": ('area = [-1, 0, 1]\ncity = "keep"\nheating = "keep"', "the log does not hold all of area"),
    "undeclared": ("", "the log does not hold all of area, city, heating"),
}


def serve(log, made, policy, rows, spec, seed=0):
    """Record rows of the last hour as the service does under a policy: read from its file, written by its writer."""
    x = rows_of(spec, rows, seed=7 + seed)
    outputs = run(made.read("model.onnx"), x, "probabilities")
    bins = reference.parse(made.read("reference.json")).bins
    redaction = policy.redaction(made.name, spec, bins)
    writer, now = recorder.Recorder(log, pseudonyms=policy.pseudonyms), time.time()
    for begin in range(0, rows, 50):
        here = slice(begin, begin + 50)
        said = [made.manifest.classes[k] for k in outputs[here].argmax(axis=1)]
        ids = [f"{seed}-{begin}-{k}" for k in range(len(said))]
        place = (made.name, made.version, now - HOUR_S * 0.01**seed * (1 - begin / rows))
        writer.put(recorder.Records(*place, ids, said, outputs[here], x[here], redaction))
    assert writer.flush()
    writer.close()


def policy_of(folder, text):
    (folder / "policy.toml").write_text(text)
    return policies.read(folder / "policy.toml", Pseudonyms(b"0123456789abcdef-secret"))


def test_what_a_policy_keeps_off_the_log_cannot_be_vouched_for(tmp_path):
    files = make_files(tmp_path / "files", HOMES, CLASSES, seed=5, right=0.85, rows=3000)
    made = store.publish(make_draft("homes", HOMES, CLASSES, accuracy=0.85), files)
    normal = reference.parse(made.read("reference.json"))
    for kind, (columns, why) in POLICIES.items():
        log, rows = tmp_path / f"{kind}.sqlite", 300 if why else 1400
        serve(log, made, policy_of(tmp_path, f"[models.homes.columns]\n{columns}\n"), rows, HOMES)
        found, place = look(log), f"homes {made.version}"
        assert found[f"vigil_quality_estimate_rows {place}"] == rows, kind  # probabilities are never dropped
        assert found[f"vigil_quality_estimate_valid {place}"] == (kind == "keep"), kind
        doubts = [found[f"vigil_quality_estimate_doubt homes {what} {made.version}"] for what in (HIDDEN, DRIFTED)]
        assert doubts == [kind != "keep", 0], kind
        with closing(recorder.connect(log)) as connection:
            span = validity.Span("homes", made.version, 0, time.time() + 1)
            said = [one.text for one in validity.doubts(connection, span, made.manifest, normal)]
        assert said == [why][: bool(why)]
    # One that comes in the middle of a window is noticed too.
    serve(tmp_path / "keep.sqlite", made, policy_of(tmp_path, '[models.homes.columns]\ncity = "keep"\n'), 100, HOMES, 1)
    assert look(tmp_path / "keep.sqlite")[f"vigil_quality_estimate_doubt homes {HIDDEN} {made.version}"] == 1


def test_images_that_a_policy_drops_whole_cannot_be_vouched_for(tmp_path, made, log):
    serve(log, made, policy_of(tmp_path, '[models.tiny]\nrows = "drop"\n'), 700, IMAGE)
    found = look(log)
    assert found[f"vigil_quality_estimate_rows tiny {made.version}"] == 700
    assert found[f"vigil_quality_estimate_doubt tiny not_recorded {made.version}"] == 1
    assert found[f"vigil_quality_estimate_doubt tiny few_rows {made.version}"] == 0


def test_a_manifest_that_lacks_an_interval_leaves_out_its_release_alone(tmp_path, made, log, caplog):
    draft = make_draft("odd", classes=CLASSES, metrics={"accuracy": {"value": 0.85}})
    odd = store.publish(draft, make_files(tmp_path / "odd", classes=CLASSES, seed=6, rows=300))
    for one in (odd, made):
        fill(log, one, [0 if one is odd else 1], 300)
    found = look(log)
    assert f"vigil_quality_decline_level tiny {made.version}" in found
    assert f"vigil_quality_decline_level odd {odd.version}" not in found
    assert found[f"vigil_quality_value accuracy odd {odd.version}"] > 0.5
    (line,) = [line for line in caplog.records if line.msg == "release_left_out"]
    assert (line.part, line.model, line.version) == ("decline", "odd", odd.version)
    assert sum(value for name, value in found.items() if name.startswith("vigil_monitor_failures_total")) == 1


def test_past_estimates_are_scored_when_their_labels_are_there(made, log):
    fill(log, made, range(1, 13), 150)
    place = f"tiny {made.version}"
    found = look(log)
    assert 8 <= found[f"vigil_quality_estimate_scored {place}"] <= 12
    assert 0 < found[f"vigil_quality_estimate_error cbpe {place}"] < 0.05
    assert found[f"vigil_quality_estimate_covered_ratio cbpe {place}"] >= 0.8


def test_a_model_that_fell_without_a_sign_scores_badly(made, log):
    fill(log, made, range(1, 13), 150, right=0.6)
    place = f"tiny {made.version}"
    found = look(log)
    assert found[f"vigil_quality_estimate_error cbpe {place}"] == pytest.approx(0.25, abs=0.04)
    assert found[f"vigil_quality_estimate_covered_ratio cbpe {place}"] == 0


def test_estimates_that_were_not_believed_are_not_scored(made, log):
    fill(log, made, range(1, 13), 150, change=dark)
    assert look(log)[f"vigil_quality_estimate_scored tiny {made.version}"] == 0


def test_the_mix_of_the_classes_is_estimated(made, log):
    fill(log, made, [0, 1], 700, labelled=0)
    found = look(log)
    shares = [found[f"vigil_label_share_estimate value {name} tiny {made.version}"] for name in CLASSES]
    assert sum(shares) == pytest.approx(1)
    assert found[f"vigil_label_share_valid tiny {made.version}"] == 1


def test_a_regression_and_a_release_of_before_have_no_estimate(log, publish):
    publish("homes", spec=HOMES, classes=())
    connection = recorder.connect(log)
    row = ("1", time.time(), "homes", store.models().joinpath("homes").iterdir().__next__().name, "1.0",
           np.ones(1, np.float32).tobytes(), np.ones(3, np.float32).tobytes())  # fmt: skip
    with connection:
        connection.execute(recorder.PREDICTION, row)
    connection.close()
    assert not [name for name in look(log) if name.startswith("vigil_quality_estimate")]


def test_a_decline_since_the_release_is_found_and_dated(made, log):
    fill(log, made, range(6, 20), 400, right=0.86)
    fill(log, made, range(6), 400, right=0.7)
    found = look(log)
    place = f"tiny {made.version}"
    assert found[f"vigil_quality_decline_evidence {place}"] >= found["vigil_quality_decline_limit"] == 20
    since = (time.time() - found[f"vigil_quality_decline_since_timestamp_seconds {place}"]) / HOUR_S
    assert 5 <= since <= 8
    assert found[f"vigil_quality_decline_value {place}"] == pytest.approx(0.7, abs=0.03)
    assert found[f"vigil_quality_decline_level {place}"] == pytest.approx(0.83)


def test_without_a_decline_there_is_no_evidence_of_one(made, log):
    fill(log, made, range(20), 400, right=0.85)
    assert look(log)[f"vigil_quality_decline_evidence tiny {made.version}"] < 1
