"""The replay against the rules themselves: the service's counters and the monitor's gauges of the same traffic, read
second by second by promtool with the rule files of the demo profile."""

import asyncio
import math
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from prometheus_client import CollectorRegistry, Gauge
from tiny_release import TABLE, make_draft, make_files, rows_of

from grafana import rules
from grafana.profile import DEMO
from monitoring.backtest import run
from monitoring.backtest.rules import ESTIMATE
from monitoring.counting.signal_metrics import SignalCollector
from monitoring.judge import slices
from monitoring.metrics import MonitorMetrics, ServingMetrics
from monitoring.monitor import watch
from monitoring.monitor.parts import WatchSettings
from registry import aliases, store
from serving.hosts import Hosts
from serving.settings import Settings
from tests.monitoring.recorded import answers, label, record, said

BEGIN_S, SECONDS, EACH_S = 1_200_000_000, 440, 25
DRIFT = ("vigil_signal", "vigil_reference", "vigil_embedding", "vigil_drift", "vigil_model_info")
QUALITY = ("vigil_quality", "vigil_label", "vigil_input_rows", "vigil_model_info")
DRIFT_S = 260  # what drifts is over by then: the rules of drift cost the most
LOOK_S = 5  # of the monitor
TALL, ONE, WRONG = (60, 90), (200, 230), (300, 340)  # seconds
YOUNG, LAST = (240, 270), 350  # wrong where age is low; the last second whose rows get a label
SLOW_S = 2 * LOOK_S + 2
APART_S = {
    "VigilDataDrift": 2,
    "VigilPredictionsCollapsed": 2,
    "VigilQualityUnderFloor": SLOW_S,
    "VigilQualityDeclined": SLOW_S,
    "VigilQualitySliceUnderFloor": SLOW_S,
    "VigilLabelsLate": SLOW_S,
    ESTIMATE: SLOW_S,
}


@pytest.fixture
def traffic(tmp_path):
    """A live release, the rows of each second, what it answered and the labels, which come two seconds later."""
    known = rows_of(TABLE, 2000)
    parts = slices.to_manifest(slices.fit(("age",), TABLE, known, np.ones(2000, bool), 0.9))
    draft = make_draft(spec=TABLE, quality={"metric": "accuracy", "floor": 0.9, "slices": parts})
    made = store.publish(draft, make_files(tmp_path / "files", TABLE, rows=2000))
    aliases.promote(made.tag, "first")
    rows = rows_of(TABLE, SECONDS * EACH_S, seed=8)
    second = np.arange(len(rows)) // EACH_S
    rows[(second >= TALL[0]) & (second < TALL[1]), 1] += 1
    rows[(second >= ONE[0]) & (second < ONE[1])] = rows[0]
    outputs = answers(made, rows)
    wrong = (second >= WRONG[0]) & (second < WRONG[1]) & (np.arange(len(rows)) % 2 == 0)
    wrong |= (second >= YOUNG[0]) & (second < YOUNG[1]) & (rows[:, 0] < parts[0]["cuts"][0])
    truth = np.where(wrong, "none", said(made, outputs)).tolist()
    return made, rows, outputs, truth


class Samples:
    """What a scrape of all metrics gave, second by second."""

    def __init__(self):
        self.series: dict[str, list[str]] = {}

    def scrape(self, at, *registries):
        for registry in registries:
            for family in registry.collect():
                for one in family.samples:
                    if one.name.startswith((*QUALITY, *(DRIFT if at < DRIFT_S else ()))):
                        labels = {"job": "vigil", "instance": "a:3000"} | one.labels
                        place = ",".join(f'{k}="{v}"' for k, v in labels.items())
                        values = self.series.setdefault(f"{one.name}{{{place}}}", [])
                        value = float(one.value) - (BEGIN_S if one.name.endswith("timestamp_seconds") else 0)
                        values += ["_"] * (at - len(values)) + [repr(value)]  # promtool's clock begins at 0

    def test(self, starts, checks):
        series = [{"series": k, "values": " ".join(v)} for k, v in self.series.items() if k.startswith(starts)]
        return {"interval": "1s", "input_series": series, "promql_expr_test": checks}


async def scrape_service(release, rows, outputs, samples, monitor):
    metrics = ServingMetrics(registry := CollectorRegistry())
    hosts = Hosts(Settings(models=(release.name,), rehearsal_mb=0, signal_rows_per_s=math.inf), metrics)
    registry.register(SignalCollector(hosts.states))
    await hosts.start(None)
    try:
        tally = hosts.find(release.name).serving().tally
        asked = metrics.input_rows.labels(release.name, release.version)
        for at in range(SECONDS):
            monitor(at)
            samples.scrape(at, registry, monitor.metrics.registry)
            here = slice(at * EACH_S, (at + 1) * EACH_S)
            tally.add(rows[here], outputs[here])
            tally.flush()
            asked.inc(EACH_S)
    finally:
        await hosts.stop()


