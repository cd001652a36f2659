"""Two people promoted at once and one choice was made: every store that took the other one follows it."""

import json
import re
import shlex
import shutil

import pytest

import vigil
from registry import aliases, dropped, followed, share, store
from registry.errors import AliasError
from registry.remote import Remote


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
    followed.begin("tiny", shared)
    share.pull(shared)
    at("bentoml")
    return theirs, promoted(3)


def look(url):
    assert share._follow_once(url, "", lambda _: None, keep=2) == []
    return aliases.read("tiny").champion.version


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
    assert vigil.parser().parse_args(shlex.split(kept[0])).overwrite
    at("colleague")
    assert share.pull(shared)[0].champion == mine.version


@pytest.mark.parametrize("kept", ["ours", "theirs"])
def test_a_replica_follows_whichever_history_was_chosen(at, shared, parted, kept, tmp_path):
    theirs, mine = parted
    with pytest.raises(AliasError, match="this store has others"):
        share.push(shared)
    if kept == "theirs":  # a replica may have seen what was written here in the same moment
        shutil.copytree(tmp_path / "bentoml", tmp_path / "replica", dirs_exist_ok=True)
        share.pull(shared, overwrite=True)
    else:
        share.push(shared, overwrite=True)
    told = tmp_path / "shared" / "dropped" / "tiny.json"
    written = told.stat().st_mtime_ns
    at("replica")
    assert look(shared) == (mine if kept == "ours" else theirs).version
    assert told.stat().st_mtime_ns == written  # who follows may only read there


def test_an_older_state_that_nobody_chose_is_refused_although_others_were_dropped(at, shared, parted, tmp_path):
    place = tmp_path / "shared" / "aliases" / "tiny.json"
    share.push(shared, overwrite=True)
    chosen = place.read_bytes()
    at("replica")
    look(shared)
    older = json.loads(chosen)
    older["line"], older["history"] = older["line"][:1], older["history"][:1]
    place.write_bytes(json.dumps(older).encode())
    (wrong,) = share._follow_once(shared, "", lambda _: None, keep=2)
    assert "this store has changes that" in str(wrong)


def test_a_place_that_cannot_be_written_hinders_no_choice(at, shared, parted, tmp_path, caplog):
    (tmp_path / "shared" / "dropped").touch()
    share.pull(shared, overwrite=True)
    assert "dropped_not_told" in caplog.text and aliases.read("tiny").champion.version == parted[0].version


def test_what_is_no_list_of_changes_drops_nothing(at, shared, parted):
    remote, old = Remote(shared), aliases.read("tiny")
    for content in (b"{", b"[1]", b"[[1, 2]]", b"{}"):
        remote.write("dropped/tiny.json", content)
        assert not dropped.holds(remote, old, aliases.Aliases("tiny"))
    assert dropped.holds(remote, old, old) and store.home().exists()
