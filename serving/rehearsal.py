"""A candidate is loaded and answers its held-out rows in a process of its own, before it does so beside the live one.

There it can take no more memory than it was given, crash alone, or be ended when it never answers:
ONNX Runtime runs what a graph says, and a graph of 65 bytes can ask for terabytes.
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from registry import release as releases
from registry.errors import ReleaseError
from registry.release import Release
from serving import sessions
from serving.sessions import Threads
from serving.source import CPU, EngineError, Source

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120
LOOK_S = 0.1  # between two looks whether it is still wanted
FILE_SHARE = 4  # times its files: as bytes, as ONNX Runtime's copy, packed for its kernels, and a margin
REFUSED = 3  # the exit status of a child that says why on its last line


class GivenUp(Exception):  # noqa: N818 - nothing failed: nobody wants the release any more
    """A rehearsal that was ended before it had a result."""


def rehearse(candidate: Release, memory_mb: int, unwanted: threading.Event) -> None:
    """Raise EngineError unless a child loads `candidate` on the CPU and repeats its stored answers.

    memory_mb: what that may take besides FILE_SHARE times the size of its files. unwanted: when it is set, by any
    thread, the child is ended, and GivenUp raised.
    """
    command = [sys.executable, "-m", "serving.rehearsal", str(candidate.path), candidate.tag, candidate.digest]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    child = subprocess.Popen(
        [*command, str(memory_mb)],
        env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        done = _result(child, candidate.tag, unwanted)
    finally:
        child.kill()
        child.communicate()
    if done.returncode == REFUSED:
        said = json.loads(done.stdout.splitlines()[-1])
        raise EngineError(f"{said['message']} (rehearsed with {memory_mb} MB, VIGIL_REHEARSAL_MB)", said["reason"])
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        raise EngineError(
            f"{candidate.tag}: its rehearsal in {memory_mb} MB (VIGIL_REHEARSAL_MB) ended by {how}: {last}",
            "load",
        )


def _result(child: subprocess.Popen[str], tag: str, unwanted: threading.Event) -> "subprocess.CompletedProcess[str]":
    until = time.monotonic() + TIMEOUT_S
    while not unwanted.is_set():
        try:
            said, errors = child.communicate(timeout=LOOK_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() > until:
                why = f"{tag}: did not answer its held-out rows within {TIMEOUT_S} s"
                raise EngineError(why, "load") from None
            continue
        return subprocess.CompletedProcess(child.args, child.returncode, said, errors)
    raise GivenUp(tag)


def main(folder: str, tag: str, digest: str, memory_mb: str) -> int:
    """Rehearse the release in `folder` within this process; return 0, or REFUSED after saying why."""
    _yield_to_others()
    try:
        candidate = releases.load(Path(folder), tag)
        if candidate.digest != digest:
            raise ReleaseError(f"{tag}: is not the release that was asked for (its digest differs)")
        files = sum(entry.size_bytes for entry in candidate.manifest.files.values())
        _limit_memory(int(memory_mb) * 1_000_000 + FILE_SHARE * files)
        source = Source(candidate, (CPU,))
        source.check(source.open(sessions.options(Threads(1)), {}))
    except (ReleaseError, MemoryError) as error:
        reason = getattr(error, "reason", "load")
        print(json.dumps({"reason": reason, "message": str(error) or f"{tag}: takes more memory than it may"}))
        return REFUSED
    return 0


def _yield_to_others() -> None:
    # The live model comes first: for a core, and when the kernel must end a process for its memory.
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_S, TIMEOUT_S))  # should the parent die, it ends by itself
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def _limit_memory(more_bytes: int) -> None:
    with suppress(OSError):  # not Linux: then only its end is seen
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
