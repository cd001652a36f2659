"""Cases for `fleet_rules`."""

from grafana.cases import SLOWLY, Case, Fire, Series, series
from grafana.serving_cases import M, up

A = {"instance": "a:3000"}
HOUR = 60


def cases() -> list[Case]:
    """Return every case of the fleet alerts."""
    return [
        *_down(), *_restarts(), *_traffic(), *_sync(), *_challenger(), *_queue(), *_batches(), *_cardinality(),
    ]  # fmt: skip


def _down() -> list[Case]:
    name = "VigilInstanceDown"
    dead = Fire(5, labels={"job": "vigil", **A})
    return [
        Case(name, "one of two dies", up("1x4 0x40") | up("1x60", "b:3000"), (dead,)),
        Case(name, "it comes back", up("1x4 0x20 1x30"), (dead,), clears=26),
        Case(name, "a restart of ten minutes", up("1x4 0x10 1x40")),
        Case(name, "another job", series("up", "0x60", job="somebody")),
    ]


def _restarts() -> list[Case]:
    name = "VigilWorkersRestarting"
    often = Fire(22, labels={"job": "vigil", **A}, value="3")
    looped = Fire(22, labels={"job": "vigil", **A}, value="4")

    def started(values: str, job: str = "vigil", **found: str) -> Series:
        return series("vigil_service_start_timestamp_seconds", values, job=job, **found)

    def workers(values: str, reason: str = "replace", job: str = "vigil", **found: str) -> Series:
        with_it = series("vigil_worker_starts_total", "4x100", job=job, reason="start", **found)
        return with_it | series("vigil_worker_starts_total", values, job=job, reason=reason, **found)

    loop, thrice = "0x21 4x80", "100x9 700x5 1060x5 1420x80"
    cluster = {"namespace": "vigil", "pod": "vigil-0"}  # labels that a server has where it was discovered
    both = workers(loop, **cluster) | started(thrice, **cluster)
    return [
        Case(name, "a worker ends again and again beside three that live", workers(loop), (looped,), clears=52),
        Case(name, "two end", workers("0x9 1x5 2x80"), last=24),
        Case(name, "three end in two hours", workers("0x9 1x39 2x39 3x40"), last=100),
        Case(name, "its workers are rolled", workers(loop, "roll"), last=24),
        Case(name, "workers of another job", workers(loop, job="somebody"), last=24),
        Case(name, "three starts in half an hour", started(thrice), (often,), clears=41),
        Case(name, "server and workers of one pod: one alert", both, (looped,), clears=52),
        Case(name, "a rollout starts it twice", started("100x9 700x5 1060x80"), last=30),
        Case(name, "three starts in two hours", started("100x9 700x39 3100x39 5500x40"), last=100),
        Case(name, "another job", started(thrice, "somebody"), last=25),
    ]


