"""`vigil explore`: one TOML file in, one page and its facts as JSON out."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.explore.facts import facts as told
from training.explore.findings import findings
from training.explore.page import html
from training.explore.report import Progress, look


@dataclass(frozen=True)
class Written:
    """facts: see `explore.facts`. page, json_file: where they were written."""

    facts: dict[str, Any]
    page: Path
    json_file: Path


def write(
    config_path: Path,
    out: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Progress = lambda _: None,
) -> Written:
    """Look at the data of a TOML file and write `explore.html` and `explore.json`.

    out: the page; the JSON lies beside it. None: in runs/<name of the TOML file>.
    overrides: see `config.load`. say: called with a line per stage.
    Raises a UserError if the data cannot be read or split; a finding raises nothing.
    """
    page = out or Path("runs") / config_path.stem / "explore.html"
    seen = look(config_path, overrides or {}, say)
    facts = told(seen, findings(seen))
    page.parent.mkdir(parents=True, exist_ok=True)
    json_file = page.with_suffix(".json")
    page.write_text(html(seen, facts), encoding="utf-8")
    json_file.write_text(json.dumps(facts, allow_nan=False, indent=1) + "\n", encoding="utf-8")
    return Written(facts, page, json_file)


def as_text(written: Written) -> str:
    """Return the findings as a list to read, and where the page is."""
    facts, lines = written.facts, []
    parts = ", ".join(f"{rows} {part}" for part, rows in facts["parts"].items())
    lines.append(f"{facts['name']}: {facts['rows']} rows ({parts})")
    for finding in facts["findings"]:
        lines += [f"{finding['level']:5} {finding['check']}: {finding['found']}", f"      {finding['cure']}"]
    if not facts["findings"]:
        lines.append("nothing was found that a person should look at before training")
    return "\n".join([*lines, f"the page is {written.page}, the facts are {written.json_file}"])