class Monitor:
    """The monitor, which sees the log as it was at each moment."""

    def __init__(self, log, release, rows, outputs, truth):
        self.log, self.release, self.rows, self.outputs, self.truth = log, release, rows, outputs, truth
        self.metrics = MonitorMetrics(CollectorRegistry())
        self.settings = WatchSettings(log, interval_s=LOOK_S, window_s=120.0, min_rows=50)
        self.written = 0

    def __call__(self, at):
        if at % LOOK_S:
            return
        here = np.arange(self.written, at * EACH_S)
        if len(here):
            times = BEGIN_S + here / EACH_S
            record(self.log, self.release, self.rows[here], times, begin=self.written, outputs=self.outputs[here])
            label(
                self.log,
                [
                    (str(i), self.truth[i], times[i - self.written] + 2)
                    for i in here
                    if i < len(self.truth[: LAST * EACH_S])
                ],
            )
        self.written = at * EACH_S
        watch.measure(self.settings, self.metrics, float(BEGIN_S + at))


DRIFTS = {"VigilDataDrift", "VigilPredictionsCollapsed"}


@pytest.mark.proof
def test_the_replay_fires_when_prometheus_does(traffic, tmp_path):
    made, rows, outputs, truth = traffic
    log, samples = tmp_path / "log.sqlite", Samples()
    monitor = Monitor(log, made, rows, outputs, truth)
    asyncio.run(scrape_service(made, rows, outputs, samples, monitor))
    (found,) = run.backtest(run.Order(log, profile="demo"))
    told = {name: [one for one in found.firings if one.alert == name] for name in APART_S.keys() - {ESTIMATE}}
    assert all(told.values()), told
    tests = []
    for starts, names, end in ((DRIFT, DRIFTS, DRIFT_S), (QUALITY, APART_S.keys() - DRIFTS - {ESTIMATE}, SECONDS)):
        tests.append(samples.test(starts, [check for name in names for check in checks_of(name, told[name], end)]))
    said = promtool(tmp_path, tests)
    assert said.returncode == 0, said.stdout[-4000:] + said.stderr[-4000:]


@pytest.mark.proof
def test_estimates_under_the_floor_fire_in_the_replay_when_prometheus_does(tmp_path):
    files = make_files(tmp_path / "files", TABLE, rows=2000, right=0.8)
    made = store.publish(make_draft(spec=TABLE, accuracy=0.8), files)
    aliases.promote(made.tag, "first")
    rows = rows_of(TABLE, 2000)[np.arange(200 * EACH_S) % 2000]  # so like the reference that no sample seems to drift
    rows[140 * EACH_S :, 1] += 1  # drift, by which an estimate is no longer believed
    monitor = Monitor(tmp_path / "log.sqlite", made, rows, answers(made, rows), [])
    samples = Samples()
    model = Gauge("vigil_model_info", "", ("model", "version", "stage"), registry=(shown := CollectorRegistry()))
    model.labels(made.name, made.version, "live").set(1)
    for at in range(200):
        monitor(at)
        samples.scrape(at, shown, monitor.metrics.registry)
    (found,) = run.backtest(run.Order(monitor.log, profile="demo"))
    told = [one for one in found.firings if one.alert == ESTIMATE]
    assert len(told) == 1 and told[0].to_s is not None and 0.8 < told[0].value < 0.9
    said = promtool(tmp_path, [samples.test(QUALITY, checks_of(ESTIMATE, told, 200))])
    assert said.returncode == 0, said.stdout[-4000:] + said.stderr[-4000:]


def promtool(folder, tests):
    """Run tests of the rule files of the demo; return what promtool said."""
    files = {name: file for name, file in rules.rule_files(DEMO).items() if name in ("drift", "quality")}
    for name, file in files.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump(file))
    order = [group["name"] for file in files.values() for group in file["groups"]]
    document = {"evaluation_interval": "1s", "group_eval_order": order, "rule_files": ["*.yml"], "tests": tests}
    (folder / "replay.yaml").write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))
    program = shutil.which("promtool") or pytest.fail("promtool is not installed; run: apt-get install prometheus")
    command = [program, "test", "rules", str(folder / "replay.yaml")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def checks_of(name, firings, end):
    """Return whether the alert must fire at every tenth second, and just before and after what the replay says."""
    apart = APART_S[name] + 1
    checks, changes = [], [at - BEGIN_S for one in firings for at in (one.from_s, one.to_s) if at is not None]
    near = {int(change) + side * apart for change in changes for side in (-1, 1)}
    for at in sorted(near | set(range(5, end, 10))):
        now_s = BEGIN_S + at
        if 0 < at < end and all(abs(at - change) >= apart for change in changes):
            fires = any(one.from_s <= now_s and (one.to_s is None or now_s < one.to_s) for one in firings)
            samples = [{"labels": "{}", "value": 1}] if fires else []
            expr = f'group(ALERTS{{alertname="{name}",alertstate="firing"}})'
            checks.append({"expr": expr, "eval_time": f"{at}s", "exp_samples": samples})
    assert {bool(check["exp_samples"]) for check in checks} == {True, False}
    return checks
