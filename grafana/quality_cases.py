"""Cases for `quality_rules`."""

from grafana.cases import Case, Fire, Series, series
from grafana.serving_cases import M, info

MONITOR = {"job": "vigil-monitor", "instance": "m:3001"}
OTHER = MONITOR | {"instance": "n:3001"}  # the monitor beside another server


def cases() -> list[Case]:
    """Return every case of quality, labels, monitor and watchdog."""
    return [
        *_floor(),
        *_slices(),
        *_decline(),
        *_estimates(),
        *_labels(),
        *_monitor(),
        Case("Watchdog", "always", {}, (Fire(0),)),
    ]


def _measured(
    upper: float, rows: int, floor: float = 0.9, metric: str = "accuracy", by: dict[str, str] = MONITOR
) -> Series:
    def gauge(what: str, value: float) -> Series:
        return series(f"vigil_quality_{what}", f"{value}x60", **by, **M, version="v1", metric=metric)

    fewest = series("vigil_quality_min_rows", "200x60", **by, **M)
    interval = gauge("lower", upper - 0.5) | gauge("value", upper - 0.25) | gauge("upper", upper)
    return interval | gauge("floor", floor) | gauge("rows", rows) | fewest


def _under(metric: str) -> Fire:
    said = (
        f"Even the upper end of the 95 % interval of the {metric} of m v1, 0.880, is under the floor it was released "
        "with: 0.630, between 0.380 and 0.880, where 0.900 is the floor."
    )
    return Fire(0, labels={**M, "version": "v1", "metric": metric}, description=said)


def _floor() -> list[Case]:
    name = "VigilQualityUnderFloor"
    under = _under("accuracy")
    low = _measured(0.88, 200)
    numbers = _measured(0.88, 200, metric="within_tolerance")
    far_off = _under("within_tolerance")
    rolled_back = info("1x9 stale") | info("_x10 1x50", "v0") | info("_x10 1x50", "v1", stage="previous")
    return [
        Case(name, "the whole interval is under the floor", low | info("1x60"), (under,)),
        Case(name, "a regression is too often far off", numbers | info("1x60"), (far_off,)),
        Case(name, "beside one that has three labels", low | _measured(0.99, 3, by=OTHER) | info("1x60"), (under,)),
        Case(
            name, "rows of one, interval of another", _measured(0.88, 3) | _measured(0.95, 900, by=OTHER) | info("1x60")
        ),
        Case(name, "a rollback ends it at once", low | rolled_back, (under,), clears=10),
        Case(name, "the interval reaches the floor", _measured(0.91, 200) | info("1x60")),
        Case(name, "one row too few", _measured(0.88, 199) | info("1x60")),
        Case(name, "a release that is not live", low | info("1x60", stage="previous")),
    ]


def _of(monitor: dict[str, str], found: Series) -> Series:
    return {key.replace(MONITOR["instance"], monitor["instance"]): values for key, values in found.items()}


def _gauge(name: str, values: str, **labels: str) -> Series:
    return series(f"vigil_{name}", values, **MONITOR, **M, version="v1", **labels)


def _slices() -> list[Case]:
    def measured(upper: float, rows: int, slice_: str = "city=Bern", floor: float = 0.9) -> Series:
        place = {"slice": slice_}
        found = _gauge("quality_slice", f"{upper}x60", bound="upper", **place)
        found |= _gauge("quality_slice", "0.1x60", bound="lower", **place)
        found |= _gauge("quality_slice_floor", f"{floor}x60", **place) | _gauge(
            "quality_slice_rows", f"{rows}x60", **place
        )
        return found | series("vigil_quality_min_rows", "200x60", **MONITOR, **M)

    name = "VigilQualitySliceUnderFloor"
    under = Fire(0, labels={**M, "version": "v1", "slice": "city=Bern"}, value="0.800")
    good = measured(0.95, 900, "city=Oslo")
    hard = measured(0.8, 900, "city=Rome", floor=0.7)
    better = measured(0.8, 200) | _gauge("quality_slice", "0.8x19 0.95x40", bound="upper", slice="city=Bern")
    return [
        Case(name, "one slice of three is under its floor", measured(0.8, 200) | good | hard | info("1x60"), (under,)),
        Case(
            name,
            "beside a monitor that has three labels",
            measured(0.8, 200) | _of(OTHER, measured(0.99, 3)) | info("1x60"),
            (under,),
        ),
        Case(name, "a slice that was harder from the start", hard | info("1x60")),
        Case(name, "a slice with one row too few", measured(0.8, 199) | info("1x60")),
        Case(name, "the interval reaches the floor of the slice", measured(0.9, 200) | info("1x60")),
        Case(name, "it reaches its floor again", better | info("1x60"), (under,), clears=20),
        Case(name, "a slice of a release that is not live", measured(0.8, 200) | info("1x60", stage="previous")),
    ]


def _decline() -> list[Case]:
    def declined(evidence: str) -> Series:
        found = _gauge("quality_decline_evidence", evidence) | _gauge("quality_decline_value", "0.88x60")
        return found | series("vigil_quality_decline_limit", "20x60", **MONITOR)

    name = "VigilQualityDeclined"
    fallen = Fire(10, labels={**M, "version": "v1"}, value="0.880")
    return [
        Case(name, "the evidence reaches its limit", declined("1x9 20x50") | info("1x60"), (fallen,)),
        Case(
            name,
            "beside a monitor without evidence",
            declined("1x9 20x50") | _of(OTHER, declined("0x60")) | info("1x60"),
            (fallen,),
        ),
        Case(name, "it recovers", declined("1x9 20x20 19x20") | info("1x60"), (fallen,), clears=31),
        Case(name, "the evidence is not enough", declined("19.9x60") | info("1x60")),
        Case(name, "a decline of a release that is not live", declined("40x60") | info("1x60", stage="previous")),
    ]


def _estimates() -> list[Case]:
    def estimated(cbpe: float, atc: float, valid: int = 1, labelled: int = 0) -> Series:
        both = {"cbpe": cbpe, "atc": atc}
        found: Series = {}
        for method, upper in both.items():
            found |= _gauge("quality_estimate", f"{upper}x60", method=method, bound="upper")
            found |= _gauge("quality_estimate", "0.5x60", method=method, bound="lower")
        found |= _gauge("quality_estimate_valid", f"{valid}x60") | _gauge("quality_floor", "0.9x60", metric="accuracy")
        found |= _gauge("quality_rows", f"{labelled}x60", metric="accuracy")
        return found | series("vigil_quality_min_rows", "200x60", **MONITOR, **M)

    name = "VigilQualityEstimateUnderFloor"
    under = Fire(0, labels={**M, "version": "v1"}, value="0.880")
    other = info("1x60", stage="previous")
    rolled_back = info("1x19 stale") | info("_x20 1x40", stage="previous")
    return [
        Case(name, "both estimates are under the floor", estimated(0.88, 0.87) | info("1x60"), (under,)),
        Case(
            name,
            "beside a monitor that is not sure",
            estimated(0.88, 0.87) | _of(OTHER, estimated(0.99, 0.99)) | info("1x60"),
            (under,),
        ),
        Case(name, "few labels say nothing against it", estimated(0.88, 0.87, labelled=199) | info("1x60"), (under,)),
        Case(name, "a rollback ends it at once", estimated(0.88, 0.87) | rolled_back, (under,), clears=20),
        Case(name, "there are labels", estimated(0.88, 0.87, labelled=200) | info("1x60")),
        Case(name, "one estimate reaches the floor", estimated(0.88, 0.91) | info("1x60")),
        Case(name, "the estimate is not valid", estimated(0.5, 0.5, valid=0) | info("1x60")),
        Case(name, "an estimate of a release that is not live", estimated(0.88, 0.87) | other),
    ]


