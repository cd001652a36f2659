"""Cases for `serving_rules`."""

from dataclasses import replace

from grafana.cases import Case, Fire, Series, series

M = {"model": "m"}
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def cases() -> list[Case]:
    """Return every case of the serving alerts."""
    of_one_release = (*_loads(), *_invalid(), *_categories(), *_capacity(), *_records(), *_keys())
    return [
        *_presence(),
        *(_beside(case, up("1x100")) for case in _readiness()),
        *(_beside(case, SERVER) for case in (*_versions(), *_splits(), *_provider())),
        *(_beside(case, SERVER | info("1x100")) for case in of_one_release),
    ]


def _beside(case: Case, usual: Series) -> Case:
    # Without these VigilAbsent fires as well, and what is told of the hour before takes most of the time of a test.
    return replace(case, series=usual | before("1x100", "v0") | case.series)


def up(values: str, instance: str = "a:3000") -> Series:
    """Return whether a server was scraped."""
    return series("up", values, instance=instance)


def ready(values: str, instance: str = "a:3000") -> Series:
    """Return whether a server answers predictions."""
    return series("vigil_ready", values, instance=instance)


def info(values: str, version: str = "v1", **labels: str) -> Series:
    """Return a loaded release; it is live and runs where it was asked to unless labels say otherwise."""
    usual = {"model": "m", "version": version, "stage": "live", "provider": CPU, "requested_provider": CPU}
    return series("vigil_model_info", values, **usual | labels)


def before(values: str, version: str, **labels: str) -> Series:
    """Return the release that a rollback goes back to."""
    return series("vigil_model_rollback_info", values, **{"model": "m", "version": version} | labels)


def first_again() -> Series:
    """Return a rollback to the first release: no other one was promoted before what is live now."""
    return info("1x1 stale", "v2") | before("1x1 stale", "v1") | info("_x2 1x60", "v1")


SERVER = up("1x100") | ready("1x100")


def _readiness() -> list[Case]:
    none_ready = Fire(0, "critical", labels={"job": "vigil"})
    one_unready = Fire(0, "warning", labels={"instance": "a:3000"})
    with_b = up("1x60", "b:3000") | ready("1x60", "b:3000")
    return [
        Case("VigilNotReady", "it gets ready", ready("0x19 1x20"), (none_ready, one_unready), clears=20),
        Case("VigilNotReady", "the first is live again", ready("0x60") | first_again(), (none_ready, one_unready)),
        Case("VigilNotReady", "the only server", ready("0x60"), (none_ready, one_unready)),
        Case("VigilNotReady", "one of two", ready("0x60") | with_b, (one_unready,)),
        Case("VigilNotReady", "all are ready", ready("1x60") | with_b),
        Case("VigilNotReady", "starting takes a minute", ready("0x1 1x60"), last=3),
    ]


def _presence() -> list[Case]:
    back = up("1x5 0x20 1x20") | ready("1x5 stale _x20 1x20")
    with_b = up("1x60", "b:3000") | ready("1x60", "b:3000")
    promoted = info("1x2 stale", "v1") | info("_x3 1x2 stale", "v2") | before("1x2 stale", "v0")
    promoted |= (
        before("_x3 1x2 stale", "v1") | info("1x5 stale", "x7", model="n") | before("1x5 stale", "x6", model="n")
    )
    gone = up("1x5 0x30") | ready("1x5 stale")
    return [
        Case("VigilAbsent", "the only server dies", gone, (Fire(6),)),
        Case("VigilAbsent", "it dies of what was promoted", gone | promoted, (Fire(6),)),
        Case("VigilAbsent", "the target left discovery", up("1x5 stale") | ready("1x5 stale"), (Fire(6),)),
        Case("VigilAbsent", "a server without our metrics", up("1x60"), (Fire(0),)),
        Case("VigilAbsent", "one of two is left", up("0x60") | with_b),
        Case("VigilAbsent", "a restart takes a minute", up("1x5 0 1x60") | ready("1x5 stale 1x60"), last=7),
        Case("VigilAbsent", "it comes back", back, (Fire(6),), clears=28),
    ]


