"""Two people promoted at once and one choice was made: every store that took the other one follows it."""

import json
import re
import shlex
import shutil

import pytest

import vigil
from registry import aliases, carry, following, share
from registry.errors import AliasError, StackError
from registry.remote import Remote


def look(url):
    assert following.look(url, "", lambda _: None, keep=2, compared={"tiny"}) == []
    return aliases.read("tiny").champion.version


@pytest.fixture
def parted(at, shared, promoted):
    """Return what a colleague promoted and what was promoted here; a replica has the former, the place too."""
    promoted(1)
    share.push(shared)
    at("colleague")
    share.pull(shared)
    theirs = promoted(2)
    share.push(shared)
    at("replica")
    look(shared)
    at("bentoml")
    return theirs, promoted(3)


def test_each_of_two_ways_out_is_named_where_both_sides_changed(at, shared, parted):
    theirs, mine = parted
    for move in (share.push, share.pull):
        with pytest.raises(
            AliasError, match=rf"promote {theirs.version} by .* others .*promote {mine.version} by "
        ) as said:
            move(shared)
    kept = re.findall("vigil (models (?:sync|push) [^;]* --overwrite)", str(said.value))
    assert len(kept) == 2
    assert vigil.main(shlex.split(kept[1])) == 0
    at("colleague")
    assert vigil.main(shlex.split(kept[0])) == 0
    assert aliases.read("tiny").champion.version == mine.version


@pytest.mark.parametrize("kept", ["ours", "theirs"])
def test_a_replica_follows_whichever_history_was_chosen_and_writes_nothing_there(at, shared, parted, kept, tmp_path):
    theirs, mine = parted
    with pytest.raises(AliasError, match="this store has others"):
        share.push(shared)
    if kept == "theirs":  # a replica may have seen what was written here in the same moment
        shutil.copytree(tmp_path / "bentoml" / "models", tmp_path / "replica" / "models", dirs_exist_ok=True)
        shutil.copy(aliases.path("tiny"), tmp_path / "replica" / "vigil" / "aliases")
        share.pull(shared, overwrite=True)
    else:
        share.push(shared, overwrite=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*")}
    at("replica")
    assert look(shared) == (mine if kept == "ours" else theirs).version
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*")} == before


def test_a_history_of_fewer_changes_is_followed_where_somebody_chose_it(at, shared, promoted, tmp_path):
    first = promoted(1)
    share.push(shared)
    at("replica")
    look(shared)
    at("colleague")
    share.pull(shared)
    made = promoted(2)
    share.push(shared)
    at("replica")
    look(shared)
    shutil.rmtree(tmp_path / "shared" / "models" / "tiny" / made.version)  # so nobody else can take that change
    at("bentoml")
    share.push(shared, overwrite=True)
    at("replica")
    assert look(shared) == first.version


def test_no_older_state_is_followed_however_often_somebody_chose(at, shared, parted, tmp_path):
    theirs, mine = parted
    place = tmp_path / "shared" / "aliases" / "tiny.json"
    older = [place.read_bytes()]
    for name, version in (("bentoml", mine.version), ("colleague", theirs.version)):
        at(name)
        share.push(shared, overwrite=True)
        older.append(place.read_bytes())
        at("replica")
        assert look(shared) == version
    first = json.loads(older[-1]) | {"chosen_s": 0}
    first["line"], first["history"] = first["line"][:1], first["history"][:1]
    for content in (json.dumps(first).encode(), *older[:-1]):
        place.write_bytes(content)
        assert len(following.look(shared, "", lambda _: None, keep=2, compared={"tiny"})) == 1
        assert aliases.read("tiny").champion.version == theirs.version


def test_whose_change_was_given_up_is_told_and_not_overruled(at, shared, parted):
    theirs, _ = parted
    share.push(shared, overwrite=True)
    at("colleague")
    with pytest.raises(
        AliasError, match=rf"this store has others \(the last one: promote {theirs.version} .*--overwrite"
    ):
        share.pull(shared)
    assert aliases.read("tiny").champion.version == theirs.version


def test_what_was_promoted_before_a_store_began_to_follow_is_not_overruled(at, shared, promoted):
    promoted(1)
    share.push(shared)
    at("replica")
    own = promoted(2)
    (wrong,) = following.look(shared, "", lambda _: None, keep=2, compared={"tiny"})
    assert f"promote {own.version}" in str(wrong) and aliases.read("tiny").champion.version == own.version


def test_replicas_follow_a_choice_made_where_the_aliases_of_the_place_were_damaged(at, shared, parted, tmp_path):
    (tmp_path / "shared" / "aliases" / "tiny.json").write_bytes(b"")
    share.push(shared, overwrite=True)
    at("replica")
    assert look(shared) == parted[1].version


def test_a_change_made_here_while_a_chosen_release_comes_over_is_not_lost(at, shared, parted, promoted, monkeypatch):
    take, made = carry.take, []

    def slow(*arguments):
        if not made:
            made.append(promoted(4))
        return take(*arguments)

    monkeypatch.setattr(carry, "take", slow)
    with pytest.raises(AliasError, match="was changed here in the meantime"):
        share.pull(shared, overwrite=True)
    assert aliases.read("tiny").champion.version == made[0].version


@pytest.mark.parametrize("time", ["Infinity", "NaN", '"now"', "null"])
def test_a_choice_at_no_time_is_refused(time, promoted):
    promoted(1)
    said = aliases.path("tiny").read_text().replace('"chosen_s": 0.0', f'"chosen_s": {time}')
    with pytest.raises(AliasError, match="cannot be read"):
        aliases.parse("tiny", said.encode(), "there")


def test_a_choice_that_the_place_did_not_take_is_none(at, shared, parted, promoted, monkeypatch):
    def refused(remote, path, content):
        raise StackError("Access Denied")

    at("replica")
    with monkeypatch.context() as patched, pytest.raises(StackError, match="Access Denied"):
        patched.setattr(Remote, "write", refused)
        share.push(shared, overwrite=True)
    at("colleague")
    third = promoted(5)
    share.push(shared)
    at("replica")
    assert look(shared) == third.version
