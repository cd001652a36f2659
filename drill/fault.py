"""What a drill plants, and what it demands of the alerts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from drill.stage import Stage

Plant = Callable[[Stage], Iterator[None]]
Entered = Callable[[Stage], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One fault. plant: a context, entered to plant it and left to cure it; it calls `stage.now()` as the fault begins.

    expected: the alert that must come, "" where none may. severity: of that alert. companions: alerts that the same
    fault may raise too. watch_s: how long it may take, or how long nothing may come. spoils: the service has counted
    what later faults must not see, so it starts anew.
    """

    name: str
    what: str
    cure: str
    plant: Entered
    expected: str = ""
    severity: str = "critical"
    companions: tuple[str, ...] = ()
    watch_s: float = 60.0
    spoils: bool = False


@dataclass
class Outcome:
    """What was seen of one fault. Seconds: from the fault, or its cure, to the webhook; None if it did not come.

    early, false: alerts before the fault was there, and beside those it may raise. left: what still fired at the end.
    """

    name: str
    what: str
    cure: str
    expected: str
    severity: str
    fired_s: float | None = None
    cleared_s: float | None = None
    seen: str = ""
    companions: list[str] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    demo_for_s: int | None = None
    production_most_s: int | None = None
    notes: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def ok(self) -> bool:
        came = not self.expected or (self.fired_s is not None and self.cleared_s is not None)
        return came and not (self.early or self.false or self.left or self.error)
