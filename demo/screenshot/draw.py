"""Draw a dashboard at two moments of a run of the demo: during the drift, and after the rollback.

vigil demo --out demo; python -m demo.screenshot.draw --run demo/out --out docs

The queries are asked of a real Prometheus that is started on the data which the one of the run left behind. The panels
are drawn by Grafana's UI library in headless Chromium, not by a Grafana server: the first call fetches the library with
npm (460 MB, development only).
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import stack
from grafana.boards.generated import dashboards
from grafana.boards.panels import Panel
from grafana.profile import DEMO
from grafana.statement import MONITORS
from registry.errors import StackError

HERE = Path(__file__).resolve().parent
BUILD = stack.ROOT / "build" / "screenshot"  # away from the packages: the library has thousands of files
STAMP = "fetched"  # the package.json whose packages are all there: a fetch that was cut off leaves none
FETCH_S, DRAW_S = 1800.0, 120.0
CAPTION = "drawn with Grafana's UI library, not by a Grafana server"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
WIDTH = 1440
LINE = 38  # height of one unit of the grid with its gap, as in page.tsx
HEAD = 44
WINDOW_S = 60.0
STEP_S = 1  # between the points of a line
RATE = "10s"  # $__rate_interval at the demo's scrape interval of a second
Ask = Callable[[str, dict[str, float | str]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Moment:
    """When a picture is taken. at_s: Unix time; name: of the file, without its ending."""

    name: str
    at_s: float
    text: str


def moments(run: dict[str, Any]) -> list[Moment]:
    """Return the moments of a run as `demo.page` wrote it: an alert on drift fires; quality is well again."""
    drift = _told(run, "VigilDataDrift", "firing")
    healed = _told(run, "VigilQualityUnderFloor", "resolved")
    return [
        Moment("oncall-drift", drift, "during the drift"),
        Moment("oncall-rollback", healed + 3, "after the rollback"),
    ]


def answers(board: Panel, ask: Ask, at_s: float) -> dict[int, dict[str, list[dict[str, Any]]]]:
    """Return per panel and query what Prometheus says at `at_s`, of the time before it for lines."""
    lines: dict[str, float | str] = {"start": at_s - WINDOW_S, "end": at_s, "step": f"{STEP_S}s"}
    said: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for panel in board["panels"]:
        said[panel["id"]] = {}
        for target in panel.get("targets", ()):
            found = ask(filled(target["expr"], board), {"time": at_s} if target["instant"] else lines)
            said[panel["id"]][target["refId"]] = [
                one | {"values": broken(one["values"])} if "values" in one else one for one in found
            ]
    return said


def broken(points: list[list[Any]]) -> list[list[Any]]:
    """Return points of a line, [Unix time, value], with one that is no number in each gap: Grafana draws none there."""
    kept: list[list[Any]] = []
    for point in points:
        if kept and point[0] - kept[-1][0] > 1.5 * STEP_S:
            kept.append([kept[-1][0] + STEP_S, "NaN"])
        kept.append(point)
    return kept


def filled(query: str, board: Panel) -> str:
    """Return a query with every drop-down at its first choice."""
    for variable in board["templating"]["list"]:
        query = query.replace(f"${variable['name']}", variable.get("allValue", ""))
    return query.replace("$__rate_interval", RATE)


@contextlib.contextmanager
def prometheus(data: Path) -> Iterator[Ask]:
    """Run Prometheus on a copy of `data`, scraping nothing; yields a function that asks it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(data, folder / "data", ignore=shutil.ignore_patterns("lock", "queries.active"))
        (folder / "prometheus.yml").write_text("scrape_configs: []\n")
        (port,) = stack.free_ports(1)
        running = stack.Stack(folder, {})
        try:
            running.start("prometheus", stack.prometheus_command(folder / "prometheus.yml", folder / "data", port))
            running.ready("prometheus", port, "/-/ready")
            yield lambda query, span: _asked(port, query, span)
        finally:
            running.stop()


