"""Cases for `platform_rules`."""

from grafana.cases import Case, Fire, Series, series

HOST = {"job": "vigil-host", "instance": "h:9100"}
GPU = {"job": "vigil-gpu", "instance": "h:9400", "gpu": "0"}
DAY_S = 86_400


def cases() -> list[Case]:
    """Return every case of the platform alerts."""
    return [
        *_rules(), *_notifications(), *_disk(), *_memory(), *_gpu_memory(), *_gpu_error(), *_certificate(),
        *_exporters(),
    ]  # fmt: skip


def _rules() -> list[Case]:
    name = "VigilRulesFailing"

    def failed(values: str, group: str = "/etc/prometheus/rules/slo.yml;vigil-slo") -> Series:
        return series("prometheus_rule_evaluation_failures_total", values, job="prometheus", rule_group=group)

    return [
        Case(name, "one evaluation fails", failed("0x20 1x60"), (Fire(21, value="1"),), clears=36),
        Case(name, "failures of long ago", failed("7x60")),
        Case(name, "rules of somebody else", failed("0x20 2x60", "/etc/prometheus/rules/x.yml;theirs"), last=25),
    ]


def _notifications() -> list[Case]:
    name = "VigilNotificationsFailing"

    def failed(values: str, integration: str = "webhook", job: str = "alertmanager") -> Series:
        return series("alertmanager_notifications_failed_total", values, job=job, integration=integration)

    lost = Fire(21, labels={"integration": "webhook"}, value="1")
    return [
        Case(name, "the receiver is gone", failed("0x20 1x60"), (lost,), clears=36),
        Case(name, "failures of long ago", failed("7x60")),
        Case(name, "that of a cluster", failed("0x20 1x60", job="alertmanager-main"), (lost,)),
        Case(name, "an Alertmanager of somebody else", failed("0x20 1x60", job="theirs"), last=25),
        Case(name, "another receiver works", failed("0x20 1x60") | failed("0x90", "slack"), (lost,)),
    ]


def _disk() -> list[Case]:
    name = "VigilDiskNearlyFull"
    place = {"mountpoint": "/var/lib/vigil"}

    def disk(left: str, job: str = "vigil-host", fstype: str = "ext4") -> Series:
        labels = {**HOST, **place, "job": job, "fstype": fstype}
        return series("node_filesystem_avail_bytes", left, **labels) | series(
            "node_filesystem_size_bytes", "1000x90", **labels
        )

    full = Fire(5, labels={"instance": "h:9100", **place}, value="9%")
    return [
        Case(name, "nine in a hundred are left", disk("500x4 90x60"), (full,)),
        Case(name, "old files are deleted", disk("500x4 90x30 500x40"), (full,), clears=36),
        Case(name, "eleven in a hundred are left", disk("110x60")),
        Case(name, "in memory", disk("10x60", fstype="tmpfs")),
        Case(name, "a host of somebody else", disk("10x60", job="node")),
    ]


def _memory() -> list[Case]:
    name = "VigilHostMemoryLow"

    def memory(left: str, job: str = "vigil-host") -> Series:
        labels = {**HOST, "job": job}
        free = series("node_memory_MemAvailable_bytes", left, **labels)
        return free | series("node_memory_MemTotal_bytes", "1000x90", **labels)

    low = Fire(5, labels={"instance": "h:9100"}, value="4%")
    return [
        Case(name, "four in a hundred are left", memory("500x4 40x60"), (low,)),
        Case(name, "something was ended", memory("500x4 40x30 500x40"), (low,), clears=36),
        Case(name, "six in a hundred are left", memory("60x60")),
        Case(name, "a host of somebody else", memory("10x60", job="node")),
    ]


def _gpu_memory() -> list[Case]:
    name = "VigilGPUMemoryNearlyFull"

    def memory(used: str, free: str, **labels: str) -> Series:
        place = GPU | labels
        return series("DCGM_FI_DEV_FB_USED", used, **place) | series("DCGM_FI_DEV_FB_FREE", free, **place)

    full = Fire(5, labels={"instance": "h:9400", "gpu": "0"}, value="96%")
    return [
        Case(name, "96 in a hundred are used", memory("100x4 960x60", "900x4 40x60"), (full,)),
        Case(name, "a process ends", memory("100x4 960x30 100x40", "900x4 40x30 900x40"), (full,), clears=36),
        Case(name, "94 in a hundred are used", memory("940x60", "60x60")),
        Case(name, "a GPU that tells nothing", memory("0x60", "0x60")),
        Case(name, "a GPU of somebody else", memory("990x60", "10x60", job="dcgm")),
    ]


def _gpu_error() -> list[Case]:
    name = "VigilGPUError"

    def xid(values: str, **labels: str) -> Series:
        return series("DCGM_FI_DEV_XID_ERRORS", values, **GPU | labels)

    failed = Fire(21, labels={"instance": "h:9400", "gpu": "0"}, value="79")
    lowest = Fire(21, labels={"instance": "h:9400", "gpu": "0"}, value="1")
    return [
        Case(name, "fallen off the bus", xid("0x20 79x60"), (failed,), clears=36),
        Case(name, "the lowest error", xid("0x20 1x60"), (lowest,)),
        Case(name, "an error of long ago", xid("79x60")),
        Case(name, "the driver starts again", xid("79x20 0x60"), last=22),
        Case(name, "a GPU of somebody else", xid("0x20 79x60", job="dcgm"), last=22),
    ]


def _certificate() -> list[Case]:
    name = "VigilCertificateExpiring"
    probe = {"job": "vigil-probe", "instance": "https://vigil:3000"}

    def expiry(values: str, **labels: str) -> Series:
        return series("probe_ssl_earliest_cert_expiry", values, **probe | labels)

    # At minute 15 it is due; the certificate ends 14 days after the start.
    soon = Fire(1, labels={"instance": "https://vigil:3000"}, value="13d 23h 44m 0s")
    renewed = f"{14 * DAY_S}x20 {90 * DAY_S}x60"
    return [
        Case(name, "less than two weeks", expiry(f"{14 * DAY_S}x60"), (soon,)),
        Case(name, "it was renewed", expiry(renewed), (soon,), clears=21),
        Case(name, "15 days", expiry(f"{15 * DAY_S}x60")),
        Case(name, "a site of somebody else", expiry("3600x60", job="blackbox")),
    ]


def _exporters() -> list[Case]:
    name = "VigilExporterDown"
    gone = Fire(5, labels=HOST)

    def up(values: str, job: str = "vigil-host") -> Series:
        return series("up", values, job=job, instance=HOST["instance"])

    return [
        Case(name, "the exporter of a host ends", up("1x4 0x60"), (gone,)),
        Case(name, "it is started again", up("1x4 0x30 1x40"), (gone,), clears=36),
        Case(name, "it is away for ten minutes", up("1x4 0x10 1x40")),
        Case(name, "a model server has its own alert", up("0x60", "vigil") | up("0x60", "vigil-monitor")),
    ]
