"""All dashboards of a profile, by the name of their file."""

from grafana.boards import drift, host, oncall, rollout, slo
from grafana.boards.board import dashboard
from grafana.boards.panels import Panel
from grafana.profile import Profile
from grafana.statement import Places


def dashboards(profile: Profile, places: Places) -> dict[str, Panel]:
    """Return each dashboard by its name; queries are the same in every profile, but for the objectives."""
    boards = {
        "oncall": oncall.oncall(profile),
        "slo": slo.slo(profile),
        "rollout": rollout.rollout(),
        "drift": drift.drift(),
        "host": host.host(),
    }
    return {name: dashboard(board, places) for name, board in boards.items()}
