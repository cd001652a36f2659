"""Write what deploy/ takes from grafana/: `python -m deploy.build`; `--check` says what is out of date."""

import argparse
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

from deploy import objects
from grafana import build, config, notice, rules
from grafana.config import Addresses
from grafana.profile import PRODUCTION
from grafana.statement import Places

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
    """Return where the links of alerts lead, of `compose` and of `kubernetes`: LINKS, which people edit."""
    said = tomllib.loads(LINKS.read_text(encoding="utf-8"))
    return {where: Places(**places) for where, places in said.items()}


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
    if not asked.check:
        for path, text in files().items():
            place = HERE / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        return 0
    stale = build.differing(files(), HERE)
    if stale:
        print("out of date, run `python -m deploy.build`:", *stale, sep="\n  ", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
