"""The result of a drill as a table for people."""

from drill.fault import Outcome
from drill.run import Report
from registry.listing import aligned

HEADER = ("fault", "alert expected", "seen", "to webhook", "for", "production", "to clear", "false alerts", "")


def text(report: Report) -> str:
    """Return one line a fault, then the clean run, what was not run and what each number means."""
    lines = [aligned([HEADER, *(_row(one) for one in report.outcomes)])] if report.outcomes else []
    if report.clean is not None:
        lines.append(f"clean run of {report.clean_s:g} s: {', '.join(report.clean) or '0 alerts'}")
    if report.not_run:
        lines.append(f"not run, since the time was up: {', '.join(report.not_run)}")
    lines += [f"{one.name}: {note}" for one in report.outcomes for note in _notes(one)]
    lines.append(
        "to webhook, to clear: seconds in the demo profile from the fault and from its cure. for: of the alert in it. "
        "production: seconds at most from the first scrape that shows the condition to the webhook, by the rules."
    )
    return "\n".join([*lines, f"{'ok' if report.ok else 'NOT ok'}, {report.wall_s:.0f} s"])


def _row(outcome: Outcome) -> tuple[str, ...]:
    wrong = [*outcome.early, *outcome.false, *outcome.left]
    return (
        outcome.name, outcome.expected or "none", _seen(outcome), _seconds(outcome.fired_s),
        _seconds(outcome.demo_for_s), _seconds(outcome.production_most_s), _seconds(outcome.cleared_s),
        ", ".join(dict.fromkeys(wrong)) or "0", "" if outcome.ok else "FAILED",
    )  # fmt: skip


def _seen(outcome: Outcome) -> str:
    return outcome.seen and "yes" if outcome.expected else "none" if not outcome.false else "no"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _notes(outcome: Outcome) -> list[str]:
    beside = [f"with it came {', '.join(outcome.companions)}"] if outcome.companions else []
    return [*beside, *outcome.notes, *([outcome.error] if outcome.error else [])]