def _versions() -> list[Case]:
    def target(version: str, instance: str = "a:3000") -> Series:
        return series("vigil_model_target_info", "1x60", instance=instance, model="m", version=version)

    wrong = Fire(0, labels={**M, "version": "v2"}, value="1")
    old = info("1x60", "v1", stage="previous")
    other = target("v2", "b:3000") | info("1x60", "v2", instance="b:3000")
    late = target("v2") | info("1x19 stale") | info("_x20 1x40", "v2")
    name = "VigilWrongVersionServed"
    return [
        Case(name, "v2 is promoted, v1 answers", target("v2") | info("1x60"), (wrong,)),
        Case(name, "one of two servers is behind", target("v2") | info("1x60") | other, (wrong,)),
        Case(name, "v2 is loaded but not live", target("v2") | info("1x60", "v2", stage="previous"), (wrong,)),
        Case(name, "v2 goes live", late, (wrong,), clears=20),
        Case(name, "v2 answers, v1 is kept", target("v2") | info("1x60", "v2") | old),
        Case(name, "the change takes 10 minutes", target("v2") | info("1x10 stale") | info("_x11 1x60", "v2")),
    ]


def _splits() -> list[Case]:
    def rolled(instance: str, behind: str = "1x10 stale", then: str = "_x11 1x60") -> Series:
        return info(behind, "v1", instance=instance) | info(then, "v2", instance=instance)

    name, two = "VigilVersionSplit", info("1x60", "v2") | info("1x60", "v2", instance="b:3000")
    stuck = two | info("1x60", "v1", instance="c:3000") | before("1x60", "v1") | before("1x60", "v0", instance="c:3000")
    return [
        Case(name, "one of three replicas is stuck", stuck, (Fire(0, labels=M, value="2"),)),
        Case(
            name, "it follows", two | info("1x19 stale", instance="c:3000"), (Fire(0, labels=M, value="2"),), clears=20
        ),
        Case(name, "a challenger runs beside", info("1x60") | info("1x60", "v2", stage="challenger")),
        Case(name, "two models", info("1x60") | info("1x60", "v2", model="n")),
        Case(name, "all serve the same, and keep the one before", two | info("1x60", "v1", stage="previous")),
        Case(name, "a roll takes 10 minutes", rolled("a:3000", "1x1 stale", "_x2 1x60") | rolled("b:3000")),
    ]


def _loads() -> list[Case]:
    def failures(values: str, reason: str = "golden") -> Series:
        return series("vigil_model_load_failures_total", values, **M, reason=reason)

    failed = Fire(21, labels={**M, "reason": "golden"})
    name = "VigilModelLoadFailing"
    return [
        Case(name, "the first failure ever", failures("_x21 1x60"), (failed,), clears=36),
        Case(name, "one more failure", failures("3x20 4x60"), (failed,), clears=36),
        Case(name, "failures of long ago", failures("3x60")),
        Case(name, "a server without failures", failures("0x60")),
        Case(name, "a new server without failures", failures("0x60"), last=10),
    ]


def _provider() -> list[Case]:
    refused = series("vigil_model_load_failures_total", "_x21 1x60", **M, reason="provider")
    other = series("vigil_model_load_failures_total", "_x21 1x60", **M, reason="golden")
    again = series("vigil_model_load_failures_total", "3x20 4x60", **M, reason="provider")
    nothing = series("vigil_model_load_failures_total", "0x60", **M, reason="provider")
    name = "VigilGPUFellBackToCPU"
    return [
        Case(name, "CUDA asked, CPU runs", info("1x60", requested_provider=CUDA), (Fire(0, labels=M),)),
        Case(name, "the server refuses to run on the CPU", refused, (Fire(21, labels=M),), clears=36),
        Case(name, "the server refuses once more", again, (Fire(21, labels=M),), clears=36),
        Case(name, "a new server that refused nothing", nothing, last=10),
        Case(name, "refused long ago", series("vigil_model_load_failures_total", "3x60", **M, reason="provider")),
        Case(name, "CUDA asked, CUDA runs", info("1x60", requested_provider=CUDA, provider=CUDA)),
        Case(name, "CPU asked, CPU runs", info("1x60")),
        Case(name, "a load failed for another reason", other, last=24),
        Case(name, "a release kept for rollback", info("1x60", requested_provider=CUDA, stage="previous")),
    ]


def _invalid() -> list[Case]:
    def rows(answered: int, refused: int) -> Series:
        good = series("vigil_input_rows_total", f"0+{answered}x60", **M, version="v1")
        return good | series("vigil_input_invalid_rows_total", f"0+{refused}x60", **M, reason="shape")

    name = "VigilInvalidInputs"
    flood = series("vigil_input_invalid_rows_total", "0+9x60", **M, reason="shape")
    ended = series("vigil_input_invalid_rows_total", "0+9x20 180x40", **M, reason="shape")
    ended |= series("vigil_input_rows_total", "0x20 0+100x40", **M, version="v1")
    both = (Fire(1, "critical", labels=M, value="100%"), Fire(1, "warning", labels=M, value="100%"))
    return [
        Case(name, "a tenth is refused", rows(90, 10), (Fire(1, "warning", labels=M, value="10%"),)),
        Case(name, "all is refused and nothing was ever answered", flood, both),
        Case(name, "valid rows come again", ended, both, clears=27),
        Case(name, "four in a hundred", rows(96, 4)),
        Case(name, "just under half does not page", rows(51, 49), last=10),
        Case(name, "nothing is sent", rows(0, 0)),
    ]


