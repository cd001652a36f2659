"""docs/serving.md is run: every curl command gives the status, and the JSON, that the page says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_release import make_draft, make_files

from registry import aliases, store
from registry.release import InputSpec
from serving import keys, openapi
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", PAGE, flags=re.M | re.S)
CHURN = InputSpec("float32", (2,), ("age", "plan"), {"plan": ("basic", "gold")}, {"age": 40.0})
CURL = 'curl() { command curl -sS --max-time 20 -w "\\n%{stderr}status %{http_code}\\n" "$@"; }'


@pytest.fixture(scope="module")
def services(place, start_service, eventually):
    """The three services the page speaks of, and a key for the third."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        for draft, files in (
            (make_draft("churn", CHURN, ("no", "yes")), make_files(place / "churn", CHURN, ("no", "yes"))),
            (make_draft("digits"), make_files(place / "digits")),
        ):
            aliases.promote(store.publish(draft, files).tag, "first")
    secret, key = keys.make(keys.Key("shop", b"", ("predict",)))
    keys.add(place / "keys.json", key)
    several = {"VIGIL_MODELS": "churn,digits"}
    kinds = {"": {}, "several": several, "keys": {"VIGIL_KEYS": str(place / "keys.json")}}
    started = {
        kind: start_service(place, **{"VIGIL_MODELS": "churn", "VIGIL_LOG": str(place / f"{kind}.sqlite")} | more)
        for kind, more in kinds.items()
    }
    for kind, service in started.items():
        eventually(f"{kind} ready", lambda service=service: service.call("/readyz")[0] == 200)
    return started, secret


def commands():
    """Yield (name, service, block, the JSON that follows it) of each bash block."""
    for i, (language, service, text) in enumerate(BLOCKS):
        if language == "bash":
            after = BLOCKS[i + 1] if i + 1 < len(BLOCKS) else ("", "", "")
            yield pytest.param(service, text, after[2] if after[0] == "json" else None, id=f"{i}-{text.split()[3]}")


def run(program, text, services, service, folder):
    started, secret = services
    text = text.replace("localhost:3000", started[service].url.removeprefix("http://"))
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": bin_first, "KEY": secret, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*program, text], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def shape_of(said):
    """Return JSON with every number, and every version and count of unknown ids, by its kind alone."""
    if isinstance(said, dict):
        return {
            key: "made" if key in ("version", "class", "unknown") else shape_of(value) for key, value in said.items()
        }
    if isinstance(said, list):
        return [shape_of(one) for one in said]
    return "number" if isinstance(said, float) else said


@pytest.mark.parametrize(("service", "block", "shown"), list(commands()))
def test_a_command_of_the_page_gives_the_status_and_the_answer_it_says(services, service, block, shown, tmp_path):
    done = run(["bash", "-euo", "pipefail", "-c"], f"{CURL}\n{block}", services, service, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"status (\d+)", done.stderr) == re.findall(r"^# (\d+)$", block, flags=re.M)
    if shown:
        expected, found = json.loads(shown), json.loads(done.stdout.split("\n")[-2])
        assert shape_of(found | ({"id": expected["id"]} if "id" in expected else {})) == shape_of(expected)


@pytest.mark.parametrize("text", [text for language, _, text in BLOCKS if language == "python"])
def test_a_program_of_the_page_ends_well(services, text, tmp_path):
    done = run([sys.executable, "-W", "error", "-c"], text, services, "", tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_page_tells_every_status_the_document_of_the_routes_has():
    listed = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, flags=re.M) for code in row.split(",")}
    assert listed == {*openapi.WHY, 200, 405}


def test_the_page_names_variables_that_there_are():
    known = {f"VIGIL_{name.upper()}" for name in Settings.__dataclass_fields__}
    assert set(re.findall(r"VIGIL_[A-Z_]+", PAGE)) <= known


def test_every_bash_block_has_as_many_statuses_as_commands():
    for language, _, text in BLOCKS:
        if language == "bash":
            assert len(re.findall(r"\bcurl ", text)) == len(re.findall(r"^# \d+$", text, flags=re.M))
