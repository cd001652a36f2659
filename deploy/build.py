"""Write what deploy/ takes from grafana/: `python -m deploy.build`; `--check` says what is out of date."""

import argparse
import difflib
import sys
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from deploy import objects
from grafana import build, config, notice, rules
from grafana.config import Addresses
from grafana.profile import PRODUCTION
from grafana.statement import Places
from registry.errors import ConfigError, UserError

HERE = Path(__file__).resolve().parent
LINKS = HERE / "links.toml"
# Containers reach each other by name; where people reach them says LINKS.
COMPOSE = Addresses(
    targets=("vigil:3000",),
    monitor="monitor:9109",
    prometheus="prometheus:9090",
    alertmanager="alertmanager:9093",
    webhook_files="/run/secrets/webhook_",
    hosts=("node-exporter:9100",),
    key="/run/secrets/vigil_metrics_key",
)
WITH_GPU = replace(COMPOSE, gpus=("gpu-exporter:9400",))


def links() -> dict[str, Places]:
    """Return where the links of alerts lead, of `compose` and of `kubernetes`: LINKS, which people edit.

    Raises ConfigError for what is no TOML, a table that is missing, a table or key that is unknown, and no text.
    """
    try:
        said = tomllib.loads(LINKS.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{LINKS}: is not TOML: {error}") from error
    _demand_keys(said, ("compose", "kubernetes"), "")
    for where, places in said.items():
        if not isinstance(places, dict):
            raise ConfigError(f"{LINKS}: {where} is {places!r}; accepted is a table, [{where}]")
        _demand_keys(places, tuple(field.name for field in fields(Places)), f"{where}.")
        if wrong := [name for name, link in places.items() if not isinstance(link, str)]:
            raise ConfigError(f"{LINKS}: {where}.{wrong[0]} is {places[wrong[0]]!r}; accepted is a link in quotes")
    if missing := {"compose", "kubernetes"} - said.keys():
        raise ConfigError(f"{LINKS}: add the table [{min(missing)}]; it may be empty")
    return {where: Places(**places) for where, places in said.items()}


def _demand_keys(found: dict[str, Any], expected: tuple[str, ...], within: str) -> None:
    for name in found:
        if name not in expected:
            near = difflib.get_close_matches(name, expected, 1)
            cure = f"did you mean {near[0]}?" if near else f"accepted are {', '.join(expected)}"
            raise ConfigError(f"{LINKS}: unknown key {within}{name}; {cure}")


def files() -> dict[str, str]:
    """Return the text of every generated file by its path below deploy/."""
    places = links()
    rule_files = rules.rule_files(PRODUCTION, places["compose"])
    written = {
        **{f"compose/rules/{name}.yml": content for name, content in rule_files.items()},
        "compose/prometheus.yml": config.prometheus(PRODUCTION, COMPOSE),
        "compose/prometheus.gpu.yml": config.prometheus(PRODUCTION, WITH_GPU),
        "compose/alertmanager/alertmanager.yml": config.alertmanager(PRODUCTION, COMPOSE),
        "compose/provisioning/datasources/vigil.yaml": config.datasources(PRODUCTION, COMPOSE),
        "compose/provisioning/dashboards/vigil.yaml": config.dashboard_providers(),
    }
    texts = {path: build.to_yaml(content) for path, content in written.items()}
    texts["compose/alertmanager/vigil.tmpl"] = notice.TEMPLATE
    made = objects.generated(places["kubernetes"])
    return texts | {f"kubernetes/overlays/monitoring/{name}": build.to_yaml(said) for name, said in made.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.build", description="Write the generated files of deploy/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name the files that differ")
    asked = parser.parse_args(arguments)
    try:
        written = files()
    except UserError as error:
        print(f"deploy.build: {error}", file=sys.stderr)
        return 2
    if not asked.check:
        for path, text in written.items():
            place = HERE / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        return 0
    stale = build.differing(written, HERE)
    if stale:
        print("out of date, run `python -m deploy.build`:", *stale, sep="\n  ", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
