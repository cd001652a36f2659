"""Stores that share releases through one place: what arrives is whole, checked, and never older than what is there."""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_release import make_draft, make_files

from registry import aliases, share, signing, store
from registry.errors import AliasError, ConfigError, ReleaseError, StackError

ROOT = Path(__file__).resolve().parents[2]


def champion(model="tiny"):
    return store.open_release(f"{model}:{aliases.read(model).champion.version}")


def test_a_replica_gets_the_champion_and_the_one_before_it_with_history_and_signature(
    at, shared, promoted, pair, monkeypatch
):
    made = [promoted(seed) for seed in (1, 2, 3)]
    for one in made:
        store.sign(one.tag, pair[0])
    said = aliases.read("tiny")
    assert set(share.push(shared)[0].releases) == {one.version for one in made}
    at("replica")
    monkeypatch.setenv(signing.VARIABLE, str(pair[1]))
    found = share.pull(shared)
    assert [(one.model, one.champion, one.changed) for one in found] == [("tiny", made[2].version, True)]
    assert found[0].releases == (made[1].version, made[2].version)
    assert aliases.read("tiny") == said and champion().digest == made[2].digest
    assert champion().manifest == made[2].manifest
    assert not (store.home() / "incoming").exists()


def test_promotion_and_rollback_follow_and_what_is_there_is_not_copied_again(at, shared, promoted):
    first = promoted(1)
    share.push(shared)
    at("replica")
    assert share.pull(shared)[0].size_bytes > 0
    assert share.pull(shared) == [share.Shared("tiny", first.version)]
    at("bentoml")
    second = promoted(2)
    assert share.push(shared)[0].releases == (second.version,)
    assert share.push(shared) == [share.Shared("tiny", second.version)]
    aliases.rollback("tiny", "slow")
    share.push(shared)
    at("replica")
    assert share.pull(shared) == [share.Shared("tiny", first.version, (), 0, True)]
    assert [change.action for change in aliases.read("tiny").history] == ["promote", "promote", "rollback"]


def test_a_challenger_comes_over_before_the_alias_that_names_it(at, shared, promoted, publish):
    promoted(1)
    other = publish(seed=2, created="2026-11-24T12:00:00Z")
    aliases.challenge(other.tag, 0.5, "newer data")
    share.push(shared)
    at("replica")
    share.pull(shared)
    assert store.open_release(other.tag).digest == aliases.read("tiny").challenger.pin.digest


def test_every_model_comes_over_or_the_one_that_is_named(at, shared, promoted):
    promoted(1, "apples")
    promoted(2, "pears")
    share.push(shared)
    at("replica")
    share.pull(shared, "pears")
    assert aliases.models() == ["pears"]
    assert [one.model for one in share.pull(shared)] == ["apples", "pears"]


def damage(content):
    return content[:-1] + bytes([content[-1] ^ 1])


ALTERED = [  # in the order in which they are brought: what arrived whole is not brought again
    ("card.md", damage, r"card\.md is not the file that was published"),
    ("model.onnx", damage, r"model\.onnx is not the file that was published"),
    ("model.onnx", lambda content: content[:-9], r"model\.onnx: is cut short"),
    ("model.onnx", None, "cannot be used"),
    ("manifest.json", damage, "its digest differs"),
    ("manifest.json", None, r"manifest\.json is not there"),
]


def test_a_release_that_was_altered_on_the_way_is_refused_and_the_old_champion_stays(at, shared, promoted, tmp_path):
    first = promoted(1)
    share.push(shared)
    at("replica")
    share.pull(shared)
    at("bentoml")
    second = promoted(2)
    share.push(shared)
    at("replica")
    for file, change, words in ALTERED:
        place = tmp_path / "shared" / "models" / "tiny" / second.version / file
        good = place.read_bytes()
        if change is None:
            place.unlink()
        else:
            place.write_bytes(change(good))
        with pytest.raises((ReleaseError, StackError), match=words):
            share.pull(shared)
        assert champion().version == first.version
        assert [one.tag for one in store.releases()] == [first.tag]
        place.write_bytes(good)
    share.pull(shared)
    assert champion().digest == second.digest


@pytest.mark.parametrize("change", [damage, lambda content: content[:-9], None])
def test_a_file_that_was_damaged_in_the_place_is_sent_again_by_the_push_that_the_error_names(
    at, shared, promoted, tmp_path, change
):
    made = promoted(1)
    share.push(shared)
    place = tmp_path / "shared" / "models" / "tiny" / made.version / "model.onnx"
    good = place.read_bytes()
    place.unlink() if change is None else place.write_bytes(change(good))
    at("replica")
    with pytest.raises((ReleaseError, StackError)):
        share.pull(shared)
    at("bentoml")
    assert share.push(shared) == [share.Shared("tiny", made.version, (made.version,), len(good), False)]
    assert share.push(shared) == [share.Shared("tiny", made.version)]
    at("replica")
    assert share.pull(shared)[0].champion == made.version


