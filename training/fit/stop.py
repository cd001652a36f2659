"""SIGTERM and SIGINT: in the loop a question that it asks between steps, elsewhere the end; how to go on is told."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from registry.errors import UserError


class StoppedError(UserError):
    """A run was asked to stop and keeps what it had; the message names the command that goes on.

    exit_status: 128 and the number of the signal, as a shell has it; 2 if another process got the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_status = 128 + number if number else 2


@contextmanager
def asked() -> Iterator[Callable[[], int]]:
    """Give a function that returns the number of the signal that asked to stop, 0 before that."""
    seen: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: 0
        return
    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def told(again: str) -> Iterator[None]:
    """Raise StoppedError, which says `again`, the command that goes on, where SIGTERM or SIGINT ends the block."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        name = signal.Signals(number).name
        raise StoppedError(
            f"stopped by {name} before the first epoch or after the last; resume with {again}", number
        ) from None
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
