"""The folder in which the workers of one service instance count together.

Its name says which instance: the process that started the workers, by number and start. So workers of one
service share it, two services on a machine do not, and a service that starts again begins at 0.
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from monitoring.counting import processes
from monitoring.counting.processes import Process
from registry.errors import ConfigError

MEMORY = Path("/dev/shm")  # the disk may stop a process that writes to mapped memory for as long as it is busy
PREFIX = "vigil-counts"


def of_service(place: str = "") -> Path | None:
    """Return the folder of this worker's service, made if absent; remove those of services that are gone.

    place: where such folders lie, in memory or in the temporary folder if empty. None where processes cannot be
    told apart. Raises ConfigError if the folder cannot be used.
    """
    parent = processes.find(os.getppid())
    if parent is None:
        return None
    root = Path(place) if place else _usual_place()
    space = f"{PREFIX}-{os.getuid()}-{processes.pid_space()}"
    folder = root / f"{space}-{parent.pid}-{parent.started_ticks}"
    _remove_stale(root, space)
    try:
        folder.mkdir(mode=0o700, parents=bool(place), exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(
            f"VIGIL_METRICS_FOLDER: {root} cannot hold the counts of the workers: {error.strerror}; "
            "name a folder that can be written"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"VIGIL_METRICS_FOLDER: {folder} belongs to somebody else, or others may write there; "
            "name a folder where only the service writes"
        )
    return folder


def _usual_place() -> Path:
    return MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def _remove_stale(root: Path, space: str) -> None:
    for folder in root.glob(f"{space}-*-*"):
        pid, started_ticks = folder.name.split("-")[-2:]
        if pid.isdigit() and started_ticks.isdigit() and not Process(int(pid), int(started_ticks)).lives():
            shutil.rmtree(folder, ignore_errors=True)
