"""Cases for `quality_rules`."""

from grafana.cases import Case, Fire, Series, series
from grafana.serving_cases import M, info

MONITOR = {"job": "vigil-monitor", "instance": "m:3001"}


def cases() -> list[Case]:
    """Return every case of quality, labels, monitor and watchdog."""
    return [*_floor(), *_labels(), *_monitor(), Case("Watchdog", "always", {}, (Fire(0),))]


def _measured(upper: float, rows: int, floor: float = 0.9, metric: str = "accuracy") -> Series:
    def gauge(what: str, value: float) -> Series:
        return series(f"vigil_quality_{what}", f"{value}x60", **MONITOR, **M, version="v1", metric=metric)

    fewest = series("vigil_quality_min_rows", "200x60", **MONITOR, **M)
    return gauge("upper", upper) | gauge("floor", floor) | gauge("rows", rows) | fewest


def _floor() -> list[Case]:
    name = "VigilQualityUnderFloor"
    under = Fire(0, labels={**M, "version": "v1", "metric": "accuracy"}, value="0.880")
    low = _measured(0.88, 200)
    numbers = _measured(0.88, 200, metric="within_tolerance")
    far_off = Fire(0, labels={**M, "version": "v1", "metric": "within_tolerance"}, value="0.880")
    rolled_back = info("1x9 stale") | info("_x10 1x50", "v0") | info("_x10 1x50", "v1", stage="previous")
    return [
        Case(name, "the whole interval is under the floor", low | info("1x60"), (under,)),
        Case(name, "a regression is too often far off", numbers | info("1x60"), (far_off,)),
        Case(name, "a rollback ends it at once", low | rolled_back, (under,), clears=10),
        Case(name, "the interval reaches the floor", _measured(0.91, 200) | info("1x60")),
        Case(name, "one row too few", _measured(0.88, 199) | info("1x60")),
        Case(name, "a release that is not live", low | info("1x60", stage="previous")),
    ]


def _labels() -> list[Case]:
    def newest(model: str, values: str, delay: bool = True) -> Series:
        latest = series("vigil_labels_latest_timestamp_seconds", values, **MONITOR, model=model)
        return latest | (series("vigil_label_delay_seconds", "600x1600", **MONITOR, model=model) if delay else {})

    def asked(model: str, rows: int = 10) -> Series:
        return series("vigil_input_rows_total", f"0+{rows}x1600", model=model, version="v1")

    # The newest label is of second 60: a day later it is late, with a known delay another three delays later.
    sooner = Fire(1442, labels={"model": "no delay known"}, value="1d 0h 16m 0s")
    late = Fire(1472, labels={"model": "late"}, value="1d 0h 46m 0s")
    quiet = newest("labels keep coming", "0+60x1600") | asked("labels keep coming")
    quiet |= newest("nothing asked", "60x1600") | asked("nothing asked", rows=0)
    quiet |= newest("labels never used", "0x1600") | asked("labels never used")
    one = newest("late", "60x1600") | asked("late") | quiet
    another = newest("no delay known", "60x1600", delay=False) | asked("no delay known") | quiet
    return [
        Case("VigilLabelsLate", "one model of four is late", one, (late,)),
        Case("VigilLabelsLate", "it is late sooner if its delay is not known", another, (sooner,)),
    ]


def _monitor() -> list[Case]:
    def runs(values: str) -> Series:
        last = series("vigil_monitor_last_success_timestamp_seconds", values, **MONITOR)
        return last | series("vigil_monitor_interval_seconds", "300x90", **MONITOR)

    def behind(values: str) -> Series:
        return runs("0+60x90") | series("vigil_monitor_lag_seconds", values, **MONITOR)

    slow = Fire(10, labels={"job": "vigil-monitor"}, value="15m 1s")
    stale = Fire(36, labels={"job": "vigil-monitor"}, value="31m 0s")
    return [
        Case("VigilMonitorStale", "three intervals without a run", runs("0+60x20 1200x70"), (stale,)),
        Case("VigilMonitorStale", "runs keep ending", runs("0+60x90"), last=80),
        Case("VigilMonitorStale", "one run is missed", runs("0+60x20 1200x9 1800+60x60"), last=50),
        Case("VigilMonitorBehind", "it reads slower than rows come", behind("0x9 901x70"), (slow,)),
        Case("VigilMonitorBehind", "it reads an old log for ten minutes", behind("0x9 90000x10 0x60")),
        Case("VigilMonitorBehind", "rows wait for the next run", behind("300x60")),
        Case("VigilMonitorAbsent", "served, but not watched", info("1x60"), (Fire(0),)),
        Case("VigilMonitorAbsent", "the monitor dies", info("1x60") | runs("0+60x10 stale"), (Fire(11),)),
        Case("VigilMonitorAbsent", "nothing is served", series("up", "1x60")),
        Case("VigilMonitorAbsent", "watched", info("1x60") | runs("0+60x60")),
    ]
