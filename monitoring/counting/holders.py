"""For which releases anything in this process may still count: what nothing counts for is forgotten, after a while."""

import threading
import time
import weakref
from collections.abc import Callable

LINGER_S = 60.0  # several scrapes
MOST_LINGERING = 4  # so that a scrape stays as long as it is, however fast releases follow each other
Place = tuple[str, str]  # a model and a version


class Holders:
    """The objects that count, by release, as long as they live. Any thread may call.

    A release that nothing counts for any more lingers, so that its last counts are scraped.
    """

    def __init__(self, forget: Callable[[str, str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """forget: called with model and version."""
        self._forget = forget
        self._clock = clock
        self._holders: dict[Place, list[weakref.ref[object]]] = {}
        self._gone: dict[Place, float] = {}  # since when, the first first
        self._lock = threading.Lock()

    def add(self, place: Place, *holders: object) -> None:
        """Let nothing of a release be forgotten while one of `holders` lives; call before anything is counted."""
        with self._lock:
            self._gone.pop(place, None)
            self._holders.setdefault(place, []).extend(map(weakref.ref, holders))

    @property
    def due(self) -> bool:
        """Return whether `sweep` has something to do."""
        oldest_s = min(list(self._gone.values()), default=self._clock())
        return self._clock() - oldest_s > LINGER_S or any(not _live(found) for found in list(self._holders.values()))

    def sweep(self) -> None:
        """Forget the releases whose holders are gone for long; may wait for a scrape."""
        with self._lock:
            now_s = self._clock()
            for place in [place for place, found in self._holders.items() if not _live(found)]:
                del self._holders[place]
                self._gone[place] = now_s
            surplus = len(self._gone) - MOST_LINGERING
            for k, (place, since_s) in enumerate(list(self._gone.items())):
                if k < surplus or now_s - since_s > LINGER_S:
                    del self._gone[place]
                    self._forget(*place)


def _live(found: "list[weakref.ref[object]]") -> bool:
    return any(one() is not None for one in found)
