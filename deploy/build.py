"""Write what deploy/ takes from grafana/: `python -m deploy.build`; `--check` says what is out of date."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from deploy import objects
from grafana import build, config, notice
from grafana.config import Addresses
from grafana.profile import PRODUCTION

HERE = Path(__file__).resolve().parent
WEBHOOK = "http://pager:9099/alerts"
# Containers reach each other by name; people reach the monitor and Grafana at the ports that compose publishes here.
COMPOSE = Addresses(
    targets=("vigil:3000",),
    monitor="monitor:9109",
    prometheus="prometheus:9090",
    alertmanager="alertmanager:9093",
    webhook=WEBHOOK,
    reports="http://127.0.0.1:9109/reports/",
    runbooks="http://127.0.0.1:9109/runbooks/",
    hosts=("node-exporter:9100",),
    key="/run/secrets/vigil_metrics_key",
)
WITH_GPU = replace(COMPOSE, gpus=("gpu-exporter:9400",))


def files(webhook: str = WEBHOOK) -> dict[str, str]:
    """Return the text of every generated file by its path below deploy/; webhook: see `grafana.config.Addresses`."""
    compose = replace(COMPOSE, webhook=webhook)
    written = {
        "compose/prometheus.yml": config.prometheus(PRODUCTION, compose),
        "compose/prometheus.gpu.yml": config.prometheus(PRODUCTION, WITH_GPU),
        "compose/alertmanager/alertmanager.yml": config.alertmanager(PRODUCTION, compose),
        "compose/provisioning/datasources/vigil.yaml": config.datasources(PRODUCTION, compose),
        "compose/provisioning/dashboards/vigil.yaml": config.dashboard_providers(),
    }
    texts = {path: build.to_yaml(content) for path, content in written.items()}
    texts["compose/alertmanager/vigil.tmpl"] = notice.TEMPLATE
    return texts | {
        f"kubernetes/overlays/monitoring/{name}": build.to_yaml(said) for name, said in objects.generated().items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.build", description="Write the generated files of deploy/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 and name the files that differ")
    parser.add_argument("--webhook", default=WEBHOOK, metavar="URL", help="where compose's Alertmanager sends alerts")
    asked = parser.parse_args(arguments)
    if not asked.check:
        for path, text in files(asked.webhook).items():
            place = HERE / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
        return 0
    stale = build.differing(files(asked.webhook), HERE)
    if stale:
        print("out of date, run `python -m deploy.build`:", *stale, sep="\n  ", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