def _labels() -> list[Case]:
    name, step = "VigilLabelsLate", 16  # minutes; as long as the alert waits, and one more

    def newest(model: str, values: str, delay: bool = True) -> Series:
        latest = series("vigil_labels_latest_timestamp_seconds", values, **MONITOR, model=model)
        return latest | (series("vigil_label_delay_seconds", "600x120", **MONITOR, model=model) if delay else {})

    def asked(model: str, rows: float = 10) -> Series:
        return series("vigil_input_rows_total", f"0+{rows}x120", model=model, version="v1")

    # The newest label is of second 60: a day later it is late, with a known delay another three delays later.
    sooner = Fire(1456, labels={"model": "no delay known"}, value="1d 0h 31m 0s")
    late = Fire(1472, labels={"model": "late"}, value="1d 0h 47m 0s")
    quiet = newest("labels keep coming", "0+960x120") | asked("labels keep coming")
    quiet |= newest("nothing asked", "60x120") | asked("nothing asked", rows=0)
    quiet |= newest("labels never used", "0x120") | asked("labels never used")
    one = newest("late", "60x120") | asked("late") | quiet
    another = newest("no delay known", "60x120", delay=False) | asked("no delay known") | quiet
    again = newest("late", "60x93 90000x20") | asked("late", rows=0.01)  # not one in a day
    return [
        Case(name, "one model of four is late", one, (late,), step=step),
        Case(name, "it is late sooner if its delay is not known", another, (sooner,), step=step),
        Case(name, "three models, none of them late", quiet, last=1504, step=step),
        Case(name, "labels come again", again, (late,), clears=1504, step=step),
    ]


def _monitor() -> list[Case]:
    def runs(values: str) -> Series:
        last = series("vigil_monitor_last_success_timestamp_seconds", values, **MONITOR)
        return last | series("vigil_monitor_interval_seconds", "300x90", **MONITOR)

    def behind(values: str) -> Series:
        return runs("0+60x90") | series("vigil_monitor_lag_seconds", values, **MONITOR)

    text = "{} quality and label alerts cannot fire, drift alerts can."
    none, dead = (Fire(since, description=text.format("No monitor is scraped:")) for since in (0, 11))
    named = text.format("The monitor at m:3001 is not scraped, others are: of its part")
    one = Fire(11, labels=MONITOR, description=named)
    two = runs("0+60x10 stale") | series("up", "1x10 0x60", **MONITOR)
    two |= _of(OTHER, runs("0+60x60") | series("up", "1x60", **MONITOR))
    again = runs("0+60x10 stale _x20 1900+60x30")
    slow = Fire(10, labels=MONITOR, value="15m 1s")
    stale = Fire(36, labels=MONITOR, value="31m 0s")
    return [
        Case("VigilMonitorStale", "three intervals without a run", runs("0+60x20 1200x70"), (stale,)),
        Case("VigilMonitorStale", "another goes on", runs("0+60x20 1200x70") | _of(OTHER, runs("0+60x90")), (stale,)),
        Case("VigilMonitorStale", "a run ends again", runs("0+60x20 1200x38 3600+60x30"), (stale,), clears=60),
        Case("VigilMonitorStale", "runs keep ending", runs("0+60x90"), last=80),
        Case("VigilMonitorStale", "one run is missed", runs("0+60x20 1200x9 1800+60x60"), last=50),
        Case("VigilMonitorBehind", "it reads slower than rows come", behind("0x9 901x70"), (slow,)),
        Case("VigilMonitorBehind", "another keeps up", behind("0x9 901x70") | _of(OTHER, behind("0x90")), (slow,)),
        Case("VigilMonitorBehind", "it has caught up", behind("0x9 901x20 0x30"), (slow,), clears=31),
        Case("VigilMonitorBehind", "it reads an old log for ten minutes", behind("0x9 90000x10 0x60")),
        Case("VigilMonitorBehind", "rows wait for the next run", behind("300x60")),
        Case("VigilMonitorAbsent", "served, but not watched", info("1x60"), (none,)),
        Case("VigilMonitorAbsent", "the monitor dies", info("1x60") | runs("0+60x10 stale"), (dead,)),
        Case("VigilMonitorAbsent", "it is started again", info("1x60") | again, (dead,), clears=32),
        Case("VigilMonitorAbsent", "one of two dies", info("1x60") | two, (one,)),
        Case("VigilMonitorAbsent", "nothing is served", series("up", "1x60")),
        Case("VigilMonitorAbsent", "watched", info("1x60") | runs("0+60x60")),
    ]
