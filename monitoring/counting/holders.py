"""For which releases anything in this process may still count: what nothing counts for is forgotten."""

import threading
import weakref
from collections.abc import Callable

Place = tuple[str, str]  # a model and a version


class Holders:
    """The objects that count, by release, as long as they live. Any thread may call."""

    def __init__(self, forget: Callable[[str, str], None]) -> None:
        """forget: called with model and version."""
        self._forget = forget
        self._holders: dict[Place, list[weakref.ref[object]]] = {}
        self._lock = threading.Lock()

    def add(self, place: Place, *holders: object) -> None:
        """Let nothing of a release be forgotten while one of `holders` lives; call before anything is counted."""
        with self._lock:
            self._holders.setdefault(place, []).extend(map(weakref.ref, holders))

    @property
    def some_gone(self) -> bool:
        """Return whether `sweep` has something to do."""
        return any(not _live(found) for found in list(self._holders.values()))

    def sweep(self) -> None:
        """Forget the releases whose holders are all gone; may wait for a scrape."""
        with self._lock:
            for place in [place for place, found in self._holders.items() if not _live(found)]:
                del self._holders[place]
                self._forget(*place)


def _live(found: "list[weakref.ref[object]]") -> bool:
    return any(one() is not None for one in found)