def _categories() -> list[Case]:
    def rows(answered: str, unknown: str, reason: str = "unknown_category") -> Series:
        good = series("vigil_input_rows_total", answered, **M, version="v1")
        return good | series("vigil_input_invalid_rows_total", unknown, **M, reason=reason)

    name = "VigilUnknownCategories"
    two = Fire(3, labels=M, value="2%")
    return [
        Case(name, "two in a hundred", rows("0+98x90", "0+2x90"), (two,)),
        Case(name, "they end", rows("0+98x90", "0+2x20 40x70"), (two,), clears=45),
        Case(name, "one in two hundred", rows("0+199x90", "0+1x90")),
        Case(name, "three of ten rows", rows("7x90", "0 1 2 3x88")),
        Case(name, "rows of another shape", rows("0+98x90", "0+2x90", "shape")),
    ]


def _capacity() -> list[Case]:
    def flight(rows: int, limit: int) -> Series:
        used = series("vigil_inflight_rows", f"{rows}x60", **M)
        return used | series("vigil_inflight_rows_limit", f"{limit}x60", **M)

    def refused(each_minute: int, reason: str) -> Series:
        return series("vigil_requests_rejected_total", f"0+{each_minute}x60", **M, reason=reason)

    calmer = flight(0, 100) | series("vigil_inflight_rows", "95x20 50x30", **M)
    ended = series("vigil_requests_rejected_total", "0+60x20 1200x40", **M, reason="queue_full")
    full = Fire(0, labels={**M, "instance": "a:3000"}, value="95%")
    queue, late = (Fire(1, labels={**M, "reason": reason}, value="0.60") for reason in ("queue_full", "deadline"))
    name = "VigilRejectingRequests"
    return [
        Case("VigilSaturated", "95 % of the limit", flight(95, 100), (full,)),
        Case("VigilSaturated", "the first release is live again", flight(95, 100) | first_again(), (full,)),
        Case("VigilSaturated", "the load falls", calmer, (full,), clears=21),
        Case("VigilSaturated", "85 % of the limit", flight(85, 100)),
        Case("VigilSaturated", "no limit is set", flight(95, 0)),
        Case(name, "the queue is full", refused(60, "queue_full"), (queue,)),
        Case(name, "deadlines pass", refused(60, "deadline"), (late,)),
        Case(name, "the load falls", ended, (queue,), clears=27),
        Case(name, "five a minute", refused(5, "queue_full")),
        Case(name, "a server that is not ready has its own alert", refused(60, "not_ready")),
    ]


def _records() -> list[Case]:
    def records(written: int, dropped: int, reason: str = "queue_full") -> Series:
        lost = series("vigil_records_dropped_total", f"0+{dropped}x60", **M, reason=reason)
        return lost | series("vigil_records_total", f"0+{written}x60", **M)

    name = "VigilRecordsLost"
    mended = records(95, 5) | series("vigil_records_dropped_total", "0+5x20 100x40", **M, reason="queue_full")
    only_lost = series("vigil_records_dropped_total", "0+5x60", **M, reason="write_failed")
    return [
        Case(name, "two in a hundred", records(98, 2), (Fire(1, labels=M, value="2%"),)),
        Case(name, "nothing was ever written", only_lost, (Fire(1, labels=M, value="100%"),)),
        Case(name, "it is mended", mended, (Fire(1, labels=M, value="5%"),), clears=27),
        Case(name, "five in a thousand", records(995, 5)),
        Case(name, "ids that the caller sent twice", records(50, 50, "duplicate_id")),
    ]


def _keys() -> list[Case]:
    def failures(values: str, instance: str = "a:3000") -> Series:
        return series("vigil_key_file_failures_total", values, instance=instance)

    refused = Fire(21, labels={"instance": "a:3000"})
    name = "VigilKeyFileRefused"
    return [
        Case(name, "a key file that is none", failures("0x20 1x60"), (refused,), clears=36),
        Case(name, "one of two servers", failures("0x20 1x60") | failures("0x80", "b:3000"), (refused,), clears=36),
        Case(name, "failures of long ago", failures("2x60")),
    ]
