"""Every page is followed literally: a real Prometheus answers its queries, a real store takes its commands."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from filled_log import fill
from tiny_release import make_draft, make_files

import vigil
from grafana import cases, rule_tests, rules, told
from grafana.profile import PRODUCTION
from grafana.serving_cases import before
from registry import aliases, durable, store
from tests.grafana import live
from tests.grafana.test_runbooks import ALERTS, blocks

PATIENCE_S = 120
# A query of a page has a number, unless it looks for what is wrong: then no result is the good answer.
LOOKS_FOR_WRONG = re.compile(r"unless|requested_provider!=|== 0|[<>]=? |ALERTS|quality_upper\b.*<")
EMPTY = {
    "offset 1d": "there was no day before",
    "probe_": "no blackbox exporter is there",
    "unrest": "48 short windows of rows are needed; test_twin.py has them",
    "_failed_total": "notifications are counted as failed once there were some",
    "vigil_log_deleted_total": "the log of these minutes is all that there is",
    "vigil_monitor_rebuilds_total": "the state of the monitor is whole; test_state.py has new starts",
    "vigil_monitor_failures_total": "the monitor works; test_parts.py has failures",
    "vigil_access_refused_total": "there are no keys; test_service_access.py refuses",
    'code=~"5.."': "no request of this model fails",
    'reason="provider"': "no other device was asked for",
    "vigil_quality_estimate": "shown while nothing has drifted, and here it has",
    "vigil_key_file_failures_total": "there is no key file",
    "vigil_followed_timestamp_seconds": "no server follows a shared place; test_service.py has one that does",
}
STARTS = ("serve", "watch", "report", "models sync")  # the stack, test_report.py and test_side_process.py run these


def queries(folder):
    """Return (page, query) of every page."""
    return [
        (name, query) for name in ALERTS for query in blocks((folder / "runbooks" / f"{name}.md").read_text(), "promql")
    ]


def commands(folder):
    """Return (page, command) of every page."""
    return [(name, said) for name in ALERTS for said in blocks((folder / "runbooks" / f"{name}.md").read_text(), "sh")]


def test_every_query_of_every_runbook_is_answered_and_shows_what_it_speaks_of(watched, grafana_folder):
    asked = {}
    for name, query in queries(grafana_folder):
        # Minutes are too long for a stack that has run for seconds; the data are the same.
        asked[re.sub(r"\[\d+[mhd]\]", f"[{live.WINDOW}]", query)] = name
    sound = [query for query in asked if not LOOKS_FOR_WRONG.search(query) and not any(why in query for why in EMPTY)]
    missing = live.until_all(watched, sound, PATIENCE_S)
    print(f"\n{len(asked)} queries, {len(sound)} must have a number")
    assert {query: asked[query] for query in missing} == {}
    for query in asked.keys() - set(sound):
        watched.ask(query)  # refused or many-to-many would fail here
    assert len(asked) > 120 and len(sound) > 0.6 * len(asked)


def test_what_is_empty_for_a_reason_is_in_a_runbook(grafana_folder):
    text = "\n".join(query for _, query in queries(grafana_folder))
    assert [why for why in EMPTY if why not in text] == []


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Three releases of one model in a store, a log, a key file and files of labels: what the pages speak of."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "store"))
        made = [store.publish(make_draft(), make_files(folder / f"files-{i}", seed=i, truth=2)) for i in range(3)]
        aliases.promote(made[0].tag, "first")
        fill(folder / "log.sqlite", made[0], ["r1", "r2"])
    for name in ("late.csv", "truth.csv"):
        (folder / name).write_text("id,label\nr1,0\nr2,1\n")
    return folder, made


def run(command):
    """Run a command as a shell would, in this process; return its status."""
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in words if re.match(r"VIGIL_\w+=", word))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        return vigil.main([word for word in words if word not in ("vigil", *(f"{k}={v}" for k, v in settings.items()))])


@pytest.fixture
def counter(shop, monkeypatch, home):
    """Stand where the commands are typed: with the bad release promoted and a challenge under way."""
    folder, (good, bad, other) = shop
    monkeypatch.setenv("BENTOML_HOME", str(folder / "store"))
    monkeypatch.setenv("VIGIL_LOG", str(folder / "log.sqlite"))
    monkeypatch.chdir(folder)
    if aliases.read(good.name).champion.version != bad.version:
        aliases.promote(bad.tag, "bad", force=True)
    aliases.challenge(other.tag, 1.0, "beside")
    Path("keys.json").unlink(missing_ok=True)
    assert vigil.main(["keys", "add", "NAME", "--role", "predict", "--file", "keys.json"]) == 0
    return good, bad, other


def test_every_command_of_every_runbook_does_what_it_is_there_for(counter, grafana_folder, capsys):
    good, bad, other = counter
    done, as_it_was = 0, aliases.path(good.name).read_bytes()
    for page, said in commands(grafana_folder):
        command = said.replace("NAME:VERSION", other.tag)
        words = " ".join(word for word in shlex.split(command) if not word.startswith("VIGIL_")).removeprefix("vigil ")
        if words.startswith(STARTS):
            continue
        before = aliases.read(good.name)
        assert run(command) == 0, (page, command, capsys.readouterr().err)
        after, done = aliases.read(good.name), done + 1
        if words.startswith("rollback"):
            assert (before.champion.version, after.champion.version) == (bad.version, good.version), page
        elif words.startswith("promote"):
            assert after.champion.version == other.version, page
        elif words.startswith("challenge --end"):
            assert before.challenger and not after.challenger, page
        elif words.startswith("keys remove"):
            assert "NAME" in capsys.readouterr().out
            assert vigil.main(["keys", "add", "NAME", "--role", "predict", "--file", "keys.json"]) == 0
        durable.write_atomically(aliases.path(good.name), as_it_was)
    print(f"\n{done} commands of runbooks were run")
    assert done > 25


def one_that_fires(name):
    """Return (rule file, case) of an alert, on a model "m" whose servers disagree on what was promoted before."""
    file = next(file for file, make in rules.ALERTS.items() if name in {alert.name for alert in make(PRODUCTION)})
    known = rules.ALERTS[file](PRODUCTION)
    firing = [case for case in rule_tests.CASES[file]() if case.alert == name and case.fires]
    case = min(firing, key=lambda case: cases.due(case, known)[0][0])
    disagree = before("1x400", "v0") | before("1x400", "v1", instance="b:3000")
    return file, replace(case, series=case.series | disagree)


def rendered(name, folder, promtool):
    """Return the command that Prometheus writes into an alert: promtool fires it and agrees with every word."""
    file, case = one_that_fires(name)
    content = rules.rule_files(PRODUCTION)[file]
    made = cases.case_file([case], rules.ALERTS[file](PRODUCTION), content)
    made["tests"] = made["tests"][:1]
    (folder / "rules.yml").write_text(json.dumps(content))
    (folder / "tests.yml").write_text(json.dumps({"rule_files": ["rules.yml"], **made}))
    done = promtool("promtool", "test", "rules", folder / "tests.yml")
    assert done.returncode == 0, (name, done.stdout + done.stderr)
    told = [one for check in made["tests"][0]["alert_rule_test"] for one in check["exp_alerts"]]
    return {one["exp_annotations"]["rollback"] for one in told}


def test_the_command_that_an_alert_is_sent_with_goes_back(counter, tmp_path, request):
    good, bad, _ = counter
    for name in told.UNDONE_BY_ROLLBACK:
        (command,) = rendered(name, tmp_path, request.getfixturevalue("run"))
        assert run(command.replace("--model m ", f"--model {good.name} ")) == 0, (name, command)
        assert aliases.read(good.name).champion.version == good.version
        aliases.promote(bad.tag, "bad", force=True)
