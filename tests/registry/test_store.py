import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_release import make_draft, make_files

from registry import release, store
from registry.errors import ReleaseError

ROOT = Path(__file__).resolve().parents[2]
PUBLISHER = """
import sys; sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from tiny_release import make_draft
from registry import store
print("ready", flush=True)
for second in range({count}):
    made = store.publish(make_draft(created=f"2026-11-24T11:%02d:%02dZ" % divmod(second, 60)), Path({files!r}))
    print(made.tag, flush=True)
"""


def start_publisher(files, count):
    code = PUBLISHER.format(root=str(ROOT), tests=str(ROOT / "tests"), files=str(files), count=count)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def kill_loop(tmp_path, kills):
    files = make_files(tmp_path / "files")
    (files / "large.bin").write_bytes(os.urandom(4_000_000))  # long enough to be killed inside
    for kill in range(kills):
        process = start_publisher(files, 60)
        assert process.stdout.readline() == "ready\n"
        time.sleep((kill % 10) * 0.02)  # not waiting for something: a different moment to die at
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for listing in store.releases():
            assert listing.problem is None
            store.open_release(listing.tag)


def test_a_publisher_killed_at_any_moment_leaves_no_partial_version(tmp_path):
    kill_loop(tmp_path, kills=20)
    made = store.publish(make_draft(created="2026-11-25T00:00:00Z"), tmp_path / "files")
    store.open_release(made.tag)
    assert list((store.home() / "staging").iterdir()) == []


@pytest.mark.proof
def test_two_hundred_killed_publishers_leave_no_partial_version(tmp_path):
    kill_loop(tmp_path, kills=200)


def test_two_processes_that_publish_at_once_both_give_whole_versions(tmp_path):
    publishers = []
    for seed in (1, 2):
        files = make_files(tmp_path / f"files-{seed}", seed=seed)
        publishers.append(start_publisher(files, 15))
    tags = [line for process in publishers for line in process.communicate(timeout=60)[0].split()[1:]]
    assert len(set(tags)) == 30
    assert {listing.tag for listing in store.releases()} == set(tags)
    for tag in tags:
        store.open_release(tag)


def test_bentoml_itself_lists_and_exports_the_same_releases(publish, tmp_path):
    tags = {publish(seed=1).tag, publish(seed=2).tag}
    bentoml = [sys.executable, "-m", "bentoml", "models"]
    listed = subprocess.run([*bentoml, "list", "--output", "json"], capture_output=True, text=True, check=True)
    assert {one["tag"] for one in json.loads(listed.stdout)} == tags
    subprocess.run([*bentoml, "export", min(tags), str(tmp_path / "out.bentomodel")], capture_output=True, check=True)
    assert (tmp_path / "out.bentomodel").stat().st_size > 1000


def test_a_release_that_bentoml_imports_elsewhere_is_still_verified(publish, tmp_path, monkeypatch):
    tag = publish().tag
    bentoml = [sys.executable, "-m", "bentoml", "models"]
    archive = str(tmp_path / "out.bentomodel")
    subprocess.run([*bentoml, "export", tag, archive], capture_output=True, check=True)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "other"))
    subprocess.run([*bentoml, "import", archive], capture_output=True, check=True)
    assert store.open_release(tag).tag == tag


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


@pytest.mark.parametrize("name", ["", "Tiny", "a/b", "../x", "x" * 64, "a:b"])
def test_a_name_that_is_no_model_name_is_refused(tmp_path, name):
    with pytest.raises(ReleaseError, match="accepted are a-z, 0-9"):
        store.publish(make_draft(name=name), make_files(tmp_path / "files"))


@pytest.mark.parametrize("tag", ["tiny", "tiny:latest", "tiny:2026", "../tiny:20260101-000000-00000000", ":", "tiny:"])
def test_only_an_exact_tag_opens_a_release(publish, tag):
    publish()
    with pytest.raises(ReleaseError, match="is not a tag"):
        store.open_release(tag)


def test_an_unknown_tag_says_where_it_was_looked_for(publish):
    publish()
    with pytest.raises(ReleaseError, match="not in the store .*; `vigil models` lists what is"):
        store.open_release("tiny:20260101-000000-00000000")


def test_versions_are_never_prefixes_of_one_another(publish):
    versions = [publish(seed=seed).version for seed in range(3)]
    assert all(release.VERSION.fullmatch(version) for version in versions)
    assert len({len(version) for version in versions}) == 1