def test_a_signature_made_after_the_first_push_reaches_the_place_and_the_replicas(
    at, shared, promoted, pair, write_pair, monkeypatch
):
    made = promoted(1)
    share.push(shared)
    at("replica")
    share.pull(shared)
    for private, public in (pair, write_pair("next")):  # signed later, and then signed anew with another key
        at("bentoml")
        monkeypatch.delenv(signing.VARIABLE, raising=False)
        store.sign(made.tag, private)
        assert share.push(shared)[0].releases == (made.version,)
        at("replica")
        monkeypatch.setenv(signing.VARIABLE, str(public))
        with pytest.raises(ReleaseError):
            champion()
        assert share.pull(shared)[0].releases == (made.version,)
        assert champion().digest == made.digest
        assert share.pull(shared) == [share.Shared("tiny", made.version)]


def test_a_missing_signature_comes_over_with_the_next_change_where_none_is_demanded(at, shared, promoted, pair):
    first = promoted(1)
    share.push(shared)
    at("replica")
    share.pull(shared)
    at("bentoml")
    store.sign(first.tag, pair[0])
    promoted(2)
    share.push(shared)
    at("replica")
    share.pull(shared)
    here = store.open_release(first.tag).path / "model.sig"
    assert here.read_bytes() == (first.path / "model.sig").read_bytes()


def test_what_a_power_cut_left_of_an_incoming_release_does_not_hinder_a_later_look(at, shared, promoted):
    made = promoted(1)
    share.push(shared)
    at("replica")
    incoming = store.home() / "incoming" / "tiny" / made.version
    incoming.mkdir(parents=True)
    (incoming / "model.onnx").write_bytes(b"")
    assert share.pull(shared)[0].champion == made.version


def test_a_stray_file_in_an_incoming_release_hinders_one_look_and_no_more(at, shared, promoted):
    made = promoted(1)
    share.push(shared)
    at("replica")
    incoming = store.home() / "incoming" / "tiny" / made.version
    incoming.mkdir(parents=True)
    (incoming / "stray").touch()
    with pytest.raises(ReleaseError, match="were not published: stray"):
        share.pull(shared)
    assert share.pull(shared)[0].champion == made.version


def test_what_is_unsigned_or_of_another_digest_than_the_alias_says_is_refused(
    at, shared, promoted, pair, monkeypatch, tmp_path
):
    promoted(1)
    share.push(shared)
    at("replica")
    monkeypatch.setenv(signing.VARIABLE, str(pair[1]))
    with pytest.raises(ReleaseError, match="is not signed"):
        share.pull(shared)
    place = tmp_path / "shared" / "aliases" / "tiny.json"
    said = json.loads(place.read_text())
    said["line"][0]["digest"] = "0" * 64
    place.write_text(json.dumps(said))
    with pytest.raises(ReleaseError, match="its digest differs"):
        share.pull(shared)
    assert aliases.models() == [] and store.releases() == []


def test_aliases_that_cannot_be_read_change_nothing(at, shared, promoted, tmp_path):
    promoted(1)
    share.push(shared)
    at("replica")
    share.pull(shared)
    before = aliases.read("tiny")
    other = b'{"model": "other", "line": [], "challenger": null, "history": []}'
    for content in (b"", b"{", b"[]", other, b"[" * 100_000):
        (tmp_path / "shared" / "aliases" / "tiny.json").write_bytes(content)
        with pytest.raises(AliasError, match=r"shared/aliases/tiny\.json: the aliases cannot be read"):
            share.pull(shared)
        assert aliases.read("tiny") == before


def test_changes_that_the_other_side_lacks_are_named_and_dropped_only_if_asked(at, shared, promoted):
    promoted(1)
    share.push(shared)
    at("replica")
    share.pull(shared)
    own = promoted(7)
    with pytest.raises(AliasError, match=rf"this store has changes .*promote {own.version} by .*--overwrite"):
        share.pull(shared)
    at("bentoml")
    second = promoted(2)
    share.push(shared)
    at("replica")
    with pytest.raises(AliasError, match=rf"file://.* has changes that this store has not .*promote {second.version}"):
        share.push(shared)
    share.pull(shared, overwrite=True)
    assert champion().digest == second.digest and len(aliases.read("tiny").history) == 2


def test_an_older_state_put_back_in_the_shared_place_does_not_take_a_replica_back(at, shared, promoted, tmp_path):
    promoted(1)
    share.push(shared)
    place = tmp_path / "shared" / "aliases" / "tiny.json"
    old = place.read_bytes()
    promoted(2)
    share.push(shared)
    at("replica")
    share.pull(shared)
    place.write_bytes(old)
    with pytest.raises(AliasError, match="this store has changes"):
        share.pull(shared)
    assert len(aliases.read("tiny").line) == 2


