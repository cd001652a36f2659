import numpy as np
import pytest
import yaml

from grafana import build, drift_cases, missing_rules, rule_tests, rules
from grafana.profile import PRODUCTION
from monitoring.shift import embedding, missing, reference


def test_the_numbers_promql_is_held_to_are_those_thresholds_are_calibrated_with():
    generator = np.random.default_rng(0)
    for bins in (2, 5, 16):
        counts = generator.integers(0, 50, bins) + np.eye(bins, dtype=int)[0]
        original = generator.integers(1, 500, bins)
        original[-1] = 0 if bins == 5 else original[-1]
        _, _, z = drift_cases.scores(counts, original / original.sum(), int(original.sum()))
        assert z == pytest.approx(reference.z_scores(counts[None], original[None])[0], rel=1e-12)


def test_the_joint_score_promql_is_held_to_is_that_of_the_embedding():
    generator = np.random.default_rng(0)
    fitted = embedding.fit(generator.standard_normal((400, 4)), np.zeros((400, 1)))
    centres = np.array(fitted.centres)
    for rows in (30.0, 1000.0):
        gap = generator.standard_normal(len(centres)) / 20
        size, _, z = drift_cases.joint_scores(gap, rows, 400)
        sums = (centres + gap) * rows
        assert fitted.z(sums, rows, 400) == pytest.approx(z, rel=1e-9)
        assert fitted.size(sums, rows, 400) == pytest.approx(size, rel=1e-9)


def test_the_score_of_a_missing_class_is_that_of_numpy():
    shares = np.array([0.3, 0.2, 0.4, 0.1, 0])
    for counts in ([300, 500, 200, 10, 0], [900, 700, 1300, 120, 0]):
        found = missing.each(np.array(counts), shares, 1500)
        assert drift_cases.missing_score(np.array(counts), shares, 1500, 3) == pytest.approx(found[3], rel=1e-12)
    assert (missing_rules.LEAST_LOSS, missing_rules.GONE) == (missing.LEAST_LOSS, missing.GONE)


def test_bins_that_nobody_uses_change_nothing():
    counts, shares = np.array([30, 50, 20]), np.array([0.2, 0.5, 0.3])
    padded = drift_cases.scores(np.append(counts, [0, 0]), np.append(shares, [0, 0]), 800)
    assert padded == pytest.approx(drift_cases.scores(counts, shares, 800), rel=1e-12)


@pytest.mark.parametrize(
    ("record", "right", "wrong"),
    [
        ("model_signal:drift_df", "> 0)) - 1", ">= 0)) - 1"),
        ("model_signal:drift_psi", "1e-4", "1e-3"),
        ("model_signal:drift_z", "(1 / 3)", "(1 / 2)"),
        ("model:reference_rows", "max by", "sum by"),
        ("model_signal_bin:drift_rows", "sum by", "max by"),
        ("model_component:embedding_gap", "sum by (model, version, component)", "max by (model, version, component)"),
        ("model_signal:f_root", "- 1))", "- 2))"),
    ],
)
def test_a_wrong_drift_formula_is_noticed(run, tmp_path, record, right, wrong):
    file = rules.rule_files(PRODUCTION)["drift"]
    changed = [rule for group in file["groups"] for rule in group["rules"] if rule.get("record") == record]
    changed = [rule for rule in changed if right in rule["expr"]]  # the embedding's rule of that name is another
    assert changed
    for rule in changed:
        rule["expr"] = rule["expr"].replace(right, wrong)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/drift.yml").write_text(yaml.safe_dump(file))
    oracle = {"rule_files": ["rules/drift.yml"], **rule_tests.oracle(file)}
    (tmp_path / "oracle.yml").write_text(build.to_yaml(oracle))
    assert run("promtool", "test", "rules", tmp_path / "oracle.yml").returncode == 1


def test_a_window_without_rows_has_no_limit(run, tmp_path):
    file = rules.rule_files(PRODUCTION)["drift"]
    (tmp_path / "drift.yml").write_text(yaml.safe_dump(file))
    signals = drift_cases._steady("brightness", (1, 0, 0, 0)) | drift_cases._steady("contrast", (0, 0, 0, 0))
    inputs = drift_cases.info("1x90") | drift_cases._limits() | signals
    asked = 'count by (signal) (model_signal:drift_limit_restless{window="short"})'
    shown = [{"labels": '{signal="brightness"}', "value": 1}]
    moment = {"expr": asked, "eval_time": "10m", "exp_samples": shown}
    one = {"interval": "1m", "input_series": drift_cases._listed(inputs), "promql_expr_test": [moment]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["drift.yml"], "tests": [one]}))
    done = run("promtool", "test", "rules", tmp_path / "tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr
