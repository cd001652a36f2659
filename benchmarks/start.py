"""How long a person waits: for `vigil --help`, and for the service's imports."""

import subprocess
import sys
import time
from typing import Any

REPEATS = 5


def measure() -> dict[str, Any]:
    """Return median seconds of a fresh interpreter, beside one that imports nothing."""
    return {
        "python_s": _median_s("pass"),
        "vigil_help_s": _median_s(
            "import vigil, contextlib, io\nwith contextlib.suppress(SystemExit): vigil.main(['-h'])"
        ),
        "import_service_s": _median_s("import service"),
    }


def _median_s(code: str) -> float:
    took = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - begun)
    return round(sorted(took)[REPEATS // 2], 3)
