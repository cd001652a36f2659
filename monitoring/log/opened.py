"""The releases that recorded rows were answered by, opened once in a process."""

import functools
from dataclasses import dataclass

from monitoring.shift import reference
from monitoring.shift.bulk import Counting
from monitoring.shift.reference import Reference
from registry import store
from registry.release import REFERENCE, Release

MOST_OPEN = 8


@dataclass(frozen=True)
class Opened:
    """A release with every file verified, and its drift reference."""

    release: Release
    reference: Reference

    @functools.cached_property
    def counting(self) -> Counting:
        """What is counted of its rows."""
        return Counting.of(self.reference, self.release.manifest.input, self.release.manifest.threshold)


@functools.lru_cache(maxsize=MOST_OPEN)
def opened(tag: str) -> Opened:
    """Return the release `tag`; raises ReleaseError if it is absent or altered."""
    release = store.open_release(tag)
    return Opened(release, reference.parse(release.read(REFERENCE)))
