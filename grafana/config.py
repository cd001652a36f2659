"""Configuration files of Prometheus, Alertmanager and Grafana provisioning, as plain values."""

from dataclasses import dataclass
from typing import Any

from grafana.profile import Profile, duration
from grafana.statement import Places

Config = dict[str, Any]
# 100 signals of 16 bins, counts and shares, live and previous release, and as much again for the rest.
SAMPLE_LIMIT = 20_000
BLIND_WITHOUT_SERVER = (
    "VigilNotReady",
    "VigilErrorBurn",
    "VigilLatencyBurn",
    "VigilSaturated",
    "VigilRejectingRequests",
    "VigilInvalidInputs",
    "VigilUnknownCategories",
    "VigilPredictionsCollapsed",
    "VigilDataDrift",
    "VigilRecordsLost",
)
BLIND_WITHOUT_MONITOR = ("VigilMonitorStale", "VigilMonitorBehind", "VigilLabelsLate")


@dataclass(frozen=True)
class Addresses:
    """Where everything listens; `webhook` is the base of the three URLs that alerts are sent to.

    reports, runbooks: the addresses of their folders as people reach them; the monitor's if empty. grafana: its
    address; links to dashboards are relative to it if empty. hosts, gpus: node_exporter and dcgm-exporter, which the
    dashboard on GPU and host reads.
    """

    targets: tuple[str, ...] = ("127.0.0.1:3000",)
    monitor: str = "127.0.0.1:9109"
    prometheus: str = "127.0.0.1:9090"
    alertmanager: str = "127.0.0.1:9093"
    webhook: str = "http://127.0.0.1:9099/alerts"
    reports: str = ""
    runbooks: str = ""
    grafana: str = ""
    hosts: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()

    def places(self) -> Places:
        """Return where the links of the alerts lead."""
        here = f"http://{self.monitor}"
        return Places(self.runbooks or f"{here}/runbooks/", self.reports or f"{here}/reports/", self.grafana)


def prometheus(profile: Profile, addresses: Addresses) -> Config:
    """Return prometheus.yml: what is scraped, which rules are evaluated, who is told."""
    return {
        "global": {
            "scrape_interval": duration(profile.scrape_s),
            "scrape_timeout": duration(min(profile.scrape_s, 10)),
            "evaluation_interval": duration(profile.evaluation_s),
        },
        "rule_files": ["rules/*.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [addresses.alertmanager]}]}]},
        "scrape_configs": [
            {**_job("vigil", *addresses.targets), "sample_limit": SAMPLE_LIMIT},
            _job("vigil-monitor", addresses.monitor),
            _job("prometheus", addresses.prometheus),
            _job("alertmanager", addresses.alertmanager),
            *([_job("node", *addresses.hosts)] if addresses.hosts else []),
            *([_job("dcgm", *addresses.gpus)] if addresses.gpus else []),
        ],
    }


def alertmanager(profile: Profile, addresses: Addresses) -> Config:
    """Return alertmanager.yml: critical pages, warning opens a ticket, Watchdog feeds a dead man's switch."""
    wait, interval, repeat = (duration(seconds) for seconds in profile.delivery)
    return {
        "route": {
            "receiver": "ticket",
            "group_by": ["alertname", "model"],
            "group_wait": wait,
            "group_interval": interval,
            "repeat_interval": repeat,
            "routes": [
                {
                    "receiver": "deadman",
                    "matchers": ['alertname="Watchdog"'],
                    "group_wait": "0s",
                    "repeat_interval": duration(max(profile.evaluation_s, profile.delivery[1])),
                },
                {"receiver": "page", "matchers": ['severity="critical"']},
                {"receiver": "ticket", "matchers": ['severity="warning"']},
            ],
        },
        "inhibit_rules": [
            _silence('alertname="VigilAbsent"', _any_of(BLIND_WITHOUT_SERVER)),
            _silence('alertname="VigilMonitorAbsent"', _any_of(BLIND_WITHOUT_MONITOR)),
            _silence('severity="critical"', 'severity="warning"', "alertname", "model"),
        ],
        "receivers": [_receiver(name, addresses.webhook) for name in ("page", "ticket", "deadman")],
    }


def datasources(profile: Profile, addresses: Addresses) -> Config:
    """Return the data source; its interval is the scrape interval, which $__rate_interval builds on."""
    source = {
        "name": "Prometheus",
        "uid": "vigil-prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": f"http://{addresses.prometheus}",
        "isDefault": True,
        "editable": False,
        "jsonData": {"timeInterval": duration(profile.scrape_s), "httpMethod": "POST"},
    }
    return {"apiVersion": 1, "datasources": [source]}


def dashboard_providers() -> Config:
    """Return the provider that loads dashboards/ from where Grafana's container mounts it."""
    provider = {
        "name": "vigil",
        "folder": "Vigil",
        "type": "file",
        "disableDeletion": True,
        "allowUiUpdates": False,
        "options": {"path": "/etc/grafana/dashboards"},
    }
    return {"apiVersion": 1, "providers": [provider]}


def _job(name: str, *targets: str) -> Config:
    return {"job_name": name, "static_configs": [{"targets": list(targets)}]}


def _any_of(names: tuple[str, ...]) -> str:
    return f'alertname=~"{"|".join(names)}"'


def _silence(source: str, target: str, *equal: str) -> Config:
    rule: Config = {"source_matchers": [source], "target_matchers": [target]}
    return {**rule, "equal": list(equal)} if equal else rule


def _receiver(name: str, webhook: str) -> Config:
    return {
        "name": name,
        "webhook_configs": [{"url": f"{webhook.rstrip('/')}/{name}", "send_resolved": True}],
    }
