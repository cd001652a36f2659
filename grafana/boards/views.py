"""What a panel shows: queries, unit, colours that judge, what no data means, where a click leads."""

from dataclasses import dataclass, field, replace

GREEN, ORANGE, RED, GREY, BLUE = "green", "orange", "red", "text", "blue"
UNJUDGED = "#5a5d66"  # the background of a tile that has nothing to judge
Step = tuple[str, float | None]
SCRAPED = 'job=~"$job",instance=~"$instance"'
MODEL = 'model=~"$model"'
BOTH = f"{SCRAPED},{MODEL}"
WINDOW = "$__rate_interval"
JUDGE = ((GREEN, None), (RED, 1.0))  # 0 is good, 1 or more is not


def named(query: str, label: str, otherwise: str) -> str:
    """Return a query whose value is read for its label: one series that says `otherwise`, of value 0, for none.

    A tile that shows names would be blank without it: its text for no data is for values.
    """
    return f'{query} or on () label_replace(vector(0), "{label}", "{otherwise}", "", "")'


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
    cells: of a table, the column whose cells are coloured. axis_to: the axis goes from 0 to it at least, so that a
    flat line of zeros lies at the bottom.
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
    axis_to: float | None = None


def tile(view: View, width: int = 3) -> View:
    """Return `view` as one of the tiles in a row."""
    return replace(view, kind="stat", width=width, height=4)
