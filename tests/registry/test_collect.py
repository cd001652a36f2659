import json
import shutil

import pytest
from tiny_release import make_draft, make_files

import vigil
from registry import aliases, collect, durable, release, store
from registry.collect import Rule
from registry.errors import AliasError, ReleaseError


@pytest.fixture
def versions(tmp_path):
    """Return a function that publishes releases a day apart and gives their tags, oldest first."""
    files = make_files(tmp_path / "files")

    def make(count, name="tiny"):
        return [
            store.publish(make_draft(name, created=f"2026-11-{day:02d}T11:00:00Z"), files).tag
            for day in range(1, count + 1)
        ]

    return make


def present():
    return [one.tag for one in store.releases()]


def run(rule):
    said = []
    collect.collect(rule, said.append)
    return said[0]


def promote_all(tags):
    for tag in tags:
        aliases.promote(tag, "next", force=True)


def test_the_newest_stay_and_the_rest_goes(versions):
    tags = versions(6)
    run(Rule(keep=2))
    assert present() == tags[-2:]
    for tag in present():
        store.open_release(tag)


def test_champion_previous_and_challenger_stay_however_old(versions):
    tags = versions(7)
    promote_all(tags[:3])
    state = json.loads(aliases.path("tiny").read_bytes())
    digest = store.open_release(tags[3]).digest
    state["challenger"] = {"version": tags[3].split(":")[1], "digest": digest}
    durable.write_atomically(aliases.path("tiny"), json.dumps(state).encode())
    reasons = {v.listing.tag: v.reason for v in run(Rule(keep=1))}
    assert present() == [*tags[1:4], tags[-1]]
    assert [reasons[tag] for tag in tags] == ["", "previous", "champion", "challenger", "", "", "one of the newest 1"]
    assert aliases.rollback("tiny", "back").to_version == tags[1].split(":")[1]


def test_as_many_rollbacks_work_as_champions_stay_and_then_one_says_why_not(versions):
    tags = versions(6)
    promote_all(tags)
    run(Rule(keep=3))
    assert present() == tags[-3:]
    assert [aliases.rollback("tiny", "x").to_version for _ in range(2)] == [tag.split(":")[1] for tag in tags[4:2:-1]]
    with pytest.raises(ReleaseError, match="not in the store"):
        aliases.rollback("tiny", "too far")


def test_without_yes_the_plan_is_printed_and_nothing_changes(versions, capsys):
    tags = versions(4)
    assert vigil.main(["gc", "--keep", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out[:4]] == [*(["delete", tag] for tag in tags[:3]), ["keep", tags[3]]]
    assert out[4].startswith("3 of 4 releases, ") and out[4].endswith(" MB, would be deleted (--yes does it)")
    assert present() == tags


def test_with_yes_it_says_what_goes_and_deletes_it(versions, capsys):
    tags = versions(4)
    assert vigil.main(["gc", "--keep", "1", "--yes", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["delete"], said["deleted"], present()) == (tags[:3], True, tags[3:])
    assert said["size_bytes"] > 1000 and said["keep"] == {tags[3]: "one of the newest 1"}


def test_broken_releases_are_listed_and_go_only_when_asked_and_without_an_alias(versions):
    tags = versions(4)
    aliases.promote(tags[1], "first")
    for tag in tags[:2]:
        (store.models() / tag.replace(":", "/") / "manifest.json").unlink()
    reasons = {v.listing.tag: v.reason for v in run(Rule(keep=2))}
    assert reasons[tags[0]].startswith("broken, only --broken deletes it: ") and reasons[tags[1]] == "champion"
    run(Rule(keep=2, broken=True))
    assert present() == tags[1:]


def test_broken_releases_do_not_take_the_place_of_whole_ones(versions):
    tags = versions(4)
    (store.models() / tags[3].replace(":", "/") / "model.onnx").write_bytes(b"torn")
    run(Rule(keep=2, broken=True))
    assert present() == tags[1:3]
    assert (store.models() / "tiny" / "latest").read_text() == tags[2].split(":")[1]


def test_models_of_others_in_the_store_are_never_touched(versions):
    versions(3)
    for place in ("iris/abcdefgh", "tiny/v1"):
        (store.models() / place).mkdir(parents=True)
    run(Rule(keep=1, broken=True))
    assert [tag for tag in present() if "2026" not in tag] == ["iris:abcdefgh", "tiny:v1"]


def test_each_model_keeps_its_own(versions):
    one, two = versions(3, "one"), versions(2, "two")
    run(Rule(keep=1))
    assert present() == [one[-1], two[-1]]


def test_an_unreadable_alias_file_stops_the_collection(versions):
    tags = versions(3)
    promote_all(tags)
    aliases.path("tiny").write_text("{")
    with pytest.raises(AliasError, match="cannot be read"):
        run(Rule(keep=1))
    assert present() == tags


def test_a_release_that_goes_while_the_store_is_listed_is_left_out_and_not_called_broken(versions, monkeypatch):
    tags = versions(2)
    load = release.load

    def gone(folder, tag):
        if tag == tags[0] and folder.exists():
            shutil.rmtree(folder)  # as if it was collected at this moment
        return load(folder, tag)

    monkeypatch.setattr(release, "load", gone)
    assert present() == tags[1:]


def test_keeping_nothing_is_refused():
    with pytest.raises(AliasError, match="--keep 0: at least 1"):
        Rule(keep=0)


def test_a_collection_killed_after_the_rename_leaves_no_part_behind(versions, monkeypatch):
    tags = versions(3)
    monkeypatch.setattr(shutil, "rmtree", lambda *a, **k: None)  # as if killed before anything was removed
    run(Rule(keep=1))
    assert present() == tags[-1:]
    assert len(list((store.home() / "staging").rglob("manifest.json"))) == 2
    monkeypatch.undo()
    with store.workshop():
        assert len(list((store.home() / "staging").rglob("manifest.json"))) == 0
