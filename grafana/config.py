"""Configuration files of Prometheus, Alertmanager and Grafana provisioning, as plain values."""

from dataclasses import dataclass
from typing import Any

from grafana.profile import Profile, duration
from grafana.statement import Places

Config = dict[str, Any]
# 100 signals of 16 bins, counts and shares, live and previous release, and as much again for the rest.
SAMPLE_LIMIT = 20_000
RECEIVERS = ("page", "ticket", "info", "deadman")
TOLD_IN_CHAT = ("page", "ticket")
HOST, GPU, PROBE = "vigil-host", "vigil-gpu", "vigil-probe"  # the jobs of exporters that others maintain
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
    "VigilInstanceDown",
    "VigilWorkersRestarting",
    "VigilNoTraffic",
    "VigilQueueWaitHigh",
    "VigilBatchingIneffective",
    "VigilChallengerFailing",
    "VigilVersionSplit",
    "VigilSyncStale",
)
BLIND_WITHOUT_MONITOR = ("VigilMonitorStale", "VigilMonitorBehind", "VigilLabelsLate")


@dataclass(frozen=True)
class Addresses:
    """Where everything listens; `webhook` is the base of the three URLs that alerts are sent to.

    reports, runbooks: the addresses of their folders as people reach them; the monitor's if empty. grafana: its
    address; links to dashboards are relative to it if empty. hosts, gpus: node_exporter and dcgm-exporter; probe: a
    blackbox exporter that looks at the certificates of the targets. chat: the file with the address of a chat's
    incoming webhook, which is a secret; pages and tickets go there too. key: the file with the API key that the
    servers ask for at /metrics, a secret too. webhook_files: the beginning of the paths of files with the URLs, which
    are secrets, of the receivers: their names are added to it; `webhook` counts for nothing then.
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
    probe: str = ""
    chat: str = ""
    key: str = ""
    webhook_files: str = ""

    def places(self) -> Places:
        """Return where the links of the alerts lead."""
        here = f"http://{self.monitor}"
        runbooks = (self.runbooks or f"{here}/runbooks").rstrip("/")  # the name of a file follows
        return Places(f"{runbooks}/", self.reports or f"{here}/reports/", self.grafana)


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
            {**_job("vigil", *addresses.targets), "sample_limit": SAMPLE_LIMIT, **_shown(addresses.key)},
            _job("vigil-monitor", addresses.monitor),
            _job("prometheus", addresses.prometheus),
            _job("alertmanager", addresses.alertmanager),
            *([_job(HOST, *addresses.hosts)] if addresses.hosts else []),
            *([_job(GPU, *addresses.gpus)] if addresses.gpus else []),
            *([_probe(addresses)] if addresses.probe else []),
        ],
    }


def alertmanager(profile: Profile, addresses: Addresses) -> Config:
    """Return alertmanager.yml: critical pages, warning opens a ticket, Watchdog feeds a dead man's switch."""
    wait, interval, repeat = (duration(seconds) for seconds in profile.delivery)
    return {
        "templates": ["vigil.tmpl"],
        "route": {
            "receiver": "ticket",
            "group_by": ["alertname", "model"],
            "group_wait": wait,
            "group_interval": interval,
            "repeat_interval": repeat,
            "routes": [
                _heartbeat(profile),
                {"receiver": "page", "matchers": ['severity="critical"'], "group_wait": duration(profile.page_wait_s)},
                {"receiver": "ticket", "matchers": ['severity="warning"']},
                {"receiver": "info", "matchers": ['severity="info"']},
            ],
        },
        "inhibit_rules": [
            _silence('alertname="VigilAbsent"', _any_of(BLIND_WITHOUT_SERVER)),
            # One of several that is gone, which the alert names, mutes nothing of the others.
            {
                "source_matchers": ['alertname="VigilMonitorAbsent"', 'instance=""'],
                "target_matchers": [_any_of(BLIND_WITHOUT_MONITOR)],
            },
            _silence('severity="critical"', 'severity="warning"', "alertname", "model"),
        ],
        "receivers": [_receiver(name, addresses) for name in RECEIVERS],
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


def _shown(key: str) -> Config:
    return {"authorization": {"credentials_file": key}} if key else {}


def _heartbeat(profile: Profile) -> Config:
    # A group is looked at each group_interval, and told again if repeat_interval is over by then. Where the two are
    # equal, or one is a multiple of the other, a few milliseconds decide, and beats are lost. Here every fourth look is
    # half an interval late, so none is: a beat each four fifths of the heartbeat.
    return {
        "receiver": "deadman",
        "matchers": ['alertname="Watchdog"'],
        "group_wait": "0s",
        "group_interval": duration(profile.heartbeat_s // 5),
        "repeat_interval": duration(profile.heartbeat_s * 7 // 10),
    }


def _any_of(names: tuple[str, ...]) -> str:
    return f'alertname=~"{"|".join(names)}"'


def _silence(source: str, target: str, *equal: str) -> Config:
    rule: Config = {"source_matchers": [source], "target_matchers": [target]}
    return {**rule, "equal": list(equal)} if equal else rule


def _probe(addresses: Addresses) -> Config:
    # The exporter is asked about each target, and the result is the target's.
    return {
        "job_name": PROBE,
        "metrics_path": "/probe",
        "params": {"module": ["http_2xx"]},
        "static_configs": [{"targets": [f"https://{target}/livez" for target in addresses.targets]}],
        "relabel_configs": [
            {"source_labels": ["__address__"], "target_label": "__param_target"},
            {"source_labels": ["__param_target"], "target_label": "instance"},
            {"target_label": "__address__", "replacement": addresses.probe},
        ],
    }


def _receiver(name: str, addresses: Addresses) -> Config:
    if addresses.webhook_files:
        webhook: Config = {"url_file": f"{addresses.webhook_files}{name}", "send_resolved": True}
    else:
        webhook = {"url": f"{addresses.webhook.rstrip('/')}/{name}", "send_resolved": True}
    chat = {
        "api_url_file": addresses.chat,
        "send_resolved": True,
        "title": '{{ template "vigil.title" . }}',
        "text": '{{ template "vigil.text" . }}',
    }
    told: Config = {"slack_configs": [chat]} if addresses.chat and name in TOLD_IN_CHAT else {}
    return {"name": name, "webhook_configs": [webhook], **told}
