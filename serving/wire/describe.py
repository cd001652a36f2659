"""What a release takes and gives, in words of the wire."""

import numpy as np
import orjson

from registry.release import Release


def describe(release: Release) -> bytes:
    """Return what a client must send to `release`, and what it gets."""
    manifest, spec = release.manifest, release.manifest.input
    row = {
        "dtype": spec.dtype, "shape": spec.shape, "columns": spec.columns, "categories": spec.categories,
        "fills": {
            column: spec.categories[column][int(fill)] if column in spec.categories else np.float32(fill)
            for column, fill in spec.fills.items()
        },
    }  # fmt: skip
    said = {
        "model": release.name, "version": release.version, "task": manifest.task, "row": row,
        "classes": manifest.classes, "threshold": manifest.threshold, "tolerance": manifest.quality.get("tolerance"),
    }  # fmt: skip
    return orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)