def draw(board: Panel, moment: Moment, ask: Ask, target: Path) -> None:
    """Write the picture of a dashboard at a moment."""
    begin = moment.at_s - WINDOW_S
    (note,) = board["annotations"]["list"]
    changes = ask(filled(note["expr"], board), {"start": begin, "end": moment.at_s, "step": f"{STEP_S}s"})
    drawn = {
        "board": board,
        "answers": answers(board, ask, moment.at_s),
        "marks": [{"time": time_s, "text": ""} for time_s in sorted(_times(changes))],
        "from": begin,
        "to": moment.at_s,
        "caption": f"{moment.text}, {time.strftime('%F %T UTC', time.gmtime(moment.at_s))}; {CAPTION}",
        "width": WIDTH,
    }
    _photograph(drawn, HEAD + LINE * max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"]), target)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo.screenshot.draw", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="of a demo: has run.json and data/")
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="DIR")
    parser.add_argument("--board", default="oncall", help="the name of a file in grafana/dashboards")
    asked = parser.parse_args(arguments)
    run = json.loads((asked.run / "run.json").read_text())
    board = dashboards(DEMO, MONITORS)[asked.board]
    try:
        _bundle()
        with prometheus(asked.run / "data" / "prometheus") as ask:
            for moment in moments(run):
                target = asked.out / f"{moment.name.replace('oncall', asked.board)}.png"
                draw(board, moment, ask, target)
                print(target)
    except StackError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _told(run: dict[str, Any], name: str, status: str) -> float:
    found = (n["time_s"] for n in run["notices"] if (n["name"], n["status"]) == (name, status))
    at = next(found, None)
    if at is None:
        raise StackError(f"run.json: no {name} that is {status}; a demo with Prometheus and Alertmanager has one")
    return float(at)


def _asked(port: int, query: str, span: dict[str, float | str]) -> list[dict[str, Any]]:
    path = "query" if "time" in span else "query_range"
    asked = urllib.parse.urlencode({"query": query} | span)
    status, body = stack.get(port, f"/api/v1/{path}?{asked}", 30)
    if status != 200:
        raise StackError(f"{query}: {body.decode()}")
    found: list[dict[str, Any]] = json.loads(body)["data"]["result"]
    return found


def _times(changes: list[dict[str, Any]]) -> set[float]:
    return {float(value) / 1000 for one in changes for _, value in one["values"]}


def _bundle() -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise StackError("npm is missing; install it with: sudo apt-get install npm")
    BUILD.mkdir(parents=True, exist_ok=True)
    stamp, wanted = BUILD / STAMP, (HERE / "package.json").read_text()
    for name in ("package.json", "page.tsx", "page.html"):
        shutil.copy(HERE / name, BUILD)
    if not stamp.exists() or stamp.read_text() != wanted:
        print("fetching Grafana's UI library with npm, 460 MB", file=sys.stderr)
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        _do([npm, "install", *options], FETCH_S)
        stamp.write_text(wanted)
    _do([npm, "run", "--silent", "bundle"], DRAW_S)


def _do(command: list[str], most_s: float) -> None:
    try:
        subprocess.run(command, cwd=BUILD, check=True, capture_output=True, text=True, errors="replace", timeout=most_s)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()[-1500:]
        raise StackError(f"{' '.join(command[:3])}: exit status {error.returncode}: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise StackError(f"{' '.join(command[:3])}: not done after {most_s:g} s") from error


def _photograph(drawn: dict[str, Any], height: int, target: Path) -> None:
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        raise StackError(f"no browser: none of {', '.join(CHROMIUM)}; install one with: sudo apt-get install chromium")
    data = json.dumps(drawn).replace("</", "<\\/")
    page = BUILD / "drawn.html"
    page.write_text((BUILD / "page.html").read_text().replace("/* drawn */", f"window.drawn = {data};"))
    target.parent.mkdir(parents=True, exist_ok=True)
    _do(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=8000",
            "--allow-file-access-from-files", f"--window-size={WIDTH},{height}", f"--screenshot={target.resolve()}",
            page.as_uri(),
        ],
        DRAW_S,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
