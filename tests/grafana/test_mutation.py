"""Would the promtool tests notice a broken alert? Here every alert is damaged in one way, all at the same time.

A firing case ends when its first alert is due, so a case that fails tells which alert is to blame. The score of
`benchmarks.mutate_rules`, where every mistake is made alone, is a slow proof.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import pytest

from benchmarks import mutate_rules
from grafana import cases, rule_tests, rules
from grafana.profile import PRODUCTION

FILES = rules.rule_files(PRODUCTION)
IN_TURN = ("threshold", "for", "never", "label")


def damaged(name, kinds):
    """Return a rule file with one mistake in every alert, their kinds in turn."""
    content, every = FILES[name], list(mutate_rules.mutations(name, FILES[name]))
    for alert in rules.ALERTS[name](PRODUCTION):
        own = [mutation for mutation in every if mutation.alert == alert]
        possible = {mutation.kind for mutation in own}
        kind = next(kind for kind in kinds if kind in possible)
        # Of limits the first is one that is harder to reach, of waiting none at all, of labels the severity.
        mutation = next(mutation for mutation in own if mutation.kind == kind)
        content = mutate_rules.with_rule(content, mutation.place, mutation.change)
    return content


def noticed(alert, failed, name):
    """Return whether a case that failed can only have failed because of this alert."""
    known = rules.ALERTS[name](PRODUCTION)
    alone = sum(other.name == alert.name for other in known) == 1
    for case in rule_tests.CASES[name]():
        if f"{case.alert}: {case.title}" in failed and case.alert == alert.name:
            due = cases.due(case, known)
            if alone or not due or min(due, key=lambda entry: entry[0])[2] == alert:
                return True
    return False


def test_one_mistake_in_each_alert_is_noticed_in_each(tmp_path):
    kinds = cycle(IN_TURN)

    def missed(job):
        name, content = job
        failed = mutate_rules.failing(name, content, rule_tests.CASES[name](), tmp_path / name)
        return [(a.name, a.severity, a.labels) for a in rules.ALERTS[name](PRODUCTION) if not noticed(a, failed, name)]

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(missed, [(name, damaged(name, kinds)) for name in FILES]), []) == []


def test_mutations_cover_every_alert_in_every_kind():
    every = [(m.alert.name, m.kind) for name, content in FILES.items() for m in mutate_rules.mutations(name, content)]
    for alert in rules.alerts(PRODUCTION):
        kinds = {kind for name, kind in every if name == alert.name}
        assert kinds >= {"never", "label", "annotation"} | ({"for"} if alert.for_s else set()), alert.name
    assert sum(kind == "threshold" for _, kind in every) > 120


def test_every_limit_of_drift_is_a_limit_that_is_mistaken():
    what = {m.what for m in mutate_rules.mutations("drift", FILES["drift"])}
    limits = "vigil_missing_class_z_threshold", "vigil_drift_z_threshold", "vigil_drift_psi_threshold"
    assert all(any(text.startswith(limit) for text in what) for limit in (*limits, "0.7 *"))


def test_a_class_that_lost_half_of_its_share_tells_limits_of_its_loss_that_are_too_low(tmp_path):
    # Its cases alone: they are over in ten minutes.
    own = [case for case in rule_tests.CASES["drift"]() if "half of" in case.title]
    lower = "0.7 *: 0.233", "vigil_missing_class_z_threshold * 0.333"
    chosen = [m for m in mutate_rules.mutations("drift", FILES["drift"]) if m.what in lower]
    for i, mutation in enumerate(chosen):
        broken = mutate_rules.with_rule(FILES["drift"], mutation.place, mutation.change)
        assert len(mutate_rules.failing("drift", broken, own, tmp_path / str(i))) == 1, mutation.what
    assert len(chosen) == len(lower)


def test_waiting_one_evaluation_longer_is_a_mistake():
    every = list(mutate_rules.mutations("serving", FILES["serving"]))
    longer = next(m for m in every if m.alert.name == "VigilAbsent" and (m.kind, m.what) == ("for", "longer"))
    assert longer.change({"for": "2m"}) == {"for": "3m"}


@pytest.mark.proof
def test_each_mistake_made_alone_is_noticed():
    kinds, missed = mutate_rules.score()
    print("", *(f"{kind}: {seen} of {total} noticed" for kind, (seen, total) in kinds.items()), *missed, sep="\n")
    assert {kind for kind, (seen, total) in kinds.items() if seen / total < mutate_rules.GOAL} == set()
