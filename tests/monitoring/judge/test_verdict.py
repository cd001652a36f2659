"""The verdict on real releases and a real log, as monitor and command line give it."""

import json
import shlex
import time
from contextlib import closing

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tiny_release import TABLE, make_draft, make_files

import vigil
from monitoring.judge import verdict
from monitoring.log import recorder
from monitoring.log.recorder import Recorder, Records, Shadowed
from monitoring.metrics import MonitorMetrics
from registry import aliases, store
from registry.errors import AliasError, DataError, ReleaseError

MAE = {"metrics": {"mae": {"value": 1.0, "lower": 0.9, "upper": 1.1}}, "spec": TABLE, "classes": ()}


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def challenged(publish):
    """Return a function that publishes a champion and a challenger and gives both."""

    def make(**changed):
        champion, challenger = publish(seed=1, **changed), publish(seed=2, **changed)
        aliases.promote(champion.tag, "first")
        aliases.challenge(challenger.tag, 0.5, "promising")
        return champion, challenger

    return make


def fill(log, pair, rows, start=0):
    """Write rows (champion's answer, challenger's answer, label or None) to the log, as the service does."""
    champion, challenger = pair
    ids, now = [f"r-{start + i}" for i in range(len(rows))], time.time()
    said = [[str(row[k]) for row in rows] for k in (0, 1)]
    outputs = np.ones((len(rows), 1 if champion.manifest.task == "regression" else 10), dtype=np.float32)
    write = Recorder(log)
    write.put(Records("tiny", champion.version, now, ids, said[0], outputs, outputs))
    write.put(Shadowed("tiny", challenger.version, now, ids, said[1], outputs))
    write.close()
    with closing(recorder.connect(log)) as connection:
        labels = [(ident, str(row[2])) for ident, row in zip(ids, rows, strict=True) if row[2] is not None]
        recorder.add_labels(connection, labels)


def classified(both, better, worse, neither=0, unlabelled=0):
    """Return rows in a mixed order: right in both, in the challenger or the champion alone, or in none."""
    rows = [(1, 1, 1)] * both + [(2, 1, 1)] * better + [(1, 2, 1)] * worse + [(2, 3, 1)] * neither
    rows += [(1, 1, None)] * unlabelled
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def test_a_better_challenger_is_to_be_promoted(challenged, log):
    pair = challenged()
    fill(log, pair, classified(700, 80, 20, 10, unlabelled=90))
    said = verdict.judge(log, "tiny")
    assert (said.verdict, said.reason) == ("promote", "surely better")
    assert (said.rows, said.labelled, said.agreement) == (900, 810, 790 / 900)
    assert (said.champion_value, said.challenger_value) == (720 / 810, 780 / 810)
    assert said.loss == pytest.approx(-60 / 810) and said.loss_lower < said.loss < said.loss_upper < 0
    assert (said.champion, said.challenger, said.share) == (pair[0].version, pair[1].version, 0.5)
    assert said.command == 'vigil verdict tiny --promote --why "..."'


def test_an_equal_challenger_is_to_be_promoted_as_not_worse_by_the_margin(challenged, log):
    fill(log, challenged(), classified(1980, 10, 10))
    said = verdict.judge(log, "tiny")
    assert (said.verdict, said.reason) == ("promote", "surely within the margin that its gate allows")
    assert 0 < said.loss_upper < said.margin == 0.02


def test_a_worse_challenger_is_to_be_rejected(challenged, log):
    fill(log, challenged(), classified(700, 20, 90))
    said = verdict.judge(log, "tiny")
    assert said.verdict == "reject" and said.loss_lower > 0.02
    assert said.command == 'vigil challenge --end --model tiny --why "..."'


def test_until_the_labels_tell_it_holds_and_says_how_many_are_needed(challenged, log):
    pair = challenged()
    fill(log, pair, classified(190, 5, 5))
    said = verdict.judge(log, "tiny")
    assert said.verdict == "hold" and f"about {said.rows_to_tell} labelled rows will" in said.reason
    rows = said.rows_to_tell // 200 + 1
    fill(log, pair, classified(190, 5, 5) * rows, start=1000)
    assert verdict.judge(log, "tiny").verdict == "promote"


