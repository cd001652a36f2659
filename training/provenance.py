"""Where a release comes from: commit, command, versions, and what became of the data on the way."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from training.config import Data
from training.export import export
from training.rows.data import Table
from training.rows.split import Parts


def git_commit() -> str:
    """Return the commit of this code, "-dirty" added if files were changed; "unknown" outside git."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def of_data(data: Data, table: Table, parts: Parts, labels: np.ndarray) -> dict[str, Any]:
    """Return what a manifest says about the data; labels: of the training rows, as they were learnt from."""
    return {
        "source": data.path or data.source, "digest": table.digest, "rows": len(table.y),
        "splits": parts.counts(), "given_test": table.given_test is not None,
        "first_rows": data.first_rows, "label_noise": data.label_noise,
        "labels_changed": int((labels != table.y[parts.train]).sum()),
        "skipped": list(table.skipped),
    }  # fmt: skip


def of_code(command: str) -> dict[str, Any]:
    """Return what a manifest says about the code that made the release; command: the one to make it again."""
    import sklearn

    versions = {"python": platform.python_version(), "numpy": np.__version__, "scikit-learn": sklearn.__version__}
    return {"git_commit": git_commit(), "command": command, "versions": versions | export.versions()}
