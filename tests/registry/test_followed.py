"""Where a change is made, how it travels on, and what a store that follows does with what it no longer needs."""

import json
import re
import shlex

import pytest
from tiny_release import make_draft, make_files

import vigil
from registry import aliases, collect, followed, share, store
from registry.errors import AliasError


def champion(model="tiny"):
    return store.open_release(f"{model}:{aliases.read(model).champion.version}")


def newer(said):
    """Return aliases as a newer program could write them: each record has one field more."""
    records = [*said["line"], *said["history"], said["challenger"], said["challenger"]["pin"], said]
    for record in records:
        record["of_a_newer_program"] = 1
    return json.dumps(said).encode()


def test_fields_that_a_newer_program_added_are_read_over_and_kept(at, shared, promoted, publish, tmp_path):
    promoted(1)
    aliases.challenge(publish(seed=2, created="2026-11-24T12:00:00Z").tag, 0.5, "newer data")
    share.push(shared)
    place = tmp_path / "shared" / "aliases" / "tiny.json"
    content = newer(json.loads(place.read_bytes()))
    place.write_bytes(content)
    before = aliases.read("tiny")
    at("replica")
    assert share.pull(shared)[0].changed
    assert aliases.read("tiny") == before and aliases.path("tiny").read_bytes() == content


def test_a_change_is_sent_by_itself_where_a_place_is_named(at, shared, promoted, capsys, monkeypatch, tmp_path):
    first = promoted(1)
    share.push(shared)
    monkeypatch.setenv("VIGIL_RELEASES", shared)
    second = store.publish(make_draft(created="2026-11-24T12:00:00Z"), make_files(tmp_path / "second", seed=2))
    for arguments, live in (
        (["promote", second.tag, "--force"], second),
        (["rollback"], first),
    ):
        assert vigil.main([*arguments, "--why", "it is time"]) == 0
        assert capsys.readouterr().out.endswith(f"sent to {shared}\n")
        at("replica")
        assert share.pull(shared)[0].champion == live.version
        at("bentoml")


def test_a_change_that_cannot_be_sent_stays_and_the_command_that_sends_it_is_told(
    at, promoted, capsys, monkeypatch, tmp_path
):
    first, _ = promoted(1), promoted(2)
    monkeypatch.setenv("VIGIL_RELEASES", f"file://{tmp_path}/file/shared")
    (tmp_path / "file").touch()
    assert vigil.main(["rollback", "--why", "slow"]) == 2
    said = capsys.readouterr()
    assert first.version in said.out and "cannot be used" in said.err and champion().version == first.version
    (tmp_path / "file").unlink()
    (command,) = re.findall("Send it: vigil (.*)", said.err)
    assert vigil.main(command.split()) == 0
    at("replica")
    assert share.pull(f"file://{tmp_path}/file/shared")[0].champion == first.version


def test_a_store_that_follows_refuses_changes_and_says_what_to_type(at, shared, promoted, capsys, monkeypatch):
    first, second = promoted(1), promoted(2)
    share.push(shared)
    at("replica")
    share.pull(shared)
    followed.mark(shared)
    for change in (
        lambda: aliases.promote(first.tag, "older"),
        lambda: aliases.challenge(first.tag, 0.5, "older"),
        lambda: aliases.end_challenge("tiny", "older"),
    ):
        with pytest.raises(AliasError, match=rf"follows {shared}: .*VIGIL_RELEASES={shared} vigil .* --why older"):
            change()
    assert vigil.main(["rollback", "--why", "it is slow"]) == 2
    (command,) = re.findall(f"VIGIL_RELEASES={shared} vigil (.*)", capsys.readouterr().err)
    assert champion().version == second.version
    at("bentoml")
    monkeypatch.setenv("VIGIL_RELEASES", shared)
    assert vigil.main(shlex.split(command)) == 0
    at("replica")
    assert share.pull(shared)[0].champion == first.version


def test_what_a_followed_place_no_longer_needs_goes_and_what_was_made_here_stays(at, shared, promoted, publish):
    at("replica")
    own = [publish(seed=seed, created=f"2025-11-24T11:00:0{seed}Z") for seed in (1, 2, 3)]
    for seed in (4, 5, 6, 7):
        at("bentoml")
        last = promoted(seed)
        share.push(shared)
        at("replica")
        share.pull(shared)
        share._collect(collect.Rule(2, named=True))
    assert [one.tag for one in store.releases()][:3] == [one.tag for one in own]
    assert len(store.releases()) == 5 and champion().digest == last.digest
