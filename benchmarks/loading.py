"""Time and memory of loading a user's data: 60,000 small images from a folder, a million rows from CSV and Parquet."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, SIDE_PIXELS, CLASSES = 60_000, 32, 10
ROWS, NUMBERS = 1_000_000, 18
LOAD = """
import json, re, sys, time
from pathlib import Path
from training.rows import data
from training.config import Data
begun = time.perf_counter()
table = data.load(Data(**json.loads(sys.argv[1])), Path("."))
print(json.dumps({
    "rows": len(table.y), "seconds": round(time.perf_counter() - begun, 1),
    # Not getrusage: its peak begins with that of the process that started this one.
    "peak_mb": int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024,
}))
"""


def measure() -> dict[str, Any]:
    """Return rows, seconds and peak resident memory (MB, maps of files included) of each way, in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images")
        write_tables(folder)
        images = {"source": "images", "path": str(folder / "images")}
        columns = {"target": "y", "categorical": ["c"]}
        return {
            "images_decoded": _load(folder, images), "images_from_the_cache": _load(folder, images),
            "csv": _load(folder, {"source": "csv", "path": str(folder / "rows.csv"), **columns}),
            "parquet": _load(folder, {"source": "parquet", "path": str(folder / "rows.parquet"), **columns}),
        }  # fmt: skip


def write_images(root: Path) -> None:
    """Write IMAGES colour PNG files, smooth with noise, into CLASSES folders."""
    from PIL import Image

    drawn = np.random.default_rng(0)
    across = np.linspace(0, 255, SIDE_PIXELS)
    smooth = np.add.outer(across, across)[:, :, None] / 2
    for number in range(IMAGES):
        path = root / f"class{number % CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = smooth * drawn.uniform(0.3, 1, 3) + drawn.normal(0, 20, (SIDE_PIXELS, SIDE_PIXELS, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def write_tables(folder: Path) -> None:
    """Write ROWS rows of NUMBERS columns of numbers, one of text and a target, as CSV and as Parquet."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    drawn = np.random.default_rng(0)
    columns: dict[str, Any] = {f"n{n}": drawn.normal(size=ROWS).astype(np.float32) for n in range(NUMBERS)}
    columns["c"] = np.array(["red", "green", "blue"])[drawn.integers(0, 3, ROWS)]
    columns["y"] = np.array(["no", "yes"])[drawn.integers(0, 2, ROWS)]
    table = pa.table(columns)
    pyarrow.csv.write_csv(table, folder / "rows.csv")
    pyarrow.parquet.write_table(table, folder / "rows.parquet")


def _load(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(settings)], check=True, capture_output=True, text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found
