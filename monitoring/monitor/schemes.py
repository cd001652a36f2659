"""What each release makes of its rows, beside counting them: from what travels in it."""

import logging

from monitoring.judge import slices
from monitoring.judge.estimates import Estimation
from monitoring.monitor.contents import Scheme
from monitoring.shift import reference
from registry import release, store
from registry.errors import ReleaseError
from registry.release import REFERENCE, Release

log = logging.getLogger(__name__)


def of_release(model: str, version: str) -> Scheme:
    """Return what a release makes of its rows; of one that was deleted since, nothing but to count them."""
    try:
        found = release.load(store.models() / model / version, f"{model}:{version}")
    except ReleaseError:
        return Scheme()
    manifest = found.manifest
    tolerance = manifest.quality["tolerance"] if manifest.task == "regression" else None
    estimation = _estimation(found)
    sums = None if estimation is None else estimation.sums
    spec = manifest.input
    return Scheme(manifest.classes, tolerance, spec.dtype, spec.shape, slices.namer(manifest.quality, spec), sums)


def _estimation(found: Release) -> Estimation | None:
    try:
        known: Estimation | None = reference.parse(found.read(REFERENCE)).estimation
        return known
    except ReleaseError:
        log.warning("reference_not_read", extra={"tag": found.tag})
        return None