@pytest.mark.parametrize(("rows", "verdict_of_all"), [(49, "hold"), (50, "reject")])
def test_below_fifty_labelled_rows_it_holds_whatever_they_say(challenged, log, rows, verdict_of_all):
    fill(log, challenged(), classified(0, 0, rows))
    assert verdict.judge(log, "tiny").verdict == verdict_of_all


def test_a_margin_of_none_asks_for_proof_of_being_better(challenged, log):
    pair = challenged(gate={"margin": 0.0, "confidence": 0.95, "beats_baselines": True})
    fill(log, pair, classified(3000, 0, 0))
    said = verdict.judge(log, "tiny")
    assert (said.verdict, said.reason) == ("hold", "the labels do not tell yet; nor will they soon")
    fill(log, pair, classified(100, 60, 20), start=5000)
    assert verdict.judge(log, "tiny").verdict == "promote"


def test_only_rows_of_this_challenge_and_this_champion_count(challenged, log, publish):
    champion, challenger = challenged()
    fill(log, (champion, challenger), classified(0, 0, 100))
    aliases.end_challenge("tiny", "enough")
    aliases.challenge(challenger.tag, 1.0, "again")
    assert verdict.judge(log, "tiny").rows == 0
    fill(log, (publish(seed=3), challenger), classified(0, 100, 0), start=1000)  # of another champion
    fill(log, (champion, publish(seed=4)), classified(0, 100, 0), start=2000)  # of another challenger
    assert verdict.judge(log, "tiny").rows == 0
    fill(log, (champion, challenger), classified(60, 0, 0), start=3000)
    assert verdict.judge(log, "tiny").labelled == 60


def test_the_last_label_of_a_row_counts(challenged, log):
    fill(log, challenged(), classified(0, 0, 60))
    with closing(recorder.connect(log)) as connection:
        recorder.add_labels(connection, [(f"r-{i}", "2") for i in range(60)])
    assert (verdict.judge(log, "tiny").challenger_value, verdict.judge(log, "tiny").champion_value) == (1.0, 0.0)


def regression(growth, rows=1500, blunders=0):
    generator = np.random.default_rng(0)
    truth, noise = generator.normal(0, 5, rows), generator.laplace(0, 1, rows)
    other = growth * (0.8 * noise + 0.4 * generator.laplace(0, 1, rows))
    other[:blunders] = 1e6
    return [(float(t + a), float(t + b), float(t)) for t, a, b in zip(truth, noise, other, strict=True)]


@pytest.mark.parametrize(("growth", "told"), [(0.8, "promote"), (1.3, "reject")])
def test_a_regression_is_judged_on_its_absolute_errors(challenged, log, growth, told):
    rows = regression(growth)
    fill(log, challenged(**MAE), rows)
    said = verdict.judge(log, "tiny")
    champion, challenger = (float(np.mean([abs(row[k] - row[2]) for row in rows])) for k in (0, 1))
    assert said.verdict == told and said.metric == "mae"
    assert (said.champion_value, said.challenger_value) == (pytest.approx(champion), pytest.approx(challenger))
    assert said.loss == pytest.approx(challenger / champion - 1) and said.loss_lower < said.loss < said.loss_upper
    near = np.mean([abs(row[0] - row[1]) <= 2.5 for row in rows])
    assert said.agreement == pytest.approx(near)


def test_few_blunders_of_a_challenger_that_is_else_better_hold_it(challenged, log):
    fill(log, challenged(**MAE), regression(0.8, blunders=2))
    said = verdict.judge(log, "tiny")
    assert (
        said.verdict == "hold" and "few large errors, above 10, make the challenger's mean error larger" in said.reason
    )


def test_errors_far_from_those_of_the_held_out_rows_hold_it(challenged, log):
    rows = [(a, b, truth + 100) for a, b, truth in regression(0.8)]
    fill(log, challenged(**MAE), rows)
    said = verdict.judge(log, "tiny")
    assert said.verdict == "hold" and "100% of the errors exceed 10 times the held-out mean" in said.reason


