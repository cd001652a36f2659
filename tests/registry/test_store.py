import os
import shutil

import pytest
from tiny_release import make_draft, make_files

from registry import release, store
from registry.errors import ReleaseError


def test_a_half_written_version_is_listed_as_broken_and_disturbs_nothing(publish):
    whole = publish()
    half = store.models() / "tiny" / "20260101-000000-0badc0de"
    half.mkdir()
    (half / "model.onnx").write_bytes(b"half")
    found = {listing.tag: listing.problem for listing in store.releases("tiny")}
    assert found[whole.tag] is None
    assert "incomplete, there is no manifest.json" in found["tiny:20260101-000000-0badc0de"]
    with pytest.raises(ReleaseError, match="incomplete"):
        store.open_release("tiny:20260101-000000-0badc0de")
    publish(seed=5)


def test_the_same_release_twice_is_refused_and_the_first_stays(publish, tmp_path):
    files = make_files(tmp_path / "files")
    first = store.publish(make_draft(), files)
    with pytest.raises(ReleaseError, match="is in the store already"):
        store.publish(make_draft(), files)
    first.verify()


def test_publishing_leaves_the_given_folder_as_it_was(tmp_path):
    files = make_files(tmp_path / "files")
    before = sorted(path.name for path in files.iterdir())
    store.publish(make_draft(), files)
    assert sorted(path.name for path in files.iterdir()) == before


def test_a_disk_that_takes_no_more_is_said_in_words_and_leaves_nothing_behind(publish, small_files, tmp_path):
    files = make_files(tmp_path / "files")
    with small_files(), pytest.raises(ReleaseError, match="tiny was not published: .*File too large"):
        store.publish(make_draft(), files)
    assert store.releases() == [] and list((store.home() / "staging").iterdir()) == []
    publish()


def test_the_folders_of_a_new_store_are_synced_into_those_above_them(tmp_path, monkeypatch):
    synced, sync = set(), os.fsync

    def recorded(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    files = make_files(tmp_path / "files")
    monkeypatch.setattr(os, "fsync", recorded)
    made = store.publish(make_draft(), files)
    for folder in (made.path.parent, store.models(), store.bentoml_home()):
        assert str(folder) in synced


@pytest.mark.parametrize("name", ["", "Tiny", "a/b", "../x", "x" * 64, "a:b"])
def test_a_name_that_is_no_model_name_is_refused(tmp_path, name):
    with pytest.raises(ReleaseError, match="accepted are a-z, 0-9"):
        store.publish(make_draft(name=name), make_files(tmp_path / "files"))


@pytest.mark.parametrize("tag", ["tiny", "tiny:latest", "tiny:2026", "../tiny:20260101-000000-00000000", ":", "tiny:"])
def test_only_an_exact_tag_opens_a_release(publish, tag):
    publish()
    with pytest.raises(ReleaseError, match="is not a tag"):
        store.open_release(tag)


def test_what_is_no_tag_is_told_beside_the_newest_tags_of_its_model_or_of_every_one(publish):
    def said(tag):
        with pytest.raises(ReleaseError) as caught:
            store.parts(tag)
        return str(caught.value).split("prints it: ")[1]

    assert said("tiny:1") == "such as digits:20261126-102340-4be8cf64"
    made = [publish(seed=seed, created=f"2026-11-2{seed}T12:00:00Z").tag for seed in range(1, 5)]
    other = publish("other").tag
    (store.models() / "tiny" / "zzz").mkdir()  # not ours
    assert said("tiny:1") == f"the store has {', '.join(made[1:])}"
    assert said("tyni:1") == f"the store has {other}, {made[-1]}"


def test_an_unknown_tag_says_where_it_was_looked_for(publish):
    publish()
    with pytest.raises(ReleaseError, match="not in the store .*; `vigil models` lists what is"):
        store.open_release("tiny:20260101-000000-00000000")


def test_versions_are_never_prefixes_of_one_another(publish):
    versions = [publish(seed=seed).version for seed in range(3)]
    assert all(release.VERSION.fullmatch(version) for version in versions)
    assert len({len(version) for version in versions}) == 1


def test_what_is_admitted_is_moved_so_that_no_second_copy_needs_room(home, tmp_path):
    made = store.publish(make_draft(), make_files(tmp_path / "files"))
    files = home / "arrived"
    shutil.move(made.path, files)
    (files / release.BENTOML_FILE).unlink()
    inodes = {path.name: path.stat().st_ino for path in files.iterdir()}
    with store.workshop() as place:
        again = store.admit(files, made.tag, place)
    assert not any(files.iterdir())
    assert {path.name: path.stat().st_ino for path in again.path.iterdir() if path.name in inodes} == inodes


def test_a_damaged_release_is_replaced_only_if_that_is_said(home, tmp_path):
    made = store.publish(make_draft(), make_files(tmp_path / "files"))
    shutil.copytree(made.path, home / "arrived")
    (made.path / "model.onnx").write_bytes(b"damaged")
    with store.workshop() as place, pytest.raises(ReleaseError, match="is in the store already"):
        store.admit(home / "arrived", made.tag, place)
    with store.workshop() as place:
        store.admit(home / "arrived", made.tag, place, replace=True)
    assert store.open_release(made.tag).digest == made.digest
