"""What set-up does about Prometheus and Alertmanager on machines unlike this one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "programs.sh"


@pytest.fixture
def machine(tmp_path):
    """Return a function that runs the script with only these programs on the path, and gives its result."""

    def run(**programs):
        for name, text in programs.items():
            program = tmp_path / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        shell = shutil.which("sh")
        environment = os.environ | {"PATH": str(tmp_path)}
        return subprocess.run([shell, str(SCRIPT)], capture_output=True, text=True, env=environment)

    return run


def test_nothing_is_done_where_all_programs_are_present(machine):
    done = machine(prometheus="", promtool="", prometheus_alertmanager="", amtool="", apt_get="exit 9", id="echo 0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_root_or_sudo_it_says_the_command_and_goes_on(machine):
    done = machine(apt_get="exit 9", id="echo 1000", sudo="exit 1")
    assert done.returncode == 0
    assert "sudo apt-get install prometheus prometheus-alertmanager" in done.stderr


def test_off_debian_it_says_so_and_goes_on(machine):
    done = machine(id="echo 0")
    assert done.returncode == 0
    assert "not Debian or Ubuntu: install them by hand" in done.stderr


def test_with_sudo_it_says_what_it_installs_and_installs_only_what_is_missing(machine, tmp_path):
    log = tmp_path / "calls"
    done = machine(
        prometheus="", promtool="", id="echo 1000", apt_get=f'echo "$@" >> {log}',
        sudo='[ "$1" = -n ] && exit 0; case "$1" in tee) cat > /dev/null ;; rm | chmod) ;; *) "$@" ;; esac',
        env='shift; exec "$@"',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "installing the Debian packages: prometheus-alertmanager (" in done.stdout
    assert "install -y -qq --no-install-recommends prometheus-alertmanager\n" in log.read_text()