def _traffic() -> list[Case]:
    name, step, day = "VigilNoTraffic", SLOWLY, 24 * HOUR
    stopped = Fire(day + 64, labels={"job": "vigil"})

    def asked(values: str, route: str = "/v1/predict") -> Series:
        return series("vigil_requests_total", values, route=route, code="200")

    # 6 requests a minute until an hour into the second day.
    until = f"0+24x{(day + 60) // step}"
    end = 24 * ((day + 60) // step)
    probes = asked("0+60x400", "/metrics")
    return [
        Case(name, "what came yesterday does not come", asked(f"{until} {end}x60") | probes, (stopped,), step=step),
        Case(
            name, "by the other protocol", asked(f"{until} {end}x60", "/v2/models/{name}/infer"), (stopped,), step=step
        ),
        Case(name, "it comes again", asked(f"{until} {end}x10 {end}+24x40"), (stopped,), clears=day + 120, step=step),
        Case(name, "never any", asked("0x400"), last=day + 120, step=step),
        Case(name, "a few a day", asked("0+8x375 3000x60"), last=day + 180, step=step),
        Case(name, "quiet yesterday as well", asked("0x400"), last=day + 120, step=step),
    ]


def _sync() -> list[Case]:
    name = "VigilSyncStale"

    def looked(values: str, instance: str = "a:3000") -> Series:
        return series("vigil_followed_timestamp_seconds", values, model="m", instance=instance)

    stuck = Fire(12, labels={**M, **A}, value="7m 0s")
    return [
        Case(name, "one of two is stuck", looked("0+60x10 600x60") | looked("0+60x90", "b:3000"), (stuck,)),
        Case(name, "it looks again", looked("0+60x10 600x20 1860+60x40"), (stuck,), clears=32),
        Case(name, "it never had a good look", looked("0x60"), (Fire(2, labels={**M, **A}, value="7m 0s"),)),
        Case(name, "it looks on", looked("0+60x60"), last=40),
        Case(name, "the place is gone for four minutes", looked("0+60x10 600x4 900+60x40"), last=30),
    ]


def _challenger() -> list[Case]:
    name = "VigilChallengerFailing"
    place = {**M, "version": "v2"}
    fails = Fire(1, labels=place, value="2%")

    def rows(run: str, failed: str, outcome: str = "failed") -> Series:
        good = series("vigil_shadow_rows_total", run, **place, outcome="run")
        return good | series("vigil_shadow_rows_total", failed, **place, outcome=outcome)

    mended = rows("0+98x9 882+100x50", "0+2x9 18x50")
    return [
        Case(name, "two in a hundred", rows("0+98x60", "0+2x60"), (fails,)),
        Case(name, "it is mended", mended, (fails,), clears=20),
        Case(name, "eight in a thousand", rows("0+992x60", "0+8x60")),
        Case(name, "rows that it had no time for", rows("0+50x60", "0+50x60", "dropped")),
        Case(name, "no rows", rows("0x60", "0x60")),
    ]


def _waits(late: int, all_: int = 100, minutes: int = 60, quick: int = 0) -> Series:
    # Of `all_` requests a minute, `late` wait longer than 0.1 s, and `quick` no longer than 0.025 s.
    def bucket(le: str, each: int) -> Series:
        return series("vigil_stage_seconds_bucket", f"0+{each}x{minutes}", **M, version="v1", stage="queue", le=le)

    return bucket("0.025", quick) | bucket("0.1", all_ - late) | bucket("0.25", all_) | bucket("+Inf", all_)


def _queue() -> list[Case]:
    name = "VigilQueueWaitHigh"
    # The 95th percentile lies between the edges: of 10 late ones in the middle, 0.1 + 0.15 / 2.
    late = Fire(1, labels=M, value="0.17")
    infer = {key.replace('"queue"', '"infer"'): value for key, value in _waits(20).items()}
    ends = {key: value.replace("x60", "x19 stale") for key, value in _waits(10).items()}
    return [
        Case(name, "one in ten waits long", _waits(10), (late,)),
        Case(name, "the load ends", ends, (late,), clears=30),
        Case(name, "one in fifty waits long", _waits(2)),
        Case(name, "the model is slow, not the queue", infer),
        Case(name, "no requests", _waits(0, 0)),
    ]


def _batches() -> list[Case]:
    name = "VigilBatchingIneffective"

    def runs(rows: int, runs: int, minutes: int = 90) -> Series:
        added = series("vigil_batch_rows_sum", f"0+{rows}x{minutes}", **M, version="v1")
        return added | series("vigil_batch_rows_count", f"0+{runs}x{minutes}", **M, version="v1")

    def calm() -> Series:
        return {key: value for key, value in _waits(0, minutes=90).items() if 'le="0.1"' not in key} | {
            key.replace('le="0.025"', 'le="0.01"'): value.replace("0+0", "0+100")
            for key, value in _waits(0, minutes=90).items()
            if 'le="0.025"' in key
        }

    alone = Fire(3, labels=M, value="1.2")  # a rate over 5 minutes is above 5 after 3
    busy = _waits(0, minutes=90, quick=94)  # one in twenty waits 0.04 s or longer
    ends = {key: value.replace("x90", "x40 stale") for key, value in (runs(720, 600) | busy).items()}
    return [
        Case(name, "rows wait and run one by one", runs(720, 600) | busy, (alone,)),
        Case(name, "the load ends", ends, (alone,), clears=50),
        Case(name, "runs are full", runs(6000, 600) | busy, last=60),
        Case(name, "two rows a run", runs(1200, 600) | busy, last=60),
        Case(name, "nobody waits", runs(720, 600) | calm(), last=60),
        Case(name, "two runs a second", runs(144, 120) | busy, last=60),
    ]


def _cardinality() -> list[Case]:
    name = "VigilTooManySeries"

    def samples(values: str, job: str = "vigil") -> Series:
        return series("scrape_samples_post_metric_relabeling", values, job=job)

    many = Fire(5, labels={"job": "vigil", **A}, value="16001")
    return [
        Case(name, "four fifths of the limit", samples("900x4 16001x60"), (many,)),
        Case(name, "what grew is gone", samples("900x4 16001x25 900x40"), (many,), clears=31),
        Case(name, "just under", samples("16000x60")),
        Case(name, "another job", samples("90000x60", "somebody")),
    ]
