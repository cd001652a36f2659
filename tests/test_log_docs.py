"""docs/log.md is run: every bash block ends well, in order, and does what the page says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tiny_release import make_draft, make_files

from monitoring.log import policy, recorder
from monitoring.log.pseudonym import Pseudonyms
from monitoring.metrics import ServingMetrics
from registry import aliases, store
from registry.release import InputSpec
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "log.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.M | re.S)
CHURN = InputSpec("float32", (2,), ("age", "plan"), {"plan": ("basic", "gold")}, {"age": 40.0})
KEY = Pseudonyms(bytes(16))


@pytest.fixture(scope="module")
def folder(place, start_ready, tmp_path_factory, eventually):
    """A folder with the log of a service that answered some requests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        files = make_files(place / "churn", CHURN, ("no", "yes"))
        aliases.promote(store.publish(make_draft("churn", CHURN, ("no", "yes")), files).tag, "first")
    made = tmp_path_factory.mktemp("docs")
    service = start_ready(place, VIGIL_LOG=str(made / "log.sqlite"))
    for i in range(5, 12):
        body = {"rows": [{"age": 41, "plan": "gold"}, {"plan": "basic"}]}
        assert service.call("/v1/predict", body, {"X-Request-Id": f"order-{i}"})[0] == 200
    assert service.call("/v1/labels", {"labels": [{"id": "order-7-0", "label": "yes"}]})[0] == 200
    eventually("the rows on the log", lambda: service.metric("vigil_records_total") == 14)
    return made


def run(block, folder, home):
    first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": first, "PYTHONPATH": str(ROOT), "BENTOML_HOME": str(home)}
    command = ["bash", "-euo", "pipefail", "-c", block]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bash(word):
    """Return the block that has `word` in it."""
    found = [text for language, text in BLOCKS if language == "bash" and word in text]
    assert len(found) == 1
    return found[0]


def test_rows_are_shown_exported_and_erased_as_the_page_says(folder, place):
    shown = run(bash("log show"), folder, place)
    assert (
        shown.count("order-11-") == 2 + shown.count('"order-11-')
        and "plan basic" in shown
        and '"plan": "gold"' in shown
    )
    exported = run(bash("churn.parquet"), folder, place)
    assert exported.startswith("14 rows: churn.parquet\n") and '"gold"' in exported and '"yes"' in exported
    parts = run(bash("--this-hour"), folder, place)
    assert re.search(r"/labels/?.*\.parquet", parts) and len(re.findall("^parts/rows/churn/", parts, flags=re.M)) >= 1
    gone = run(bash("persons.txt"), folder, place)
    assert re.findall("erased (.*)", gone) == [
        "2 rows, 1 label, 0 answers of challengers of 2 row ids",
        "4 rows, 0 labels, 0 answers of challengers of 4 row ids",
    ]
    assert "/parts: 2 rows and labels in " in run(bash("--exports"), folder, place)


def test_the_service_of_the_page_keeps_what_its_policy_says(place, start_ready, tmp_path, eventually):
    text = bash("vigil serve")
    run(text.replace("vigil serve --port 3000", ""), tmp_path, place)
    said = dict(pair.split("=") for pair in re.search(r"^export (.*)$", text, flags=re.M)[1].split())
    service = start_ready(place, **{name: str(tmp_path / file) for name, file in said.items()})
    rows = {"rows": [{"age": 41, "plan": "gold"}]}
    assert service.call("/v1/predict", rows, {"X-Request-Id": "somebody-4711"})[0] == 200
    eventually("the row on the log", lambda: service.metric("vigil_records_total") == 1)
    shown = run("vigil log show --log private.sqlite", tmp_path, place)
    assert "age 40, plan gold" in shown and "somebody" not in shown


def test_the_policy_of_the_page_is_one_and_its_rules_are_all_there_are(tmp_path):
    (shown,) = [text for language, text in BLOCKS if language == "toml"]
    (tmp_path / "policy.toml").write_text(shown)
    made = policy.read(tmp_path / "policy.toml", KEY)
    assert made.hash_ids and not made.keep_undeclared
    assert made.models["churn"].columns == tomllib.loads(shown)["models"]["churn"]["columns"] | {
        "age": (18, 30, 50, 70)
    }
    assert set(re.findall(r'^\| `"(\w+)"` \|', PAGE, flags=re.M)) == set(policy.RULES)


def test_the_page_names_variables_metrics_and_numbers_that_there_are():
    known = {f"VIGIL_{name.upper()}" for name in Settings.__dataclass_fields__}
    assert set(re.findall(r"VIGIL_[A-Z_]+", PAGE)) <= known
    metrics = {one.name for one in ServingMetrics(CollectorRegistry()).registry.collect()}
    assert {name.removesuffix("_total") for name in re.findall(r"`(vigil_\w+)`", PAGE)} <= metrics
    assert f"after {recorder.LABEL_S:g} s" in PAGE
