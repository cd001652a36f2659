"""What the rules say of the time an alert needs: in the demo profile, and in production at most."""

from typing import Any

from grafana import config, rules
from grafana.config import Addresses
from grafana.profile import PRODUCTION, Profile
from grafana.statement import Alert


def for_s(profile: Profile, name: str, severity: str) -> int | None:
    """Return the shortest `for` of that alert in a profile, None if there is no such alert."""
    found = _alerts(profile, name, severity)
    return min((alert.for_s for alert in found), default=None)


def most_s(profile: Profile, name: str, severity: str) -> int | None:
    """Return the seconds from the first scrape that shows the condition to the webhook, at most.

    Until the next scrape, until the next evaluation, `for` as it is counted in evaluations, and the group's wait. What
    a ratio over a window needs to cross its limit is not in it: that depends on the traffic.
    """
    waits = for_s(profile, name, severity)
    if waits is None:
        return None
    held = -(-waits // profile.evaluation_s) * profile.evaluation_s
    return profile.scrape_s + profile.evaluation_s + held + group_wait_s(profile, severity)


def group_wait_s(profile: Profile, severity: str) -> int:
    """Return how long Alertmanager collects before it tells of a new group of that severity."""
    route = config.alertmanager(profile, Addresses())["route"]
    chosen = [one for one in route["routes"] if f'severity="{severity}"' in one["matchers"]]
    return seconds(next((one["group_wait"] for one in chosen if "group_wait" in one), route["group_wait"]))


def seconds(text: str) -> int:
    """Return a length of time as Prometheus writes it in seconds."""
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[text[-1]]


def pages(profile: Profile = PRODUCTION) -> list[dict[str, Any]]:
    """Return each page with its `for` and its most seconds to the webhook."""
    names = sorted({alert.name for alert in rules.alerts(profile) if alert.severity == "critical"})
    return [
        {"alert": n, "for_s": for_s(profile, n, "critical"), "most_s": most_s(profile, n, "critical")} for n in names
    ]


def _alerts(profile: Profile, name: str, severity: str) -> list[Alert]:
    return [alert for alert in rules.alerts(profile) if alert.name == name and alert.severity == severity]
