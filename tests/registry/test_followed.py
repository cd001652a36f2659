"""Where a change is made, how it travels on, and what a store that follows does with what it no longer needs."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_release import make_draft, make_files

import vigil
from registry import aliases, followed, following, share, store
from registry.errors import AliasError
from registry.remote import Remote

ROOT = Path(__file__).resolve().parents[2]


def champion(model="tiny"):
    return store.open_release(f"{model}:{aliases.read(model).champion.version}")


def newer(said):
    """Return aliases as a newer program could write them: each record has one field more."""
    challenge = [said["challenger"], said["challenger"]["pin"]] if said["challenger"] else []
    records = [*said["line"], *said["history"], *challenge, said]
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


def test_a_model_that_follows_refuses_changes_and_says_what_to_type_and_others_are_free(
    at, shared, promoted, capsys, monkeypatch
):
    first, second = promoted(1), promoted(2)
    share.push(shared)
    at("replica")
    followed.begin("tiny", shared)
    share.pull(shared)
    for change in (
        lambda: aliases.promote(first.tag, "older"),
        lambda: aliases.challenge(first.tag, 0.5, "older"),
        lambda: aliases.end_challenge("tiny", "older"),
        lambda: aliases.rollback("tiny", "older"),
    ):
        with pytest.raises(
            AliasError, match=rf"tiny: this store follows {shared}: .*vigil models sync --stop --model tiny"
        ):
            change()
    before, _ = promoted(3, "own"), promoted(4, "own")
    assert vigil.main(["rollback", "--model", "own", "--why", "mine"]) == 0
    assert champion("own").version == before.version
    capsys.readouterr()
    assert vigil.main(["rollback", "--model", "tiny", "--why", "it is slow"]) == 2
    (command,) = re.findall(f"VIGIL_RELEASES={shared} vigil (.*)", capsys.readouterr().err)
    assert champion().version == second.version
    at("bentoml")
    monkeypatch.setenv("VIGIL_RELEASES", shared)
    assert vigil.main(shlex.split(command)) == 0
    at("replica")
    assert share.pull(shared)[0].champion == first.version


def test_a_change_goes_where_the_store_was_last_pushed_to(at, shared, promoted, capsys, monkeypatch):
    monkeypatch.delenv("VIGIL_RELEASES", raising=False)
    first, _ = promoted(1), promoted(2)
    assert vigil.main(["models", "push", shared]) == 0
    assert vigil.main(["rollback", "--why", "VigilErrorBurn"]) == 0
    assert capsys.readouterr().out.endswith(f"sent to {shared}\n")
    at("replica")
    assert share.pull(shared)[0].champion == first.version


def test_a_change_is_refused_before_it_is_made_where_somebody_else_made_one_and_the_cure_works(
    at, shared, promoted, capsys, monkeypatch
):
    first = promoted(1)
    share.push(shared)
    at("colleague")
    share.pull(shared)
    theirs = promoted(2)
    share.push(shared)
    at("bentoml")
    monkeypatch.setenv("VIGIL_RELEASES", shared)
    assert vigil.main(["rollback", "--why", "slow"]) == 2
    (command,) = re.findall("take them: vigil (.*)", capsys.readouterr().err)
    assert champion().version == first.version and len(aliases.read("tiny").history) == 1
    assert vigil.main(shlex.split(command)) == 0 and champion().version == theirs.version
    assert vigil.main(["rollback", "--why", "slow"]) == 0 and champion().version == first.version
    at("colleague")
    assert share.pull(shared)[0].champion == first.version


def test_a_change_is_sent_also_where_nobody_reads_what_is_printed(at, shared, promoted, monkeypatch, tmp_path):
    first, _ = promoted(1), promoted(2)
    share.push(shared)
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "vigil", "rollback", "--why", "slow"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    at("replica")
    assert share.pull(shared)[0].champion == first.version


def test_a_change_is_sent_and_printed_also_where_nobody_hears_of_a_second_model(shared, promoted, publish):
    promoted(1)
    other = publish("other")
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "vigil", "promote", other.tag, "--why", "first"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VIGIL_RELEASES": shared}
    said = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=writes, text=True, check=False
    ).stdout
    os.close(writes)
    assert said.endswith(f"sent to {shared}\n")


def test_what_a_followed_place_no_longer_needs_goes_and_all_else_stays(at, shared, promoted, publish):
    at("replica")
    own = [publish(seed=seed, created=f"2025-11-24T11:00:0{seed}Z") for seed in (1, 2, 3)]
    others = [promoted(seed, "beta") for seed in range(11, 16)]  # promoted here; `shared` does not have this model
    for seed in (4, 5, 6, 7):
        at("bentoml")
        last = promoted(seed)
        share.push(shared)
        at("replica")
        assert following.look(shared, "tiny", lambda _: None, keep=2, compared={"tiny"}) == []
    left = {one.tag for one in store.releases()}
    assert left >= {one.tag for one in (*own, *others)} and len(left) == 3 + 5 + 2
    assert champion().digest == last.digest


def test_a_model_that_cannot_be_taken_hinders_no_other_and_is_told_apart(at, shared, promoted, tmp_path, caplog):
    promoted(1, "apples")
    promoted(2, "pears")
    share.push(shared)
    (tmp_path / "shared" / "aliases" / "apples.json").write_bytes(b"")
    at("replica")
    told = []
    wrong = following.look(shared, "", told.extend, keep=2, compared={"tiny"})
    assert len(wrong) == 1 and "apples.json: the aliases cannot be read" in str(wrong[0])
    assert [one.model for one in told] == ["pears"]
    assert (store.home() / "synced").exists()
    assert followed.looked_s("pears") > 0.0 and followed.place("pears") == shared
    assert followed.place("apples") == "", "nothing says that there is such a model"


def test_a_model_whose_release_does_not_come_follows_all_the_same(at, shared, promoted, tmp_path):
    made = promoted(1)
    share.push(shared)
    (tmp_path / "shared" / "models" / "tiny" / made.version / "model.onnx").write_bytes(b"damaged")
    at("replica")
    assert len(following.look(shared, "", lambda _: None, keep=2, compared={"tiny"})) == 1
    assert followed.place("tiny") == shared and followed.looked_s("tiny") == 0.0
    with pytest.raises(AliasError, match="follows"):
        aliases.rollback("tiny", "typed in the pod")


def test_a_copy_of_aliases_that_lies_in_the_place_is_no_model(at, shared, promoted, tmp_path):
    promoted(1)
    share.push(shared)
    place = tmp_path / "shared" / "aliases"
    (place / "tiny-old.json").write_bytes((place / "tiny.json").read_bytes())
    at("replica")
    (wrong,) = following.look(shared, "", lambda _: None, keep=2, compared={"tiny"})
    assert "tiny-old.json: the aliases cannot be read: they are those of another model; delete it there" in str(wrong)
    assert aliases.only_model() == "tiny" and followed.models() == ["tiny"]


def test_a_model_that_the_place_has_no_more_is_followed_no_more(at, shared, promoted, tmp_path, caplog):
    promoted(1, "apples")
    promoted(2, "pears")
    share.push(shared)
    at("replica")
    assert following.look(shared, "", lambda _: None, keep=2, compared={"tiny"}) == []
    followed.begin("plums", "s3://elsewhere")
    (tmp_path / "shared" / "aliases" / "pears.json").unlink()
    assert following.look(shared, "", lambda _: None, keep=2, compared={"tiny"}) == []
    assert followed.models() == ["apples", "plums"] and "follows_no_more" in caplog.text
    promoted(3, "pears")  # it changes here again


def test_a_rollback_made_while_a_promotion_is_sent_is_what_the_place_says_in_the_end(at, shared, promoted, monkeypatch):
    first = promoted(1)
    share.push(shared)
    promoted(2)
    send, once = Remote.send, []

    def slow(remote, path, source):
        if not once:  # in another terminal, while the promotion's release is under way
            once.append(path)
            aliases.rollback("tiny", "it is bad")
            assert share.push(shared)[0].champion == first.version
        send(remote, path, source)

    monkeypatch.setattr(Remote, "send", slow)
    assert share.push(shared)[0].champion == first.version
    at("replica")
    assert share.pull(shared)[0].champion == first.version
    assert [one.action for one in aliases.read("tiny").history] == ["promote", "promote", "rollback"]


def break_file(made):
    (made.path / "model.onnx").write_bytes(b"damaged")


def test_a_damaged_champion_of_before_stops_no_change_from_being_sent(at, shared, promoted, caplog):
    made = [promoted(seed) for seed in (1, 2, 3, 4)]
    for broken in made[:2]:
        break_file(broken)
    assert share.push(shared)[0].changed
    assert caplog.text.count("champion_of_before_not_sent") == 2
    at("replica")
    assert share.pull(shared)[0].champion == made[3].version


def test_a_change_with_the_releases_there_already_reads_no_release_here(at, shared, promoted, monkeypatch):
    for seed in (1, 2, 3):
        promoted(seed)
    share.push(shared)
    aliases.rollback("tiny", "slow")
    monkeypatch.setattr(store, "open_release", lambda tag: pytest.fail(f"{tag} was read"))
    assert share.push(shared)[0].changed


def test_what_is_damaged_in_a_replica_is_brought_anew_if_it_is_to_serve_and_else_stops_nothing(at, shared, promoted):
    first = promoted(1)
    share.push(shared)
    at("replica")
    share.pull(shared)
    break_file(store.open_release(first.tag))
    at("bentoml")
    second = promoted(2)
    share.push(shared)
    at("replica")
    assert share.pull(shared)[0].champion == second.version
    at("bentoml")
    aliases.rollback("tiny", "slow")
    share.push(shared)
    at("replica")
    assert share.pull(shared)[0].releases == (first.version,)
    assert champion().digest == first.digest


def test_bytes_of_a_newer_program_alone_are_taken_over_and_sent_on(at, shared, promoted, tmp_path):
    promoted(1)
    share.push(shared)
    place = tmp_path / "shared" / "aliases" / "tiny.json"
    at("replica")
    share.pull(shared)
    content = newer(json.loads(place.read_bytes()) | {"challenger": None})
    place.write_bytes(content)
    assert share.pull(shared)[0].changed and aliases.path("tiny").read_bytes() == content
    share.push("memory://onwards")
    assert Remote("memory://onwards").read("aliases/tiny.json", 10_000) == content


def test_a_place_that_refuses_the_connection_when_it_is_opened_is_said_and_the_change_stays(
    at, promoted, capsys, monkeypatch
):
    first, _ = promoted(1), promoted(2)
    monkeypatch.setenv("VIGIL_RELEASES", "ftp://127.0.0.1:9/releases")
    assert vigil.main(["rollback", "--why", "slow"]) == 2
    said = capsys.readouterr()
    assert "ftp://127.0.0.1:9/releases: cannot be used" in said.err and champion().version == first.version
    assert said.out.startswith("rollback: ") and "Send it: vigil models push --model tiny" in said.err


def test_a_place_counts_as_reached_only_if_it_answered(at, shared, promoted, tmp_path):
    promoted(1)
    share.push(shared)
    at("replica")
    (tmp_path / "shared").rename(tmp_path / "gone")
    (tmp_path / "shared").touch()
    (wrong,) = following.look(shared, "tiny", lambda _: None, keep=2, compared={"tiny"})
    assert "cannot be used" in str(wrong) and not (store.home() / "synced").exists()
    (tmp_path / "shared").unlink()
    (tmp_path / "gone").rename(tmp_path / "shared")
    assert following.look(shared, "tiny", lambda _: None, keep=2, compared={"tiny"}) == []
    assert (store.home() / "synced").exists()


def test_damaged_aliases_in_the_place_refuse_a_change_with_the_command_that_puts_them_right(
    at, shared, promoted, capsys, tmp_path
):
    first, second = promoted(1), promoted(2)
    share.push(shared)
    (tmp_path / "shared" / "aliases" / "tiny.json").write_bytes(b"")
    assert vigil.main(["rollback", "--why", "slow"]) == 2 and champion().version == second.version
    (command,) = re.findall("where releases are promoted: vigil (.*)", capsys.readouterr().err)
    assert vigil.main(shlex.split(command)) == 0 and vigil.main(["rollback", "--why", "slow"]) == 0
    at("replica")
    assert share.pull(shared)[0].champion == first.version


def test_files_that_lie_among_the_aliases_by_accident_hinder_nobody(at, shared, promoted, tmp_path):
    promoted(1)
    share.push(shared)
    for name in ("._tiny.json", "Tiny.json", "tiny copy.json"):
        (tmp_path / "shared" / "aliases" / name).write_bytes(b"")
    at("replica")
    assert [one.model for one in share.pull(shared)] == ["tiny"]


@pytest.mark.parametrize("tag", ["", ".:1", "/etc/hostname:1", "..:1"])
def test_a_tag_that_is_none_is_refused_before_a_file_of_that_name_is_read(tag, home):
    home.mkdir(exist_ok=True)
    with pytest.raises(AliasError, match="is not a model name"):
        followed.place(tag.split(":")[0])


def test_a_store_that_follows_two_models_is_not_taken_for_one_of_one_while_the_second_comes_over(at, shared, promoted):
    promoted(1, "apples")
    share.push(shared)
    at("replica")
    followed.begin("apples", shared)
    followed.begin("pears", shared)
    share.pull(shared)
    with pytest.raises(AliasError, match="2 models have a champion or follow a place: apples, pears; name one"):
        aliases.only_model()
