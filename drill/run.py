"""Plant faults one after the other, watch which alerts reach the webhook, cure them, and watch those go.

Each fault meets a Prometheus and an Alertmanager without memory: what one has left in a window is not seen by the next.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from demo import stack
from demo.stack import Notice
from drill import limits, model_faults, process_faults, traffic_faults
from drill.fault import Fault, Outcome
from drill.stage import Stage, close, prepare
from grafana.profile import DEMO, PRODUCTION
from registry.errors import ConfigError, StackError, UserError

# In this order: what leaves something behind in the service comes late.
FAULTS: dict[str, Fault] = {
    fault.name: fault for fault in (*traffic_faults.FAULTS, *process_faults.FAULTS, *model_faults.FAULTS)
}
SETTLE_S = 6.0  # of the usual traffic, before a fault: what a rate needs
LINGER_S = 4.0  # after the expected alert: what comes with it
CLEAR_S = 90.0
WHOLE_S = 900.0
WATCHDOG = "Watchdog"
POLL_S = 0.1


class TimeUp(Exception):  # noqa: N818, no error: the drill goes on to its end
    """The time for the faults is up while one is watched: nothing can be said of that one."""


@dataclass(frozen=True)
class Order:
    """What to run. only: names of faults, all if empty. clean_s: of usual traffic, without a fault; 0 leaves it out.

    good: a BENTOML_HOME whose champion of digits is taken; None trains one. whole_s: the most that all faults take,
    from the end of the clean run.
    """

    folder: Path
    only: tuple[str, ...] = ()
    clean_s: float = 60.0
    good: str | None = None
    whole_s: float = WHOLE_S


@dataclass
class Report:
    """What a drill found. clean: alerts that came in the clean run, None if there was none."""

    outcomes: list[Outcome] = field(default_factory=list)
    clean: list[str] | None = None
    clean_s: float = 0.0
    not_run: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    @property
    def ok(self) -> bool:
        return not (self.clean or self.not_run) and all(outcome.ok for outcome in self.outcomes)


def run(order: Order, tell: Callable[[str], None], keep: Callable[[Report], None] = lambda _: None) -> Report:
    """Run the drill; tell: takes a line of progress. keep: takes what is known so far, after each part.

    Raises ConfigError for an unknown fault, StackError.
    """
    chosen = _chosen(order.only)
    if missing := stack.missing_programs():
        raise StackError(f"drill: {', '.join(missing)} not installed; sudo apt-get install {' '.join(missing)}")
    report, started = Report(), time.monotonic()
    most_s = order.clean_s + order.whole_s
    tell("starting the stack" + ("" if order.good else ", training its release") + f"; at most {most_s / 60:.0f} min")
    disk_mb = process_faults.DISK_MB if "disk-full" in {fault.name for fault in chosen} else 0
    stage = prepare(order.folder.absolute(), order.good, disk_mb)
    try:
        if order.clean_s:
            _clean(stage, order.clean_s, report, tell)
            keep(report)
        stage.ends_s = time.monotonic() + order.whole_s
        for fault in chosen:
            try:
                report.outcomes.append(_one(stage, fault, tell))
            except TimeUp:
                report.not_run.append(fault.name)
            keep(report)
    finally:
        close(stage)
    report.wall_s = round(time.monotonic() - started, 1)
    return report


def as_dict(report: Report) -> dict[str, Any]:
    """Return plain values: what `vigil drill --json` prints."""
    faults = [asdict(outcome) | {"ok": outcome.ok} for outcome in report.outcomes]
    clean = None if report.clean is None else {"seconds": report.clean_s, "alerts": report.clean}
    return {
        "ok": report.ok, "wall_s": report.wall_s, "profile": DEMO.name, "clean": clean, "faults": faults,
        "not_run": report.not_run, "pages_in_production": limits.pages(),
    }  # fmt: skip


def _chosen(only: tuple[str, ...]) -> list[Fault]:
    unknown = [name for name in only if name not in FAULTS]
    if unknown:
        raise ConfigError(f"--only: no fault '{unknown[0]}'; known are {', '.join(FAULTS)}")
    return [fault for name, fault in FAULTS.items() if not only or name in only]


def _clean(stage: Stage, clean_s: float, report: Report, tell: Callable[[str], None]) -> None:
    stage.watch_anew()
    tell(f"clean: {clean_s:g} s of the usual traffic")
    begun_s = time.time()
    _wait(stage, lambda: False, clean_s)
    stage.house.stack.check()
    came = _names(_since(stage, begun_s, "firing"))
    report.clean, report.clean_s = came, clean_s
    tell(f"clean: {', '.join(came) or 'no alert'}")


def _one(stage: Stage, fault: Fault, tell: Callable[[str], None]) -> Outcome:
    outcome = Outcome(fault.name, fault.what, fault.cure, fault.expected, fault.severity if fault.expected else "")
    outcome.demo_for_s = limits.for_s(DEMO, fault.expected, fault.severity)
    outcome.production_most_s = limits.most_s(PRODUCTION, fault.expected, fault.severity)
    try:
        _watched(stage, fault, outcome)
        if fault.spoils:
            stage.serve_anew()
    except UserError as error:
        outcome.error = str(error).strip().splitlines()[-1]
        stage.recover()
    outcome.notes, stage.notes = stage.notes, []
    outcome.error = outcome.error or "; ".join(stage.problems)
    stage.problems = []
    tell(_line(outcome))
    return outcome


def _watched(stage: Stage, fault: Fault, outcome: Outcome) -> None:
    _demand_time(stage)
    stage.usual()
    stage.watch_anew()
    watched_s = time.time()
    _wait(stage, lambda: False, SETTLE_S)
    outcome.early = _names(_since(stage, watched_s, "firing"))
    stage.begun_s = 0.0
    with fault.plant(stage):
        came = _wait(stage, lambda: _found(stage, fault, stage.begun_s, "firing") is not None, fault.watch_s)
        if came:
            _wait(stage, lambda: False, LINGER_S)
        cured_s = time.time()
    _wait(stage, lambda: _quiet(stage, watched_s, fault, came), CLEAR_S)
    _note(stage, fault, outcome, (watched_s, cured_s))


def _note(stage: Stage, fault: Fault, outcome: Outcome, times: tuple[float, float]) -> None:
    watched_s, cured_s = times
    if notice := _found(stage, fault, stage.begun_s, "firing"):
        outcome.fired_s = round(notice.time_s - stage.begun_s, 1)
        outcome.seen = notice.name
        resolved = _found(stage, fault, cured_s, "resolved")
        outcome.cleared_s = round(resolved.time_s - cured_s, 1) if resolved else None
    expected = {fault.expected, *fault.companions}
    fired = _names(_since(stage, watched_s, "firing"))
    outcome.companions = [name for name in fired if name in fault.companions]
    outcome.false = [name for name in fired if name not in expected and name not in outcome.early]
    outcome.left = _left(stage, watched_s, fault)


def _found(stage: Stage, fault: Fault, since_s: float, status: str) -> Notice | None:
    if not fault.expected or not since_s:
        return None
    for notice in _since(stage, since_s, status):
        if notice.name == fault.expected and notice.labels.get("severity") == fault.severity:
            return notice
    return None


def _quiet(stage: Stage, since_s: float, fault: Fault, came: bool) -> bool:
    return not came or not _left(stage, since_s, fault)


def _left(stage: Stage, since_s: float, fault: Fault) -> list[str]:
    # Companions, and the same alert of another severity, may look back over a longer window than the drill waits.
    found = {(name, severity) for name, severity, _ in _firing(stage, since_s) if name not in fault.companions}
    return sorted({name for name, severity in found if name != fault.expected or severity == fault.severity})


def _firing(stage: Stage, since_s: float) -> set[tuple[str, str, str]]:
    now: set[tuple[str, str, str]] = set()
    for notice in _since(stage, since_s, ""):
        one = (notice.name, notice.labels.get("severity", ""), str(sorted(notice.labels.items())))
        (now.add if notice.status == "firing" else now.discard)(one)
    return now


def _since(stage: Stage, since_s: float, status: str) -> list[Notice]:
    notices = [n for n in stage.house.receiver.notices if n.time_s >= since_s and n.name != WATCHDOG]
    return [n for n in notices if n.status == status or not status]


def _names(notices: Iterable[Notice]) -> list[str]:
    return sorted({notice.name for notice in notices})


def _wait(stage: Stage, look: Callable[[], bool], most_s: float) -> bool:
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        if look():
            return True
        _demand_time(stage)
        time.sleep(POLL_S)
    return False


def _demand_time(stage: Stage) -> None:
    if time.monotonic() >= stage.ends_s:
        raise TimeUp


def _line(outcome: Outcome) -> str:
    fired = f"{outcome.seen} after {outcome.fired_s} s" if outcome.seen else "no alert"
    cleared = f", clear {outcome.cleared_s} s after the cure" if outcome.cleared_s is not None else ""
    wrong = [f"{what} {', '.join(found)}" for what, found in (
        ("early", outcome.early), ("false", outcome.false), ("left", outcome.left),
    ) if found]  # fmt: skip
    beside = f" (with {', '.join(outcome.companions)})" if outcome.companions else ""
    trouble = "".join(f"; {one}" for one in (*wrong, outcome.error) if one)
    return f"{'ok  ' if outcome.ok else 'FAIL'} {outcome.name}: {fired}{cleared}{beside}{trouble}"