def test_a_label_that_is_no_number_is_none_in_a_regression(challenged, log):
    fill(log, challenged(**MAE), [(1.0, 1.0, "dear"), (1.0, 1.0, 1.5)])
    assert (verdict.judge(log, "tiny").labelled, verdict.judge(log, "tiny").champion_value) == (1, 0.5)


def test_without_a_challenge_or_a_log_it_says_what_to_do(challenged, log):
    with pytest.raises(AliasError, match="no challenge is under way; begin one: vigil challenge TAG"):
        verdict.judge(log, "tiny")
    challenged()
    with pytest.raises(DataError, match=r"log\.sqlite: there is no prediction log; name the one"):
        verdict.judge(log, "tiny")
    log.write_bytes(b"this is no database" * 100)
    with pytest.raises(DataError, match=r"log\.sqlite: cannot be read"):
        verdict.judge(log, "tiny")


def test_a_challenger_that_left_the_store_is_named(challenged, log):
    _, challenger = challenged()
    fill(log, (_, challenger), classified(10, 0, 0))
    (challenger.path / "manifest.json").unlink()
    with pytest.raises(ReleaseError, match=f"{challenger.tag}: is not in the store any more; end the challenge"):
        verdict.judge(log, "tiny")


def test_the_command_prints_numbers_bounds_sentence_and_what_to_run_next(challenged, log, capsys):
    pair = challenged()
    fill(log, pair, classified(700, 80, 20))
    assert vigil.main(["verdict", "--log", str(log)]) == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {key: value.strip() for key, value in shown.items()}
    assert shown["challenger"].startswith(f"{pair[1].tag}, 50 % of the requests since 20")
    assert shown["answered by both"] == "800 rows, 87.50% of them alike"
    assert shown["accuracy"] == "champion 0.9, challenger 0.975"
    assert shown["difference"].startswith("+0.0750, +0.0")
    assert shown["difference"].endswith("(95% sure each, at every look), allowed -0.0200")
    assert (shown["verdict"], shown["next"]) == ("promote: surely better", 'vigil verdict tiny --promote --why "..."')
    assert vigil.main(["verdict", "tiny", "--log", str(log), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["labelled"], said["command"]) == ("promote", 800, shown["next"])


def few_in_common(tmp_path, publish, **changed):
    """Return a champion and a challenger that held 30 rows out both, where 50 are needed to compare them by those."""
    champion = publish(seed=1)
    files = make_files(tmp_path / "files", seed=2)
    with np.load(files / "heldout.npz") as held:
        arrays = dict(held)
    np.savez(files / "heldout.npz", **(arrays | {"key": arrays["key"] + np.uint64(270)}))
    challenger = store.publish(make_draft(**changed), files)
    aliases.promote(champion.tag, "first")
    aliases.challenge(challenger.tag, 0.5, "promising")
    return champion, challenger


def test_what_a_verdict_says_to_run_does_it_though_few_held_out_rows_are_common(tmp_path, publish, log, capsys):
    pair = few_in_common(tmp_path, publish)
    with pytest.raises(AliasError, match="only 30 held-out rows in common with the champion, 50 are needed"):
        aliases.promote(pair[1].tag, "the verdict says so")
    fill(log, pair, classified(700, 80, 20))
    said = verdict.judge(log, "tiny")
    command = said.command.replace("...", "the labels are for it")
    assert vigil.main([*shlex.split(command)[1:], "--log", str(log)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"promote: {pair[0].version} -> {pair[1].version}"
    assert lines[1].startswith(
        f"  on 800 labelled rows of the traffic its accuracy is 0.0750 higher than that of {pair[0].version}; with 95% "
        "confidence at least 0.0"
    )
    assert lines[1].endswith(" higher (0.0200 lower is allowed)")
    state = aliases.read("tiny")
    assert state.champion.version == pair[1].version and state.challenger is None
    change = state.history[-1]
    assert (change.why, change.forced, change.ended) == ("the labels are for it", (), pair[1].version)
    assert (change.live.rows, change.live.champion, change.live.challenger) == (800, pair[0].version, pair[1].version)
    assert (change.live.loss, change.live.loss_upper) == (said.loss, said.loss_upper)
    assert vigil.main(["history"]) == 0
    assert "by 800 labelled rows of the traffic" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [classified(400, 5, 100), classified(20, 2, 1)], ids=["reject", "hold"])
def test_nothing_is_promoted_by_another_verdict(tmp_path, publish, log, rows, capsys):
    pair = few_in_common(tmp_path, publish)
    fill(log, pair, rows)
    said = verdict.judge(log, "tiny")
    assert vigil.main(["verdict", "--promote", "--why", "hurry", "--log", str(log)]) == 2
    assert f"not promoted; the verdict is {said.verdict}: {said.reason}" in capsys.readouterr().err
    assert aliases.read("tiny").champion.version == pair[0].version


def test_a_challenger_that_promotion_refuses_in_any_case_is_held_and_the_next_command_overrules_that(
    tmp_path, publish, log, capsys
):
    gate = {"margin": 0.02, "confidence": 0.95, "beats_baselines": False}
    pair = few_in_common(tmp_path, publish, gate=gate)
    fill(log, pair, classified(700, 80, 20))
    said = verdict.judge(log, "tiny")
    assert said.verdict == "hold"
    assert said.reason == "surely better; yet it does not beat the baselines it was trained with"
    words = shlex.split(said.command.partition(",")[0].replace("...", "no better one is there"))
    assert vigil.main(words[1:]) == 0
    assert aliases.read("tiny").history[-1].forced[0] == "it does not beat the baselines it was trained with"


def test_a_verdict_on_a_challenge_that_ended_promotes_nothing(tmp_path, publish, log):
    pair = few_in_common(tmp_path, publish)
    fill(log, pair, classified(700, 80, 20))
    said = verdict.judge(log, "tiny")
    aliases.end_challenge("tiny", "meanwhile")
    with pytest.raises(AliasError, match="the challenge that the verdict is about is not under way any more"):
        verdict.promote(said, "late")
    aliases.challenge(pair[1].tag, 0.5, "again")
    with pytest.raises(AliasError, match="not under way any more"):
        verdict.promote(said, "late")


def test_the_command_shows_how_the_error_of_a_regression_grew(challenged, log, capsys):
    fill(log, challenged(**MAE), regression(1.3))
    assert vigil.main(["verdict", "--log", str(log)]) == 0
    out = capsys.readouterr().out
    assert "\ngrowth" in out and "allowed +2.0%" in out and "\nverdict           reject: surely worse" in out


def shown_by(metrics):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.registry.collect() for sample in family.samples
        if sample.name.startswith(("vigil_challenge", "vigil_monitor_failures_total"))
    }  # fmt: skip


def test_the_monitor_shows_the_verdict_and_forgets_an_ended_challenge(challenged, log):
    metrics = MonitorMetrics(CollectorRegistry())
    pair = challenged()
    fill(log, pair, classified(700, 80, 20))
    with closing(recorder.connect(log)) as connection:
        verdict.look(connection, ["tiny"])(metrics)
        place = ("tiny", pair[1].version)
        assert shown_by(metrics) == {
            ("vigil_challenge_rows", *place): 800,
            ("vigil_challenge_verdict", *place, "promote"): 1,
            ("vigil_challenge_verdict", *place, "hold"): 0,
            ("vigil_challenge_verdict", *place, "reject"): 0,
        }
        aliases.end_challenge("tiny", "enough")
        verdict.look(connection, ["tiny"])(metrics)
        assert shown_by(metrics) == {}


def test_aliases_that_cannot_be_read_are_counted_and_stop_no_other_model(challenged, log):
    metrics = MonitorMetrics(CollectorRegistry())
    pair = challenged()
    fill(log, pair, classified(60, 0, 0))
    aliases.path("broken").write_text("{")
    with closing(recorder.connect(log)) as connection:
        verdict.look(connection, ["broken", "tiny"])(metrics)
    assert shown_by(metrics)["vigil_monitor_failures_total", "AliasError"] == 1
    assert shown_by(metrics)["vigil_challenge_rows", "tiny", pair[1].version] == 60
