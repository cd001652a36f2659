"""A store that promotes does not become a replica of itself, and whatever follows can be told to stop."""

import json
import re
import shlex

import pytest

import vigil
from registry import aliases, followed, following, share, store
from registry.errors import AliasError, StackError


def typed(command):
    """Type what a message says, and return the exit status of its last verb; `&&` as a shell takes it."""
    status = 0
    for one in command.split(" && "):
        words = shlex.split(one)
        assert status == 0 and words[0] == "vigil"
        status = vigil.main(words[1:])
    return status


def look(url, model=""):
    assert following.look(url, model, lambda _: None, keep=2, compared={"tiny"}) == []
    return aliases.read("tiny").champion.version


def forget(tmp_path, model):
    """Remove the aliases of `model` from the place `shared`."""
    (tmp_path / "shared" / "aliases" / f"{model}.json").unlink()


def files():
    return {path: path.read_bytes() for path in store.home().rglob("*") if path.is_file()}


@pytest.fixture
def locked(shared, promoted):
    """Return two releases of a store that pushes to a place and that an older program made follow that very place."""
    made = promoted(1), promoted(2)
    share.push(shared)
    record = store.home() / "followed" / "tiny"
    record.parent.mkdir()
    record.write_text(f"{shared}\n")
    share.pull(shared)
    return made


def test_a_store_that_promotes_is_not_made_a_replica_of_itself_and_its_replicas_follow_it(
    at, shared, promoted, monkeypatch, capsys
):
    monkeypatch.setenv("VIGIL_RELEASES", shared)
    first = promoted(1)
    assert vigil.main(["models", "push"]) == 0
    before = files()
    with monkeypatch.context() as patched:
        patched.setattr(following, "look", lambda *_: pytest.fail("it looks"))
        for words in ([shared], [f"{shared}/"], [], [shared, "--model", "tiny"]):
            capsys.readouterr()
            assert vigil.main(["models", "sync", *words, "--every", "0.1"]) == 2
            said = capsys.readouterr().err
            assert f"tiny: this store sends its changes to {shared}; accepted is a store that does not" in said
            assert files() == before
    at("replica")
    assert look(shared) == first.version
    at("bentoml")
    second = promoted(2)
    assert vigil.main(["models", "push"]) == 0
    at("replica")
    assert look(shared) == second.version
    at("bentoml")
    assert vigil.main(["rollback", "--why", "quality under its floor"]) == 0
    at("replica")
    assert look(shared) == first.version


def test_a_store_that_promotes_one_model_follows_the_others_of_the_place(at, shared, promoted):
    promoted(1)
    share.push(shared)
    at("mixed")
    look(shared)
    promoted(2, "own")
    share.push(shared, "own")  # beside a process that follows
    look(shared)
    assert followed.models() == ["tiny"]
    with pytest.raises(AliasError, match="own: this store sends its changes"):
        followed.demand_follower(shared, "")
    followed.demand_follower(shared, "tiny")
    promoted(3, "own")  # it still changes here


def test_a_store_that_promoted_once_becomes_a_replica_by_the_command_that_the_refusal_names(
    shared, promoted, monkeypatch, capsys
):
    monkeypatch.setenv("VIGIL_RELEASES", shared)
    promoted(1)
    share.push(shared)
    assert vigil.main(["models", "sync", shared, "--every", "1"]) == 2
    (command,) = re.findall("elsewhere from now on: (.*)", capsys.readouterr().err)
    assert typed(command) == 0
    said = capsys.readouterr().out
    assert f"tiny: its changes are sent to {shared} no more" in said and "VIGIL_RELEASES is set" in said
    followed.demand_follower(shared, "")
    look(shared)
    assert followed.place("tiny") == shared


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("reached", [True, False])
def test_a_locked_store_gets_out_by_the_command_that_the_refusal_names(
    at, shared, locked, monkeypatch, capsys, tmp_path, named, reached
):
    first, second = locked
    if named:
        monkeypatch.setenv("VIGIL_RELEASES", shared)
    if not reached:
        (tmp_path / "shared").rename(tmp_path / "away")
        (tmp_path / "shared").touch()
    for words in (["promote", second.tag], ["challenge", first.tag, "--share", "10%"], ["rollback"]):
        assert vigil.main([*words, "--why", "it is bad"]) == 2
    (command,) = re.findall("so it waits for itself. Type: (.*rollback.*)", capsys.readouterr().err)
    assert typed(command) == (0 if reached else 2), "sent, or made here and not sent"
    assert f"tiny: follows {shared} no more" in capsys.readouterr().out
    assert aliases.read("tiny").champion.version == first.version
    if reached:
        at("replica")
        assert look(shared) == first.version


def test_a_process_that_still_runs_takes_no_part_in_what_was_stopped_until_it_is_started_again(
    at, shared, promoted, tmp_path
):
    first = promoted(1)
    share.push(shared)
    at("replica")
    look(shared)
    assert vigil.main(["models", "sync", "--stop"]) == 0
    at("bentoml")
    promoted(2)
    share.push(shared)
    at("replica")
    assert look(shared) == first.version and followed.models() == []
    own = promoted(3)
    assert look(shared) == own.version
    followed.resume("")
    (wrong,) = following.look(shared, "", lambda _: None, keep=2, compared={"tiny"})
    assert "this store has others" in str(wrong), "what was promoted here meanwhile is no replica's to lose"


