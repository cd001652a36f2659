import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).resolve().parent
WATCHED = ExitStack()
STARTED = []  # what WATCHED holds open: one, or none
INSTALL = "apt-get install -y --no-install-recommends prometheus prometheus-alertmanager"


def program(name):
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed; run: {INSTALL}")
    return found


@pytest.fixture(scope="session")
def run():
    """Run a program of the Prometheus packages to its end; return its output and status."""

    def run(name, *arguments):
        command = [program(name), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def check_queries(run, tmp_path):
    """Have promtool parse queries, each as a recording rule of its own; return what it complains about."""

    def check(queries):
        rules = [{"record": f"query:number:{i}", "expr": query} for i, query in enumerate(queries)]
        place = tmp_path / "queries.yml"
        place.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
        done = run("promtool", "check", "rules", place)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    return check


@pytest.fixture(scope="session")
def grafana_folder():
    return Path(__file__).resolve().parents[2] / "grafana"


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """The real service, monitor and Prometheus under traffic, one for all tests here; see `tests.grafana.live`."""
    from tests.grafana import live

    if not STARTED:
        STARTED.append(WATCHED.enter_context(live.watched(tmp_path_factory.mktemp("watched"))))
    return STARTED[0]


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem):
    # It takes a part of a core as long as it runs: the tests of other folders do not wait beside it.
    if nextitem is None or HERE not in nextitem.path.parents:
        _end()


def pytest_sessionfinish():
    _end()


def _end():
    STARTED.clear()  # who comes back to this folder gets a new one
    WATCHED.close()
