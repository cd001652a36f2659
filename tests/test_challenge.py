"""A challenge from door to door: the real service, the real log, late labels, and the verdict."""

import json

import numpy as np
import pytest
from tiny_release import DIGITS, IMAGE, make_draft, make_files, onnx_bytes, rows_of, run
from trapped import FAILS, HANGS, trapped

import vigil
from registry import aliases, durable, store

CLASSES = len(DIGITS)


@pytest.fixture(autouse=True)
def same_store(place, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(place))


@pytest.fixture(scope="module")
def releases(place):
    """Return the tags of a champion, one that answers otherwise, one like the champion, and one with traps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        tags = {}
        for name, seed in (("champion", 1), ("other", 2), ("alike", 1), ("trapped", 1)):
            files = make_files(place / f"files-{name}", seed=seed)
            if name == "trapped":
                (files / "model.onnx").write_bytes(trapped(onnx_bytes(IMAGE, CLASSES, seed)))
            tags[name] = store.publish(make_draft(purpose=name), files).tag
        aliases.promote(tags["champion"], "first")
    return tags


@pytest.fixture(scope="module")
def service(place, releases, start_service, eventually):
    started = start_service(place, VIGIL_REHEARSAL_MB="0", VIGIL_RECORD_ROWS_PER_S="1000000")
    eventually("readiness", lambda: started.call("/readyz")[0] == 200)
    return started


@pytest.fixture
def challenge(service, eventually):
    """Return a function that begins a challenge and waits until the service runs it; it is ended afterwards."""

    def begin(tag, share=1.0):
        aliases.challenge(tag, share, "promising")
        eventually("the challenger", lambda: runs(service, tag))

    yield begin
    if aliases.read("tiny").challenger is not None:
        aliases.end_challenge("tiny", "enough")
    eventually("no challenger", lambda: service.metric("vigil_model_info", stage="challenger") == 0)


def runs(service, tag):
    return service.metric("vigil_model_info", stage="challenger", version=tag.split(":")[1]) == 1


def shadow_rows(service, tag, outcome):
    return service.metric("vigil_shadow_rows_total", version=tag.split(":")[1], outcome=outcome)


def truth(rows, seed):
    """Return what the model made with `seed` says of rows, as class names."""
    return [DIGITS[k] for k in run(onnx_bytes(IMAGE, CLASSES, seed), rows, "probabilities").argmax(axis=1)]


def predict(service, rows, name):
    """Return the classes that the service answers to rows, whose ids begin with `name`."""
    ids = [f"{name}-{i}" for i in range(len(rows))]
    status, said = service.call("/v1/predict", {"rows": rows.tolist(), "ids": ids}, {"X-Request-Id": name})
    assert status == 200
    return [one["class"] for one in said["predictions"]]


def label(service, labels, name):
    pairs = [{"id": f"{name}-{i}", "label": said} for i, said in enumerate(labels)]
    assert service.call("/v1/labels", {"labels": pairs})[0] == 200


def verdict(capsys):
    assert vigil.main(["verdict", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def answer(service, name, requests=5, seed=0):
    """Send requests of 40 rows; return the rows, which the champion answered as it does without a challenger."""
    rows = rows_of(IMAGE, 40 * requests, seed)
    said = [one for k in range(requests) for one in predict(service, rows[40 * k : 40 * k + 40], f"{name}{k}")]
    assert said == truth(rows, seed=1)
    return rows


def tell(service, labels, name):
    for k in range(len(labels) // 40):
        label(service, labels[40 * k : 40 * k + 40], f"{name}{k}")


def recorded(service):
    return service.metric("vigil_shadow_records_total")


@pytest.mark.parametrize(
    ("challenger", "truth_seed", "expected"),
    [("other", 1, "reject"), ("other", 2, "promote"), ("alike", 1, "promote")],
    ids=["a worse one", "a better one", "one alike"],
)
def test_the_verdict_is_what_the_truth_says_once_labels_come(
    releases, service, challenge, eventually, capsys, challenger, truth_seed, expected
):
    tag, before, name = releases[challenger], recorded(service), f"{challenger}-{truth_seed}-"
    challenge(tag)
    rows = answer(service, name, requests=10)
    eventually("the shadow's answers on the log", lambda: recorded(service) == before + 400)
    said = verdict(capsys)
    ours, theirs = truth(rows, 1), truth(rows, 1 if challenger == "alike" else 2)
    agreement = sum(one == other for one, other in zip(ours, theirs, strict=True)) / 400
    assert (said["verdict"], said["rows"], said["labelled"]) == ("hold", 400, 0)
    assert said["agreement"] == pytest.approx(agreement)
    tell(service, truth(rows, truth_seed), name)
    said = verdict(capsys)
    assert (said["verdict"], said["labelled"], said["challenger"]) == (expected, 400, tag.split(":")[1])


def test_a_share_of_the_requests_is_taken_and_the_same_ones_as_elsewhere(releases, service, challenge, eventually):
    challenge(releases["other"], share=0.3)
    before = shadow_rows(service, releases["other"], "run")
    names = [f"request-{number}" for number in range(60)]
    for name in names:
        predict(service, rows_of(IMAGE, 2), name)
    taken = sum(crc(name) < 0.3 for name in names)
    assert 5 < taken < 35
    rows_taken = eventually("the rows", lambda: shadow_rows(service, releases["other"], "run") - before)
    eventually("all", lambda: shadow_rows(service, releases["other"], "run") - before == 2 * taken)
    assert rows_taken <= 2 * taken


def crc(name):
    """Return where the request stands between 0 and 1, by a CRC-32 that is written out here."""
    remainder = 0xFFFFFFFF
    for byte in name.encode():
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0xEDB88320 if remainder & 1 else 0)
    return (remainder ^ 0xFFFFFFFF) / 2**32


def test_what_is_not_recorded_is_not_run_unless_nothing_is_recorded_at_all(releases, place, start_service, eventually):
    aliases.challenge(releases["other"], 1.0, "promising")
    try:
        for variables, run_rows in (({"VIGIL_RECORD_ROWS_PER_S": "0"}, 0), ({"VIGIL_RECORD": "false"}, 200)):
            other = start_service(place, VIGIL_REHEARSAL_MB="0", **variables)
            eventually("the challenger", lambda: runs(other, releases["other"]))  # noqa: B023
            answer(other, "unrecorded")
            eventually("all counted", lambda: other.metric("vigil_stage_seconds_count", stage="infer") == 5)  # noqa: B023
            eventually("the rows", lambda: shadow_rows(other, releases["other"], "run") == run_rows)  # noqa: B023
            other.stop()
    finally:
        aliases.end_challenge("tiny", "enough")


def test_a_challenger_that_fails_or_hangs_changes_no_answer_and_ends_at_once(
    releases, service, challenge, eventually, capsys
):
    tag = releases["trapped"]
    failed, dropped = shadow_rows(service, tag, "failed"), shadow_rows(service, tag, "dropped")
    challenge(tag)
    answer(service, "before", seed=3)
    poisoned = rows_of(IMAGE, 3, seed=4)
    poisoned[0, 0, 0] = FAILS
    assert predict(service, poisoned, "fails") == truth(poisoned, 1)
    eventually("the failure", lambda: shadow_rows(service, tag, "failed") == failed + 1)  # not its neighbours
    poisoned[0, 0, 0] = HANGS
    assert predict(service, poisoned, "hangs") == truth(poisoned, 1)
    assert service.metric("vigil_ready") == 1  # a scrape hands on what was answered, so that these rows come alone
    answer(service, "during", requests=120, seed=5)  # 4,800 rows, of which 4,096 may wait
    eventually("drops", lambda: shadow_rows(service, tag, "dropped") > dropped)
    assert service.metric("vigil_requests_total", code="500") == 0
    aliases.end_challenge("tiny", "it hangs")
    eventually("no challenger", lambda: service.metric("vigil_model_info", stage="challenger") == 0)
    eventually("the rest", lambda: shadow_rows(service, tag, "dropped") == dropped + 4803)
    challenge(releases["other"])  # the next one runs
    before = shadow_rows(service, releases["other"], "run")
    answer(service, "after", seed=6)
    eventually("the rows", lambda: shadow_rows(service, releases["other"], "run") == before + 200)


def test_another_release_under_the_challengers_name_is_refused_and_the_champion_answers(
    releases, service, challenge, eventually
):
    challenge(releases["other"])
    before = service.metric("vigil_model_load_failures_total", reason="verify")
    said = json.loads(aliases.path("tiny").read_bytes())
    said["challenger"]["pin"]["digest"] = "0" * 64
    durable.write_atomically(aliases.path("tiny"), json.dumps(said).encode())
    eventually("the refusal", lambda: service.metric("vigil_model_load_failures_total", reason="verify") > before)
    assert service.metric("vigil_model_info", stage="challenger") == 0
    answer(service, "altered", seed=7)


def test_promoting_the_challenger_makes_it_live_and_ends_the_challenge(releases, service, challenge, eventually):
    challenge(releases["other"])
    change = aliases.promote(releases["other"], "the verdict says so", force=True)  # each holds its own truth
    assert change.ended == releases["other"].split(":")[1]
    version = releases["other"].split(":")[1]
    eventually("the new champion", lambda: service.metric("vigil_model_info", stage="live", version=version) == 1)
    eventually("no challenger", lambda: service.metric("vigil_model_info", stage="challenger") == 0)
    rows = rows_of(IMAGE, 40, seed=8)
    assert predict(service, rows, "promoted") == truth(rows, 2)
    assert np.unique(truth(rows, 2)).size > 1
    aliases.rollback("tiny", "for the next test")