def test_a_change_made_here_while_a_release_comes_over_is_not_lost(promoted):
    promoted(1)
    before, content = aliases.load("tiny")
    newer = replace(before, history=(*before.history, before.history[0]))
    promoted(2)
    with pytest.raises(AliasError, match="was changed here in the meantime"):
        aliases.adopt(newer, b"", content)
    assert len(aliases.read("tiny").line) == 2


def test_a_champion_of_before_that_was_deleted_stops_nobody(at, shared, promoted):
    old, new = promoted(1), promoted(2)
    for path in old.path.iterdir():
        path.unlink()
    old.path.rmdir()
    share.push(shared)
    at("replica")
    assert share.pull(shared)[0].releases == (new.version,)


def test_one_model_that_cannot_be_taken_does_not_hinder_the_others(at, shared, promoted, tmp_path):
    for seed, name in enumerate(("apples", "pears", "plums")):
        promoted(seed, name)
    share.push(shared)
    for name in ("apples", "pears"):
        (tmp_path / "shared" / "aliases" / f"{name}.json").write_bytes(b"")
    at("replica")
    with pytest.raises(StackError, match=r"apples\.json: .*; file:.*pears\.json: "):
        share.pull(shared)
    assert aliases.models() == ["plums"]


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("/srv/releases", ConfigError, r"is no URL; accepted are .*; a folder is written file:///srv/releases$"),
        ("releases", ConfigError, r"releases: is no URL; accepted are file:///FOLDER, s3://.*memory://\.\.\.$"),
        ("nowhere://x", ConfigError, "nowhere"),
        ("file:///nowhere/at/all", StackError, "holds no releases; send some: vigil models push file:///nowhere"),
    ],
)
def test_a_place_that_is_none_is_said_with_the_cure(url, error, words):
    with pytest.raises(error, match=words):
        share.pull(url)


def test_a_full_disk_is_said_in_words_and_the_next_pull_goes_on(at, shared, promoted, small_files):
    promoted(1)
    share.push(shared)
    at("replica")
    with small_files(), pytest.raises(ReleaseError, match="cannot be put into .*: File too large"):
        share.pull(shared)
    assert store.releases() == []
    assert share.pull(shared)[0].changed


def test_any_file_system_of_fsspec_will_do(at, promoted):
    promoted(1)
    share.push("memory://bucket/releases")
    at("replica")
    assert share.pull("memory://bucket/releases")[0].changed


def heavy(home, folder, seed, size_bytes):
    """Publish a release with a large file as the champion of the store `home`."""
    files = make_files(folder / f"heavy-{seed}", seed=seed)
    (files / "weights.bin").write_bytes(random.Random(seed).randbytes(size_bytes))
    made = store.publish(make_draft(created=f"2026-11-24T11:00:{seed:02d}Z"), files)
    aliases.promote(made.tag, "first", force=True)
    return made


def test_what_a_killed_pull_had_brought_is_not_brought_again(at, shared, tmp_path, home):
    made = heavy(home, tmp_path, 1, 3_000_000)
    share.push(shared)
    at("replica")
    incoming = store.home() / "incoming" / "tiny"
    incoming.mkdir(parents=True)
    part = incoming / f"{made.version}.weights.bin.part"
    part.write_bytes(made.read("weights.bin")[:2_000_000])
    place = tmp_path / "shared" / "models" / "tiny" / made.version / "weights.bin"
    place.write_bytes(bytes(2_000_000) + place.read_bytes()[2_000_000:])  # would be noticed if read again
    assert share.pull(shared)[0].champion == made.version
    assert champion().read("weights.bin") == made.read("weights.bin")


def sync(home, url):
    environment = os.environ | {"BENTOML_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vigil", "models", "sync", url]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.proof
def test_thirty_killed_pulls_leave_nothing_half_done(at, shared, tmp_path, home, eventually):
    draw, inside, resumed = random.Random(0), 0, 0
    for seed in range(1, 31):
        at("bentoml")
        made = heavy(home, tmp_path, seed, 40_000_000)
        share.push(shared)
        at("replica")
        running = sync(tmp_path / "replica", shared)
        incoming = tmp_path / "replica" / "vigil" / "incoming" / "tiny"
        eventually("the first file", lambda: running.poll() is not None or any(incoming.glob("*")))  # noqa: B023
        time.sleep(draw.uniform(0, 0.4))  # not waiting for something: a moment to die at
        running.kill()
        running.communicate()
        inside += incoming.exists()
        resumed += any(path.stat().st_size for path in incoming.glob("*.part"))
        for listing in store.releases():
            assert listing.problem is None
            store.open_release(listing.tag)
        if aliases.read("tiny").champion:
            champion()
        share.pull(shared)
        assert champion().digest == made.digest and not incoming.exists()
    print(f"30 pulls of 40 MB killed: {inside} inside, {resumed} with a part to go on from; 0 half done, 30 followed")
    assert inside > 10
