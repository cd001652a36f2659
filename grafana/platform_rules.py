"""Alerts on what the servers stand on: hosts, GPUs, certificates, and the alerting itself.

The numbers come from exporters that others maintain, each scraped as a job of ours, so that hosts of somebody else
in the same Prometheus open no ticket: node exporter as vigil-host, the DCGM exporter as vigil-gpu, the blackbox
exporter as vigil-probe. The Alertmanager that tells of our alerts is scraped as the job "alertmanager", or as an
operator names the job of a cluster's; where that Prometheus watches those of others too, give theirs another name, or
their broken receivers page here.
"""

from grafana.config import GPU, HOST, PROBE
from grafana.profile import DAY_S, Profile, duration
from grafana.statement import Alert, Statement, record

DISK_LEFT, MEMORY_LEFT, GPU_USED = 0.1, 0.05, 0.95
CERTIFICATE_S = 14 * DAY_S
OURS = 'job=~"(.+-)?alertmanager(-main)?"'  # the Alertmanager that pages go through, also as an operator names it
GROUPS = ".*;vigil-.*"  # the rule groups of this project, as Prometheus names them


def records(profile: Profile) -> list[Statement]:
    """Return the ratios that alerts and panels share."""
    place = f'{{job="{HOST}",fstype!~"tmpfs|ramfs|squashfs|overlay"}}'
    of_disk, of_gpu = "instance, mountpoint", "instance, gpu"
    free, size = (f"max by ({of_disk}) (node_filesystem_{what}_bytes{place})" for what in ("avail", "size"))
    used, unused = (f'max by ({of_gpu}) (DCGM_FI_DEV_FB_{what}{{job="{GPU}"}})' for what in ("USED", "FREE"))
    left, whole = (
        f'max by (instance) (node_memory_{what}_bytes{{job="{HOST}"}})' for what in ("MemAvailable", "MemTotal")
    )
    return [
        record("instance:disk_left:ratio", f"{free} / ({size} > 0)"),
        record("instance:memory_left:ratio", f"{left} / ({whole} > 0)"),
        record("instance:gpu_memory_used:ratio", f"{used} / ({used} + {unused} > 0)"),
    ]


def alerts(profile: Profile) -> list[Alert]:
    """Return the alerts, the most urgent first."""
    return [*_alerting(profile), *_hosts(profile), *_gpus(profile), _certificate(profile), _exporter_down(profile)]


def _alerting(profile: Profile) -> list[Alert]:
    window = duration(profile.patient_s)
    return [
        Alert(
            name="VigilRulesFailing",
            severity="critical",
            component="monitor",
            summary="Prometheus cannot evaluate alert rules.",
            description=f'{{{{ printf "%.0f" $value }}}} evaluations failed in {window}: something is not watched.',
            expr=f'sum(increase(prometheus_rule_evaluation_failures_total{{rule_group=~"{GROUPS}"}}[{window}])) > 0',
        ),
        Alert(
            name="VigilNotificationsFailing",
            severity="critical",
            component="monitor",
            summary="Alertmanager cannot deliver to {{ $labels.integration }}.",
            description=f'{{{{ printf "%.0f" $value }}}} notifications were not delivered in {window}.',
            expr=f"sum by (integration) (increase(alertmanager_notifications_failed_total{{{OURS}}}[{window}])) > 0",
            for_s=profile.urgent_s,
        ),
    ]


def _hosts(profile: Profile) -> list[Alert]:
    return [
        Alert(
            name="VigilDiskNearlyFull",
            severity="warning",
            component="host",
            summary="A disk is nearly full.",
            description=(
                "{{ $labels.mountpoint }} of {{ $labels.instance }} has {{ $value | humanizePercentage }} left. "
                "When the disk of the prediction log is full, records are lost."
            ),
            expr=f"instance:disk_left:ratio < {DISK_LEFT}",
            for_s=profile.patient_s,
        ),
        Alert(
            name="VigilHostMemoryLow",
            severity="warning",
            component="host",
            summary="A host has hardly any memory left.",
            description="{{ $labels.instance }} has {{ $value | humanizePercentage }} of its memory left.",
            expr=f"instance:memory_left:ratio < {MEMORY_LEFT}",
            for_s=profile.patient_s,
        ),
    ]


def _gpus(profile: Profile) -> list[Alert]:
    xid = f'DCGM_FI_DEV_XID_ERRORS{{job="{GPU}"}}'
    return [
        Alert(
            name="VigilGPUMemoryNearlyFull",
            severity="warning",
            component="gpu",
            summary="The memory of a GPU is nearly full.",
            description="GPU {{ $labels.gpu }} of {{ $labels.instance }}: {{ $value | humanizePercentage }} is in use.",
            expr=f"instance:gpu_memory_used:ratio > {GPU_USED}",
            for_s=profile.patient_s,
        ),
        Alert(
            name="VigilGPUError",
            severity="warning",
            component="gpu",
            summary="The driver of a GPU reports an error.",
            description="GPU {{ $labels.gpu }} of {{ $labels.instance }} reports Xid {{ $value }}.",
            # The gauge keeps the last error for ever: only a new one counts.
            expr=(
                f"max by (instance, gpu) ({xid}) > 0\n"
                f"and on (instance, gpu) max by (instance, gpu) (changes({xid}[{duration(profile.patient_s)}])) > 0"
            ),
        ),
    ]


def _certificate(profile: Profile) -> Alert:
    return Alert(
        name="VigilCertificateExpiring",
        severity="warning",
        component="serving",
        summary="A certificate expires soon.",
        description="The certificate of {{ $labels.instance }} is valid for another {{ $value | humanizeDuration }}.",
        expr=(f'min by (instance) (probe_ssl_earliest_cert_expiry{{job="{PROBE}"}}) - time() < {CERTIFICATE_S}'),
        for_s=profile.patient_s,
    )


def _exporter_down(profile: Profile) -> Alert:
    return Alert(
        name="VigilExporterDown",
        severity="warning",
        component="host",
        summary="What a host or a GPU does is not known.",
        description="{{ $labels.job }} at {{ $labels.instance }} answers no scrape: alerts on it cannot fire.",
        expr=f'up{{job=~"{HOST}|{GPU}|{PROBE}"}} == 0',
        for_s=profile.patient_s,
    )