def test_one_of_two_models_is_stopped_and_the_other_follows_on(at, shared, promoted, capsys):
    promoted(1)
    promoted(2, "pears")
    share.push(shared)
    at("replica")
    look(shared)
    capsys.readouterr()
    assert vigil.main(["models", "sync", "--stop", "--model", "pears", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"verb": "sync", "stopped": {"pears": shared}}
    look(shared)
    assert followed.models() == ["tiny"]
    looked_s = followed.looked_s("tiny")
    followed.resume("")
    assert followed.models() == ["tiny"] and followed.looked_s("tiny") == looked_s > 0.0
    assert not followed.stopped("pears")


def test_a_replica_with_the_place_in_its_shell_is_not_told_to_type_the_same_again(
    at, shared, promoted, monkeypatch, capsys
):
    first, _ = promoted(1), promoted(2)
    share.push(shared)
    at("replica")
    look(shared)
    monkeypatch.setenv("VIGIL_RELEASES", f"{shared}/")
    assert vigil.main(["rollback", "--why", "slow"]) == 2
    said = capsys.readouterr().err
    here, elsewhere = re.search("promoted here: (.*)\nIf elsewhere, type there: (.*)", said).groups()
    assert elsewhere == "vigil rollback --model tiny --why slow"
    assert here == f"vigil models sync --stop --model tiny && {elsewhere}"
    assert typed(here) == 0
    at("bentoml")
    share.pull(shared)
    assert aliases.read("tiny").champion.version == first.version


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sync", "--stop"], "models sync --stop: nothing to stop; found: no model of this store follows a place"),
        (["push", "--stop", "--model", "pears"], "nothing to stop for pears; found: tiny sends changes to memory://x"),
        (["sync", "file:///x", "--stop"], "accepted beside it is --model alone"),
        (["sync", "--stop", "--every", "2"], "accepted beside it is --model alone"),
        (["--stop"], "accepted are sync --stop, to follow no more, and push --stop"),
    ],
)
def test_what_cannot_be_stopped_is_said(promoted, capsys, words, said):
    promoted(1)
    followed.remember("tiny", "memory://x")
    assert vigil.main(["models", *words]) == 2
    assert said in capsys.readouterr().err
    assert followed.destination("tiny") == "memory://x"


def test_a_replica_that_mends_the_place_is_not_taken_for_the_store_that_promotes(at, shared, promoted):
    promoted(1)
    share.push(shared)
    at("replica")
    look(shared)
    share.push(shared)
    assert followed.destination("tiny") == "" and followed.place("tiny") == shared
    followed.demand_follower(shared, "")


def test_a_look_that_is_to_take_nothing_has_reached_the_place_and_lets_go_what_is_there_no_more(
    at, shared, promoted, tmp_path
):
    promoted(1)
    promoted(2, "pears")
    share.push(shared)
    at("replica")
    look(shared)
    followed.stop("tiny")
    (store.home() / "synced").unlink()
    forget(tmp_path, "pears")
    assert following.look(shared, "", lambda _: None, keep=2, compared=set()) == []
    assert (store.home() / "synced").read_text() == f"{shared}\n"
    assert followed.models() == []


def test_a_look_at_one_model_that_was_stopped_reaches_the_place_or_says_that_it_did_not(at, shared, promoted, tmp_path):
    promoted(1)
    share.push(shared)
    at("replica")
    look(shared, "tiny")
    followed.stop("tiny")
    (store.home() / "synced").unlink()
    look(shared, "tiny")
    assert (store.home() / "synced").read_text() == f"{shared}\n" and followed.models() == []
    (tmp_path / "shared").rename(tmp_path / "away")
    (tmp_path / "shared").touch()
    with pytest.raises(StackError, match="cannot be used"):
        look(shared, "tiny")


def test_of_a_model_that_was_stopped_nobody_hears_what_is_wrong_with_it_in_the_place(at, shared, promoted, tmp_path):
    promoted(1)
    share.push(shared)
    at("replica")
    look(shared)
    followed.stop("tiny")
    assert followed.looked_s("tiny") == 0.0
    (tmp_path / "shared" / "aliases" / "tiny.json").write_bytes(b"damaged")
    look(shared)


def test_who_stops_where_changes_go_nowhere_is_told_what_sends_them(at, shared, promoted, monkeypatch, capsys):
    monkeypatch.delenv("VIGIL_RELEASES", raising=False)
    first, _ = promoted(1), promoted(2)
    share.push(shared)
    at("replica")
    look(shared)
    share.push(shared)  # it mends the place
    assert vigil.main(["models", "sync", "--stop"]) == 0
    (command,) = re.findall("sent nowhere; to send it there: (.*)", capsys.readouterr().out)
    assert command == f"vigil models push {shared} --model tiny" and typed(command) == 0
    assert vigil.main(["rollback", "--why", "it is bad"]) == 0
    assert capsys.readouterr().out.endswith(f"sent to {shared}\n")
    at("bentoml")
    assert share.pull(shared)[0].champion == first.version


@pytest.mark.parametrize("where", ["VIGIL_RELEASES", "sent"])
def test_who_stops_where_changes_are_sent_is_told_no_more(at, shared, promoted, monkeypatch, capsys, where):
    monkeypatch.delenv("VIGIL_RELEASES", raising=False)
    promoted(1)
    share.push(shared)
    at("replica")
    look(shared)
    if where == "sent":
        followed.remember("tiny", "memory://elsewhere")
    else:
        monkeypatch.setenv("VIGIL_RELEASES", "memory://elsewhere")
    assert vigil.main(["models", "sync", "--stop"]) == 0
    assert "nowhere" not in capsys.readouterr().out


def test_a_place_with_a_password_is_not_remembered_since_without_it_nothing_can_be_sent_there(promoted):
    promoted(1)
    assert share.push("memory://me:secret@host/x")[0].changed
    assert followed.destination("tiny") == "" and followed.sent() == []
    assert all(b"secret" not in content for content in files().values())
