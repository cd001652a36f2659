"""The objectives are read from one file, and everything generated follows them."""

import pytest

from grafana import build, rule_tests, rules, slo
from grafana.profile import PRODUCTION
from monitoring.metrics import REQUEST_BUCKETS_S
from registry.errors import ConfigError

WHOLE = "[availability]\nobjective = 0.999\n[latency]\nobjective = 0.99\nbound_s = 0.25\n"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "slo.toml"


def test_the_file_of_the_repository_can_be_read_and_its_bound_is_a_bucket():
    found = slo.read()
    assert found.bound_s in REQUEST_BUCKETS_S
    assert (PRODUCTION.availability, PRODUCTION.latency, PRODUCTION.latency_bound_s) == (
        found.availability, found.latency, found.bound_s,
    )  # fmt: skip


def test_every_bucket_may_be_the_bound(file):
    for edge in REQUEST_BUCKETS_S:
        file.write_text(WHOLE.replace("0.25", f"{edge:g}"))
        assert slo.read(file) == slo.Objectives(0.999, 0.99, edge)


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("bound_s = 0.25", "bound_s = 0.3", r"latency.bound_s is 0.3; accepted is a bucket .* 0.1, 0.25, 0.5"),
        ("bound_s = 0.25", "bound_s = true", "latency.bound_s is True"),
        ("bound_s = 0.25", "bound = 0.25", "unknown key 'latency.bound'; did you mean 'latency.bound_s'?"),
        ("bound_s = 0.25\n", "", "key 'latency.bound_s' is missing"),
        ("objective = 0.999", "objective = 99.9", r"availability.objective is 99.9; accepted is a share"),
        ("objective = 0.999", "objective = 0.9", r"availability.objective is 0.9; accepted is a share from 0.95"),
        ("objective = 0.999", "objective = 1", "availability.objective is 1; accepted"),
        ("objective = 0.99\n", 'objective = "0.99"\n', "latency.objective is '0.99'; accepted"),
        ("[availability]", "[availabilty]", "unknown table 'availabilty'; did you mean 'availability'?"),
        ("[availability]\nobjective = 0.999\n", "availability = 1\n", "key 'availability.objective' is missing"),
        ("[latency]", "[latency", "slo.toml: is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_accepted(file, right, wrong, said):
    assert right in WHOLE
    file.write_text(WHOLE.replace(right, wrong, 1))
    with pytest.raises(ConfigError, match=said):
        slo.read(file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="gone.toml: there is no such file; it has the tables availability, latency"):
        slo.read(tmp_path / "gone.toml")


def test_build_says_what_is_wrong_and_writes_nothing(file, tmp_path, monkeypatch, capsys):
    file.write_text(WHOLE.replace("0.25", "0.3"))
    monkeypatch.setattr(slo, "FILE", file)
    out = tmp_path / "out"
    assert build.main(["--out", str(out)]) == 2
    assert "slo.toml: latency.bound_s is 0.3" in capsys.readouterr().err and not out.exists()


def test_rules_and_their_tests_follow_the_file(file, tmp_path, monkeypatch, run):
    file.write_text("[availability]\nobjective = 0.95\n[latency]\nobjective = 0.9999\nbound_s = 1\n")
    monkeypatch.setattr(slo, "FILE", file)
    content = rules.rule_files(PRODUCTION)["slo"]
    assert 'le="1.0"' in str(content) and "(1 - 0.9999)" in str(content)
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/slo.yml").write_text(build.to_yaml(content))
    for name, test in rule_tests.files_of("slo", rules.ALERTS["slo"](PRODUCTION), content).items():
        (tmp_path / f"{name}.yml").write_text(build.to_yaml({"rule_files": ["rules/slo.yml"], **test}))
    done = run("promtool", "test", "rules", *tmp_path.glob("*.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
