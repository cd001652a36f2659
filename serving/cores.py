"""How many processor cores this process may use."""

import os
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available(groups: Path = GROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the cores of the affinity mask, or what the limit of the control group leaves of them; at least 1.

    More threads than that are stopped by the kernel in the middle of a run. groups, membership: where
    Linux shows the limits, and the groups this process is in.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, int(min([cores, *_limits(groups, membership)])))


def _limits(groups: Path, membership: Path) -> list[float]:
    # A line of membership is `0::/path` (version 2) or `4:cpu,cpuacct:/path` (version 1).
    # In a container the path is often that of the host: then the group is the root that is seen here.
    found = []
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = groups / controllers if controllers else groups
        place = root / path.strip("/")
        found += [_limit(folder) for folder in (place, *place.parents) if folder.is_relative_to(root)]
    return [limit for limit in found if limit > 0]


def _limit(folder: Path) -> float:
    # Version 2 writes "max 100000" or "150000 100000" in one file, version 1 has two files and -1 for no limit.
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not period:
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    return float(quota) / float(period) if quota.isdigit() and period.isdigit() else 0.0


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
