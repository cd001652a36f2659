"""The rooms import one way only: read from the code, and seen in fresh interpreters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("registry", "monitoring", "training", "serving", "grafana", "oncall", "demo", "drill")
ALLOWED = {
    "registry": set(),
    "monitoring": {"registry"},
    "training": {"registry", "monitoring"},
    "serving": {"registry", "monitoring"},
    "grafana": {"registry", "monitoring"},
    "oncall": {"registry", "grafana"},
}
SERVING_MAY_USE = {"metrics", "counting", "shift", "log"}
TRAINING_MAY_USE = {"shift", "judge"}
GRAFANA_MAY_USE = {"metrics", "counting"}
HEAVY = ("torch", "pandas", "sklearn", "evidently", "matplotlib", "scipy")


def imports(path):
    """Return every (module, names) that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, tuple(alias.name for alias in node.names)


def modules(room):
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_rooms_below_it(room):
    for path in modules(room):
        for module, _ in imports(path):
            top = module.split(".")[0]
            assert top not in ROOMS or top == room or top in ALLOWED[room], f"{path.name} imports {module}"
            assert top not in ("service", "vigil"), f"{path.name} imports {module}"


@pytest.mark.parametrize(
    ("room", "parts"), [("serving", SERVING_MAY_USE), ("training", TRAINING_MAY_USE), ("grafana", GRAFANA_MAY_USE)]
)
def test_a_room_uses_only_the_light_part_of_monitoring(room, parts):
    for path in modules(room):
        for module, names in imports(path):
            if module == "monitoring":
                assert set(names) <= parts, f"{path.name} imports {names}"
            elif module.startswith("monitoring."):
                assert module.split(".")[1] in parts, f"{path.name} imports {module}"


def test_only_report_imports_evidently():
    users = {path.name for room in ROOMS for path in modules(room) if _uses(path, "evidently")}
    assert users == {"report.py"}


def test_nothing_in_the_serving_path_can_unpickle():
    for room in ("serving", "registry"):
        for path in modules(room):
            assert not _uses(path, "pickle") and not _uses(path, "cloudpickle"), path
    text = "".join(path.read_text() for room in ("serving", "registry") for path in modules(room))
    assert "allow_pickle=True" not in text
    assert text.count("np.load(") == text.count("allow_pickle=False")


@pytest.mark.parametrize("name", ["service", "serving.server", "registry.aliases", "monitoring.log.recorder"])
def test_the_service_loads_nothing_heavy(name):
    assert _loaded(f"import {name}") == []


def test_a_bento_holds_every_module_that_the_service_loads():
    said = (ROOT / "bentofile.yaml").read_text().split("include:")[1].split("docker:")[0]
    patterns = [line.strip()[3:] for line in said.splitlines() if line.strip().startswith("- /")]
    held = {path for pattern in patterns for path in ROOT.glob(pattern)}
    code = "import service, sys\nprint([str(getattr(m, '__file__', '')) for m in list(sys.modules.values())])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    rooms = [ROOT / room for room in ROOMS]
    loaded = {Path(file) for file in ast.literal_eval(done.stdout.splitlines()[-1])}
    loaded = {file for file in loaded if any(room in file.parents for room in rooms)}
    assert len(loaded) > 50 and loaded <= held


def test_the_monitor_loads_no_torch_and_evidently_only_for_a_report():
    assert _loaded("import monitoring.monitor.watch, monitoring.reports.report") == []


def test_help_loads_no_room_but_the_errors():
    code = "import vigil, contextlib, io\nwith contextlib.suppress(SystemExit):\n    vigil.main(['--help'])"
    assert _loaded(code, ("bentoml", "numpy", "onnxruntime", "prometheus_client", *HEAVY)) == []


def _uses(path, package):
    return any(module.split(".")[0] == package for module, _ in imports(path))


def _loaded(code, packages=HEAVY):
    show = f"{code}\nimport sys\nprint([p for p in {packages!r} if p in sys.modules])"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, cwd=ROOT, check=True)
    return ast.literal_eval(done.stdout.splitlines()[-1])
