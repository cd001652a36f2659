"""Which folders the demo and the drill empty: their own alone."""

import os

import pytest

from demo import house
from drill import stage
from registry.errors import StackError


@pytest.fixture
def keep_home(monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", os.environ.get("BENTOML_HOME", ""))  # `make` sets it


def test_a_folder_of_somebody_else_is_refused_and_keeps_its_files(tmp_path, keep_home):
    (tmp_path / "thesis.tex").write_text("years")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        cure = "a new or empty folder; choose another --out, or, if an older version left it: rm -r "
        with pytest.raises(StackError, match=f"not emptied, .* {cure}"):
            house.make(folder)
        with pytest.raises(StackError, match="not emptied"):
            stage.prepare(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_new_or_empty_folder_and_one_of_an_earlier_run_are_used_and_the_latter_is_emptied(tmp_path, keep_home):
    (tmp_path / "beside").write_text("stays")
    (tmp_path / "out").mkdir()
    for folder in (tmp_path / "out", tmp_path / "new" / "out"):
        for _ in range(2):
            house.make(folder).close()
            assert [path.name for path in folder.iterdir()] == [house.MARK]
            (folder / "logs").mkdir()
            (folder / "logs" / "a.log").write_text("old")
            (folder / "link").symlink_to(tmp_path / "beside")
    assert (tmp_path / "beside").read_text() == "stays"


def test_the_disk_that_a_killed_drill_left_mounted_is_taken_away_first(tmp_path, keep_home, monkeypatch):
    house.make(tmp_path / "out").close()
    disk = tmp_path / "out" / "disk"
    disk.mkdir()
    umount = tmp_path / "bin" / "umount"
    umount.parent.mkdir()
    umount.write_text(f'#!/bin/sh\nrmdir "$2" && echo "$@" > {tmp_path}/said\n')
    umount.chmod(0o755)
    monkeypatch.setenv("PATH", f"{umount.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("os.path.ismount", lambda place: place == disk)

    def stop(folder, **_):
        assert not disk.exists()
        raise StackError("far enough")

    monkeypatch.setattr(house, "make", stop)
    with pytest.raises(StackError, match="far enough"):
        stage.prepare(tmp_path / "out")
    assert (tmp_path / "said").read_text() == f"-l {disk}\n"
