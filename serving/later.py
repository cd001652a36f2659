"""What few ask for and what takes long: made in a thread when it is first wanted, once for all who wait."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """What `make` returns; for one event loop, which goes on meanwhile."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: asyncio.Future[T] | None = None

    async def get(self) -> T:
        """Return it; raises what `make` raised, and the next one who asks tries again."""
        if self._made is None:
            self._made = asyncio.get_running_loop().run_in_executor(None, self._make)
        made = self._made
        try:
            return await asyncio.shield(made)  # who goes away does not take it from the others
        finally:
            if made.done() and (made.cancelled() or made.exception()) and self._made is made:
                self._made = None
