"""Every way in which a column can break, sent to the real service: its counters go through the real alert rules."""

import numpy as np
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tiny_release import make_draft, make_files, rows_of

from grafana import rules
from grafana.profile import PRODUCTION
from registry import aliases, store
from registry.release import InputSpec

SPEC = InputSpec(
    "float32", (4,), ("age", "height", "city", "heating"),
    {"city": ("Bern", "Oslo", "Rome"), "heating": ("gas", "wood")}, {"height": 0.0},
)  # fmt: skip
ROWS, MINUTES = 600, 30
READ = ("vigil_signal", "vigil_reference", "vigil_embedding", "vigil_drift", "vigil_model_info", "vigil_input")
AGE, HEIGHT = 0, 1


@pytest.fixture(scope="module")
def service(place, start_ready):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        files = make_files(place / "files", SPEC, ("no", "yes"), rows=3000)
        made = store.publish(make_draft(spec=SPEC, classes=("no", "yes")), files)
        aliases.promote(made.tag, "first")
    return start_ready(place)


def usual(seed=7):
    """Return rows as JSON has them: lists, with words in the columns of text."""
    rows = rows_of(SPEC, ROWS, seed=seed)
    found = rows.tolist()
    for row in found:
        row[2], row[3] = SPEC.categories["city"][int(row[2])], SPEC.categories["heating"][int(row[3])]
    return found


def column(place, values):
    rows = usual()
    for row, value in zip(rows, values, strict=True):
        row[place] = value
    return [rows]


def outliers_and_shift():
    rows = usual()
    for i, row in enumerate(rows):
        row[AGE] = 1e6 if i % 50 == 0 else row[AGE] + 2
    return [rows]


def unseen_category():
    return [[[*row[:2], "Ulm" if i % 50 == 0 else row[2], row[3]]] for i, row in enumerate(usual())]


tenth = [None if i % 10 == 0 else float(row[HEIGHT]) for i, row in enumerate(rows_of(SPEC, ROWS, seed=7))]
half = [None if i % 2 else 0.3 * (i % 7 - 3) for i in range(ROWS)]
REFUSED, DRIFT = {"VigilInvalidInputs"}, {"VigilDataDrift"}
MATRIX = {
    "nothing is wrong": (lambda: [usual()], set(), set()),
    "all NaN, where a value must be": (lambda: column(AGE, [float("nan")] * ROWS), REFUSED, set()),
    "all NaN, which JSON does not have": (lambda: column(HEIGHT, [float("nan")] * ROWS), REFUSED, set()),
    "all null, where none need be": (lambda: column(HEIGHT, [None] * ROWS), DRIFT, {"height", "height empty"}),
    "all infinite": (lambda: column(AGE, [float("inf")] * ROWS), REFUSED, set()),
    "absent": (lambda: [[row[:3] for row in usual()]], REFUSED, set()),
    "of the wrong type": (lambda: column(AGE, ["old"] * ROWS), REFUSED, set()),
    "no rows": (lambda: [[]], REFUSED, set()),
    "one row": (lambda: [usual()[:1]], set(), set()),
    "constant": (lambda: column(AGE, [1.0] * ROWS), DRIFT, {"age"}),
    "a category that nobody knows": (unseen_category, {"VigilUnknownCategories"}, set()),
    "stuck halfway": (lambda: [usual()[:300] + [[0.5, *row[1:]] for row in usual()[300:]]], DRIFT, {"age"}),
    "outliers that could hide a shift": (outliers_and_shift, DRIFT, {"age", "age outside its range"}),
    "a tenth of it missing, which hardly moves its values": (lambda: column(HEIGHT, tenth), DRIFT, {"height empty"}),
    "half of it missing": (lambda: column(HEIGHT, half), DRIFT, {"height", "height empty"}),
}


def scrape(service):
    _, text = service.call("/metrics")
    return {
        (one.name, tuple(one.labels.items())): (one.value, family.type)
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name.startswith(READ)
    }


def series(before, after):
    """Return what a scrape a minute would have read, had the requests come evenly over MINUTES."""
    found = []
    for (name, labels), (value, kind) in after.items():
        start = before.get((name, labels), (0.0, kind))[0] if kind == "counter" else value
        values = [repr(start + (value - start) * minute / MINUTES) for minute in range(MINUTES + 1)]
        place = ",".join(f'{key}="{text}"' for key, text in (("job", "vigil"), ("instance", "a:3000"), *labels))
        found.append({"series": f"{name}{{{place}}}", "values": " ".join(values)})
    return found


@pytest.mark.parametrize("case", MATRIX)
def test_each_broken_column_ends_in_the_alert_that_names_it(service, run, tmp_path, case):
    requests, alerts, signals = MATRIX[case]
    before = scrape(service)
    statuses = {service.call("/v1/predict", {"rows": rows})[0] for rows in requests()}
    assert statuses <= {200, 422} and 200 in statuses or alerts == REFUSED
    files = rules.rule_files(PRODUCTION)
    for name in ("drift", "serving"):
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(files[name]))
    firing = 'sum(count by (alertname) (ALERTS{{alertname=~"{}",alertstate="firing"}}) > bool 0) or vector(0)'
    known = "VigilInvalidInputs|VigilUnknownCategories|VigilDataDrift|VigilPredictionsCollapsed"
    expressions = {firing.format("|".join(alerts) or "none"): len(alerts), firing.format(known): len(alerts)}
    for signal in signals:
        expressions[f'count(count(model_signal:drifted_z{{signal="{signal}"}}))'] = 1
    checks = [
        {"expr": query, "eval_time": f"{MINUTES}m", "exp_samples": [{"labels": "{}", "value": value}]}
        for query, value in expressions.items()
    ]
    test = {"interval": "1m", "input_series": series(before, scrape(service)), "promql_expr_test": checks}
    document = {"rule_files": ["*.yml"], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    done = run("promtool", "test", "rules", tmp_path / "tests.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_after_all_of_it_the_service_answers_as_before(service):
    status, said = service.call("/v1/predict", {"rows": usual()[:2]})
    assert status == 200 and np.isfinite([one["probabilities"] for one in said["predictions"]]).all()
