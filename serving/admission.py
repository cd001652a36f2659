"""How many rows one model takes in at a time."""

from collections.abc import Callable

from registry.errors import RequestError


class Admission:
    """The bound on rows in flight of one model: what exceeds it is refused at once, before any queue."""

    def __init__(self, limit_rows: int) -> None:
        self.limit_rows = limit_rows
        self.rows = 0
        self.show: Callable[[float], None] = lambda _: None  # told of the rows at each change

    def fits(self, rows: int) -> bool:
        """Return whether `rows` would be let in."""
        return self.rows + rows <= self.limit_rows

    def enter(self, rows: int) -> None:
        """Take `rows` in, or raise RequestError: 413 for more than ever fit, 503 for more than fit now."""
        if rows > self.limit_rows:
            raise RequestError(
                f"rows: {rows} in one request, at most {self.limit_rows} are accepted; send several requests",
                reason="too_many",
                status=413,
            )
        if not self.fits(rows):
            raise RequestError(
                f"{self.rows} rows are in flight, {rows} more would pass the limit of {self.limit_rows}; retry later",
                reason="queue_full",
                status=503,
            )
        self.rows += rows
        self.show(self.rows)

    def leave(self, rows: int) -> None:
        """Let `rows` out, answered or failed."""
        self.rows -= rows
        self.show(self.rows)
