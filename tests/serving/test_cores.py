import os

import pytest

from serving import cores


def limits(tmp_path, membership, **files):
    """Lay out control groups as Linux shows them; return the arguments of `available`."""
    (tmp_path / "membership").write_text(membership)
    for name, content in files.items():
        file = tmp_path / "groups" / name.replace("__", "/").replace("_in_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return tmp_path / "groups", tmp_path / "membership"


@pytest.fixture
def eight(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


def test_the_affinity_of_the_process_counts_and_not_the_cores_of_the_machine(tmp_path):
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores.available(tmp_path, tmp_path / "none") == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores.available(tmp_path, tmp_path / "none") == len(allowed)


@pytest.mark.parametrize(
    ("content", "expected"), [("max 100000\n", 8), ("250000 100000\n", 2), ("50000 100000\n", 1), ("900000 100000", 8)]
)
def test_a_limit_of_version_2_leaves_its_whole_cores_and_at_least_one(tmp_path, eight, content, expected):
    assert cores.available(*limits(tmp_path, "0::/\n", cpu_in_max=content)) == expected


def test_the_limit_of_a_group_above_counts(tmp_path, eight):
    placed = limits(tmp_path, "0::/pod/box\n", pod__box__cpu_in_max="max 100000\n", pod__cpu_in_max="300000 100000\n")
    assert cores.available(*placed) == 3


def test_a_container_that_is_told_the_path_of_its_host_finds_its_limit_at_the_root(tmp_path, eight):
    assert cores.available(*limits(tmp_path, "0::/kubepods/pod1/abc\n", cpu_in_max="200000 100000\n")) == 2


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("400000", 4)])
def test_a_limit_of_version_1_counts(tmp_path, eight, quota, expected):
    files = {"cpu,cpuacct__box__cpu_in_cfs_quota_us": quota, "cpu,cpuacct__box__cpu_in_cfs_period_us": "100000\n"}
    assert cores.available(*limits(tmp_path, "3:memory:/other\n4:cpu,cpuacct:/box\n", **files)) == expected
