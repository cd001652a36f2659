"""What a panel shows: queries, unit, colours that judge, what no data means, where a click leads."""

from dataclasses import dataclass, field, replace

GREEN, ORANGE, RED, GREY, BLUE = "green", "orange", "red", "text", "blue"
Step = tuple[str, float | None]
SCRAPED = 'job=~"$job",instance=~"$instance"'
MODEL = 'model=~"$model"'
BOTH = f"{SCRAPED},{MODEL}"
WINDOW = "$__rate_interval"
JUDGE = ((GREEN, None), (RED, 1.0))  # 0 is good, 1 or more is not


@dataclass(frozen=True)
class Link:
    """Where a click on a value leads; the address may hold Grafana's `${__field.labels.x}`."""

    title: str
    url: str


ROLLOUT = Link(
    "Rollout of this model",
    "/d/vigil-rollout?var-datasource=${datasource}&var-model=${__field.labels.model}&${__url_time_range}",
)
DRIFT = Link(
    "Drift and quality of this model",
    "/d/vigil-drift?var-datasource=${datasource}&var-model=${__field.labels.model}&${__url_time_range}",
)
SLO = Link("Which budget, which route", "/d/vigil-slo?var-datasource=${datasource}&${__url_time_range}")
REPORT = Link("Reports of this model", "${reports}#${__field.labels.model}")
RUNBOOK = Link("Runbook of ${__data.fields.alertname}", "${runbooks}${__data.fields.alertname}.md")


@dataclass(frozen=True)
class View:
    """One panel; queries are (PromQL, legend); a step is a colour and the value from which it holds.

    words: value, or null, -> (text, colour). colours: pattern of a legend -> colour. dashed: pattern of the legends
    that are a limit. value: of a table, the title of its column of values; without it a table is read for its labels.
    cells: of a table, the column whose cells are coloured.
    """

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 6
    height: int = 7
    none: str = "no data"
    steps: tuple[Step, ...] = ((GREEN, None),)
    words: dict[str, tuple[str, str]] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)
    dashed: str = ""
    stack: bool = False
    highest: float | None = None
    links: tuple[Link, ...] = ()
    value: str = ""
    cells: str = ""


def tile(view: View) -> View:
    """Return `view` as one of eight tiles in a row."""
    return replace(view, kind="stat", width=3, height=4)
