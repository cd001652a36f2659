"""Image folders -> rows: `root/<class>/*.png|jpg|...`, with or without `train/` and `test/` above the classes."""

from pathlib import Path

import numpy as np

from registry.errors import DataError
from training.config import Data
from training.raw import Raw

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def read(root: Path, data: Data) -> Raw:
    """Return the images under `root` as uint8 (n, height, width, 3), labelled by their folders."""
    from PIL import Image

    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{root}: holds no images; accepted is {root}/<class>/<image>.png")
    x = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    labels = np.array([path.parent.name for path in files])
    return Raw(str(root), x, labels)
