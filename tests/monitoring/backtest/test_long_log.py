"""Logs of a million and of ten million rows over thirty days, replayed in bounded memory."""

import json
import os
import resource
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tiny_release import TABLE, make_draft, make_files, rows_of

from monitoring.log import recorder
from registry import store
from tests.monitoring.recorded import T0_S, answers

ROOT = Path(__file__).resolve().parents[3]
BLOCK, DAYS = 200_000, 30
TALL = (20 * 86_400, 22 * 86_400)  # seconds from the beginning
MOST_MB = 300
# The most memory of a program that another one started counts from the size of that one: so it tells its own.
TELLS = """import sys, vigil
status = vigil.main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(status)"""


def write(log, release, count):
    """Write the log; the rows repeat after BLOCK, their times do not."""
    usual, moved = rows_of(TABLE, BLOCK, seed=7), rows_of(TABLE, BLOCK, seed=7)
    moved[:, 1] += 0.5
    answered = [(rows, answers(release, rows)) for rows in (usual, moved)]
    place = (release.name, release.version)
    with closing(recorder.connect(log)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        for begin in range(0, count, BLOCK):
            at = np.arange(begin, begin + BLOCK) * (DAYS * 86_400 / count)
            tall = (at > TALL[0]) & (at < TALL[1])
            rows = np.where(tall[:, None], moved, usual)
            outputs = np.where(tall[:, None], answered[1][1], answered[0][1])
            said = zip(at.tolist(), outputs.argmax(axis=1).tolist(), outputs, rows, strict=True)
            with connection:
                connection.executemany(
                    recorder.PREDICTION,
                    (
                        (str(begin + i), T0_S + at_s, *place, str(best), p.tobytes(), row.tobytes())
                        for i, (at_s, best, p, row) in enumerate(said)
                    ),
                )


def cpu_s():
    """Return the CPU time of the processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.proof
@pytest.mark.parametrize("count", [1_000_000, 10_000_000])
def test_millions_of_rows_are_replayed_in_bounded_memory(tmp_path, capsys, count):
    made = store.publish(make_draft(spec=TABLE), make_files(tmp_path / "files", TABLE, rows=2000))
    write(tmp_path / "log.sqlite", made, count)
    begun, before_s = time.monotonic(), cpu_s()
    command = [sys.executable, "-c", TELLS, "backtest", str(tmp_path / "log.sqlite"), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    took_s, most_mb = time.monotonic() - begun, int(done.stderr.split()[-1]) / 1024
    (found,) = json.loads(done.stdout)
    (drift,) = [one for one in found["firings"] if one["alert"] == "VigilDataDrift"]
    assert found["spans"][0]["rows"] == count
    assert T0_S + TALL[0] < drift["from_s"] < T0_S + TALL[0] + 7200
    assert most_mb < MOST_MB
    with capsys.disabled():
        size_mb = (tmp_path / "log.sqlite").stat().st_size / 1e6
        print(f"\nreplay of {count:,} rows ({size_mb:.0f} MB) over {DAYS} days: {took_s:.0f} s, "
              f"{cpu_s() - before_s:.0f} s of CPU, {most_mb:.0f} MB at most")  # fmt: skip
