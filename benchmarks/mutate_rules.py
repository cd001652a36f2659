"""How many mistakes in an alert would the promtool tests notice?

Each alert is damaged in every way by itself, and the cases of that alert are run:

- never: it cannot fire; always: it fires whatever happens
- threshold: one limit is three times as high, or a third
- for: it does not wait, or one evaluation longer, in the steps of the cases in which it fires
- label: one of its labels has another value
- annotation: its description or a link says something else

python -m benchmarks.mutate_rules [--kind KIND] [--json]
"""

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana import rule_tests, rules
from grafana.cases import Case, case_file, due
from grafana.profile import MINUTE_S, PRODUCTION, duration
from grafana.statement import Alert, Statement

LIMIT = re.compile(r"(==|[<>]=?) ([0-9.]+)(?![\w.])")
LIMIT_METRICS = (
    r"vigil_drift_\w+_threshold", "vigil_missing_class_z_threshold",
    "vigil_quality_floor", "vigil_quality_slice_floor", "vigil_quality_decline_limit",
    "vigil_monitor_interval_seconds", "vigil_quality_min_rows", "vigil_drift_min_rows",
)  # fmt: skip
LIMIT_METRIC = re.compile(rf"\b((?:{'|'.join(LIMIT_METRICS)})\b(?:\{{[^}}]*\}})?)")
DRIFT = "VigilDataDrift"  # its limits are applied in records
FALLEN = "model_signal_bin:fallen_share"
DRIFT_LIMITS = (
    "model_signal:drifted_z", "model_signal:drift_limit",
    "model_signal:missing_limit", "model_signal:missing_z", FALLEN,
)  # fmt: skip
ALWAYS_ON, TIER = "Watchdog", "tier"
FACTOR = 3
GOAL = 0.95
Rule = dict[str, Any]


@dataclass(frozen=True)
class Mutation:
    """One mistake. place: of the rule in its file; change: returns the rule as it should not be."""

    kind: str
    alert: Alert
    place: int
    what: str
    change: Callable[[Rule], Rule]


def mutations(name: str, content: Statement) -> Iterator[Mutation]:
    """Yield every mutation of the alerts of one rule file."""
    known = rules.ALERTS[name](PRODUCTION)
    every = [rule for group in content["groups"] for rule in group["rules"]]
    places = [i for i, rule in enumerate(every) if "alert" in rule]
    for alert, place in zip(known, places, strict=True):
        for kind, what, change in _of_rule(every[place], _step_s(name, alert)):
            if alert.name != ALWAYS_ON or kind != "always":
                yield Mutation(kind, alert, place, what, change)
        if alert.name == DRIFT:
            for limits in (i for i, rule in enumerate(every) if rule.get("record") in DRIFT_LIMITS):
                expr = every[limits]["expr"]
                for kind, what, change in _shares(expr) if every[limits]["record"] == FALLEN else _thresholds(expr):
                    yield Mutation(kind, alert, limits, what, change)


def _step_s(name: str, alert: Alert) -> int:
    known = rules.ALERTS[name](PRODUCTION)
    return (
        min(case.step for case in rule_tests.CASES[name]() if alert in [one for _, _, one in due(case, known)])
        * MINUTE_S
    )


def _of_rule(rule: Rule, step_s: int) -> Iterator[tuple[str, str, Callable[[Rule], Rule]]]:
    yield "never", "", lambda one: one | {"expr": "vector(0) > 1"}
    yield "always", "", lambda one: one | {"expr": 'label_replace(vector(1), "model", "m", "", "")'}
    yield from _thresholds(rule["expr"])
    if "for" in rule:
        yield "for", "none", lambda one: {key: value for key, value in one.items() if key != "for"}
        yield "for", "longer", lambda one: one | {"for": _longer(one["for"], step_s)}
    for label in rule["labels"]:
        yield "label", label, lambda one, label=label: one | {"labels": one["labels"] | {label: "another"}}
    for key in rule["annotations"]:
        yield "annotation", key, lambda one, key=key: one | {"annotations": one["annotations"] | {key: "another"}}


def _thresholds(expr: str) -> Iterator[tuple[str, str, Callable[[Rule], Rule]]]:
    for found in LIMIT.finditer(expr):
        value = float(found[2])
        others = (value * FACTOR, value / FACTOR) if value > 1 or value % 1 else (value + 1, value - 1)
        for other in others if found[1] != "<" else others[::-1]:  # first what makes it harder to fire
            changed = f"{expr[: found.start(2)]}{other:g}{expr[found.end(2) :]}"
            yield "threshold", f"{found[0]}: {other:g}", lambda one, changed=changed: one | {"expr": changed}
    for found in LIMIT_METRIC.finditer(expr):
        for factor in (FACTOR, 1 / FACTOR):
            changed = f"{expr[: found.end()]} * {factor:.3g}{expr[found.end() :]}"
            yield "threshold", f"{found[1]} * {factor:.3g}", lambda one, changed=changed: one | {"expr": changed}


def _shares(expr: str) -> Iterator[tuple[str, str, Callable[[Rule], Rule]]]:
    # The share of its rows that a class must lose.
    for found in re.finditer(r"(?<=\()0\.\d+(?= \*)", expr):
        for other in (float(found[0]) / FACTOR, 1):
            changed = f"{expr[: found.start()]}{other:.3g}{expr[found.end() :]}"
            yield "threshold", f"{found[0]} *: {other:.3g}", lambda one, changed=changed: one | {"expr": changed}


def _longer(waits: str, step_s: int) -> str:
    seconds = int(waits[:-1]) * {"s": 1, "m": MINUTE_S, "h": 60 * MINUTE_S}[waits[-1]]
    return duration(seconds + step_s)


def with_rule(content: Statement, place: int, change: Callable[[Rule], Rule]) -> Statement:
    """Return a rule file with one rule changed."""
    broken = copy.deepcopy(content)
    for group in broken["groups"]:
        if place < len(group["rules"]):
            group["rules"][place] = change(group["rules"][place])
            return broken
        place -= len(group["rules"])
    raise LookupError(f"there is no rule {place}")


def failing(name: str, broken: Statement, cases: list[Case], folder: Path) -> set[str]:
    """Return the names of the cases that fail on a rule file."""
    folder.mkdir()
    (folder / "rules.yml").write_text(json.dumps(_needed(broken)))  # JSON is YAML, and quicker to write
    places = []
    for step in sorted({case.step for case in cases}):
        some = [case for case in cases if case.step == step]
        made = case_file(some, rules.ALERTS[name](PRODUCTION), broken)
        places.append(folder / f"tests-{step}.yml")
        places[-1].write_text(json.dumps({"rule_files": ["rules.yml"], **made}))
    command = ["promtool", "test", "rules", *map(str, places)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return set(re.findall(r"^ +name: (.*),$", done.stdout + done.stderr, re.MULTILINE))


def _needed(content: Statement) -> Statement:
    # Records that no alert reads, directly or through others, take most of the time.
    every = [rule for group in content["groups"] for rule in group["rules"]]
    text = " ".join(_read(rule) for rule in every if "alert" in rule)
    while True:
        wanted = [rule for rule in every if "alert" in rule or rule["record"] in text]
        longer = " ".join(_read(rule) for rule in wanted)
        if longer == text:
            break
        text = longer
    groups = [group | {"rules": [rule for rule in group["rules"] if rule in wanted]} for group in content["groups"]]
    return {"groups": [group for group in groups if group["rules"]]}


def _read(rule: Rule) -> str:
    return rule["expr"] + " ".join(rule.get("annotations", {}).values())


def noticed(mutation: Mutation, name: str, content: Statement, folder: Path) -> bool:
    """Return whether a case of the alert fails on this mutation, done alone."""
    known, alert = rules.ALERTS[name](PRODUCTION), mutation.alert
    cases = [case for case in rule_tests.CASES[name]() if case.alert == alert.name]
    firing = [(at, i) for i, case in enumerate(cases) for at, _, one in due(case, known) if one == alert]
    if mutation.kind in ("label", "annotation"):  # the shortest case in which it fires tells
        cases = [cases[min(firing)[1]]]
    elif TIER in alert.labels:
        cases = [case for i, case in enumerate(cases) if not case.fires or i in {at for _, at in firing}]
    return bool(failing(name, _alone(with_rule(content, mutation.place, mutation.change), alert), cases, folder))


def _alone(broken: Statement, alert: Alert) -> Statement:
    # Other alerts have no part in it, nor records of what this one does not select.
    def of_it(rule: Rule) -> bool:
        if "record" in rule:
            told = rule.get("labels", {}).items()
            return all(f'{key}="{value}"' in alert.expr or f'{key}="' not in alert.expr for key, value in told)
        return bool(
            rule["alert"] == alert.name and rule["labels"].get(TIER) in (None, "another", alert.labels.get(TIER))
        )

    groups = [group | {"rules": [rule for rule in group["rules"] if of_it(rule)]} for group in broken["groups"]]
    return {"groups": [group for group in groups if group["rules"]]}


def score(kinds: Sequence[str] = (), workers: int = 2) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Return per kind how many mutations were noticed, of how many, and those that were not; kinds: all if empty."""
    files = rules.rule_files(PRODUCTION)
    every = [(name, mutation) for name, content in files.items() for mutation in mutations(name, content)]
    every = [(name, mutation) for name, mutation in every if not kinds or mutation.kind in kinds]
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(workers) as pool:
        jobs = [(mutation, name, files[name], Path(place) / str(i)) for i, (name, mutation) in enumerate(every)]
        found = list(pool.map(lambda job: noticed(*job), jobs))
    counts: dict[str, Counter[bool]] = defaultdict(Counter)
    for (_, mutation), seen in zip(every, found, strict=True):
        counts[mutation.kind][seen] += 1
    missed = [_named(mutation) for (_, mutation), seen in zip(every, found, strict=True) if not seen]
    return {kind: (count[True], count.total()) for kind, count in counts.items()}, missed


def _named(mutation: Mutation) -> str:
    alert = mutation.alert
    return " ".join(filter(None, (alert.name, alert.severity, alert.labels.get("tier"), mutation.kind, mutation.what)))


def main() -> int:
    """Print the score; return 1 if a kind is under the goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutate_rules", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kind", action="append", default=[], help="only this kind; may be repeated")
    asked = parser.parse_args()
    since = time.monotonic()
    kinds, missed = score(asked.kind)
    seconds = round(time.monotonic() - since, 1)
    if asked.json:
        print(json.dumps({"kinds": kinds, "missed": missed, "seconds": seconds}))
    else:
        for kind, (seen, total) in kinds.items():
            print(f"{kind:11} {seen:4} of {total:4} noticed ({seen / total:.1%})")
        print(*missed, f"{seconds} s", sep="\n")
    return 0 if all(seen / total >= GOAL for seen, total in kinds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
