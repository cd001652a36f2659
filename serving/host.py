"""Which release answers: follow the alias, load beside the live one, swap between two batches.

A release that fails to verify, load or repeat its own answers never goes live: the one before keeps
serving, and the failure is a metric.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from monitoring.counting.signal_metrics import SignalState
from monitoring.log.redaction import Redaction
from monitoring.metrics import ServingMetrics
from monitoring.shift import reference
from monitoring.shift.bulk import Counting, Tally, Totals
from monitoring.shift.reference import Reference
from registry import aliases, example, followed, store
from registry.aliases import Aliases, Pin
from registry.errors import AliasError, ReleaseError, RequestError, UserError
from registry.example import Example
from registry.release import REFERENCE, Release
from serving import cards, gauges
from serving.admission import Admission
from serving.batcher import Batcher
from serving.challenger import Challenger
from serving.engine import Engine, EngineError, GpuSettings
from serving.later import Later
from serving.rehearsal import GivenUp, rehearse
from serving.settings import Settings
from serving.watchdog import Inline

log = logging.getLogger(__name__)

RETRY_S = 5.0


@dataclass(frozen=True, eq=False)
class Served:
    """One loaded release with all that its requests need. redaction: of what is recorded; None: nothing is left out."""

    release: Release
    engine: Engine
    batcher: Batcher
    reference: Reference
    tally: Tally
    cards: dict[str, bytes]
    redaction: Redaction | None
    example: Later[Example]


class _Loading:
    """Holds the counts of a release that is being loaded."""


class Host:
    """One model: its live release, the one before it, kept warm for a rollback, and its challenger."""

    def __init__(
        self, model: str, settings: Settings, metrics: ServingMetrics, changed: Callable[[], None], pinned: Path | None
    ) -> None:
        """model: whose champion is followed; "" is the first that is the only one with a champion.

        changed: called after every swap. pinned: the release folder of a Bento that carries its model; then
        no alias is followed.
        """
        self._changed = changed
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._pinned = pinned
        self.admission = Admission(settings.max_inflight_rows)
        self.challenger = Challenger(settings, metrics)
        self.only_model = aliases.only_model  # until it is told what its service has chosen
        self.inline = Inline()  # until it is told which one the watchdog of the worker looks at
        self._live: Served | None = None
        self._previous: Served | None = None
        self._refused: tuple[Pin, float] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._target: list[gauges.Told] = []
        self._told: list[gauges.Told] = []
        self.reason = "starting"

    @property
    def ready(self) -> bool:
        return self._live is not None

    @property
    def named(self) -> bool:
        """Return whether the name of the model is known."""
        return bool(self._live or self._model)

    @property
    def name(self) -> str:
        """Return the name of the model, "none" while it is not known."""
        return self._live.release.name if self._live else self._model or "none"

    def serving(self, version: str = "") -> Served:
        """Return what answers now, or the loaded release of `version`.

        Raises RequestError: 503 with the reason when nothing answers, 404 when `version` is not loaded.
        """
        live = self._live
        if live is None:
            raise RequestError(self.reason, reason="not_ready", status=503)
        if not version or version == live.release.version:
            return live
        if self._previous is not None and version == self._previous.release.version:
            return self._previous
        raise RequestError(
            f"{live.release.name}: version '{version[:40]}' is not served; served are {', '.join(self.versions())}",
            reason="unknown_version",
            status=404,
        )

    def versions(self) -> list[str]:
        """Return the versions that are loaded, the live one first."""
        return [served.release.version for served in self._loaded()]

    def _loaded(self) -> list[Served]:
        return [served for served in (self._live, self._previous) if served is not None]

    def states(self) -> list[SignalState]:
        """Return the signal counts of the live release, for a scrape; the one before is judged by nobody."""
        return [_state(self._live)] if self._live is not None else []

    async def start(self) -> None:
        """Load what should be live, if it can be, and go on watching the alias."""
        if self._pinned is not None:
            await self._try(f"{self._pinned.parent.name}:{self._pinned.name}", None)
            return
        await self._follow()
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching; requests under way finish."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await self.challenger.stop()
        for served in self._loaded():
            served.batcher.close()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_s)
            try:
                await self._follow()
                if self._metrics.holders.due:
                    await asyncio.get_running_loop().run_in_executor(None, self._metrics.holders.sweep)
            except Exception:  # the watcher must outlive whatever one look at the disk raises
                log.exception("alias_watch_failed")

    async def _follow(self) -> None:
        try:
            wanted = self._wanted()
        except AliasError as error:
            if self.reason != str(error):
                log.warning("nothing_to_serve", extra={"reason": str(error)})
            self.reason = str(error)
            return
        self._tell_target(wanted)
        await self._lead(wanted)
        if (live := self._live) is not None:
            self.challenger.follow(wanted, live.release.version, lambda: live.batcher.idle)

    async def _lead(self, wanted: Aliases) -> None:
        pin = wanted.champion
        if pin is None or (self._live and self._live.release.digest == pin.digest):
            return
        if self._previous is not None and self._previous.release.digest == pin.digest:
            self._swap(self._previous)
        elif self._refused is None or self._refused[0] != pin or time.monotonic() - self._refused[1] > RETRY_S:
            await self._try(f"{wanted.model}:{pin.version}", pin)

    def _wanted(self) -> Aliases:
        # Once live, it stays with its model: another one that gets a champion in the store is none of its business.
        live = self._live.release.name if self._live else ""
        model = self._model or live or self.only_model()
        wanted = aliases.read(model)
        if wanted.champion is None:
            raise AliasError(f'{model}: has no champion; promote a release: vigil promote TAG --why "..."')
        return wanted

    async def _try(self, tag: str, pin: Pin | None) -> None:
        try:
            served = await self._load_while_wanted(tag, pin)
        except GivenUp:
            log.warning("release_given_up", extra={"release": tag})
        except UserError as error:
            reason = error.reason if isinstance(error, EngineError) else "verify"
            log.error("release_refused", extra={"release": tag, "reason": reason, "error": str(error)})
            self._refuse(tag, pin, reason, str(error))
        except Exception as error:  # a bug, or no memory: what serves goes on, and it is tried again after a while
            log.exception("release_failed", extra={"release": tag})
            self._refuse(tag, pin, "load", f"{tag}: cannot be loaded: {error!r}")
        else:
            self._refused = None
            self._swap(served)

    def _refuse(self, tag: str, pin: Pin | None, reason: str, why: str) -> None:
        self._metrics.load_failures.labels(tag.split(":")[0], reason).inc()
        self._refused = (pin, time.monotonic()) if pin is not None else None
        self.reason = why if self._live is None else self.reason

    async def _load_while_wanted(self, tag: str, pin: Pin | None) -> Served:
        # A release may hang for as long as its rehearsal may: who goes back meanwhile does not wait for that.
        unwanted = threading.Event()
        loading = asyncio.get_running_loop().run_in_executor(None, self._load, tag, pin, unwanted)
        loading.add_done_callback(lambda done: done.cancelled() or done.exception())  # also of one nobody waits for
        try:
            while not loading.done():
                await asyncio.wait([loading], timeout=self._settings.poll_s)
                if not self._wants(pin):
                    raise GivenUp(tag)
        finally:
            unwanted.set()
        return loading.result()

    def _wants(self, pin: Pin | None) -> bool:
        try:
            return pin is None or self._wanted().champion == pin
        except AliasError:  # of a store that says nothing the last word holds
            return True

    def _load(self, tag: str, pin: Pin | None, unwanted: threading.Event) -> Served:
        opened = store.open_folder(self._pinned, tag) if self._pinned is not None else store.open_release(tag)
        if pin is not None and opened.digest != pin.digest:
            raise ReleaseError(f"{opened.tag}: is not the release that was promoted (its digest differs)")
        said, place = self._settings, (opened.name, opened.version)
        loading = _Loading()
        self._metrics.holders.add(place, loading)
        if self._live is not None and said.rehearsal_mb:  # without one there is nothing to protect
            rehearse(opened, said.rehearsal_mb, unwanted)
        device = GpuSettings(said.cuda_graphs, said.tensorrt_path)
        engine = Engine(opened, said.providers, said.threads, device, said.workers)
        normal = reference.parse(opened.read(REFERENCE))
        policy = said.policy
        redaction = policy.redaction(opened.name, opened.manifest.input, normal.bins) if policy is not None else None
        rows = self._metrics.batch_rows.labels(*place)
        tally = self._tally(opened, normal)
        for name, numbers in normal.watched.items():
            engine.demand(name, numbers)
        outputs = (opened.manifest.output, *normal.watched)
        inline = Inline(stops=False) if engine.on_device else self.inline
        batcher = Batcher(engine, outputs, said.max_batch_rows, rows.observe, inline)
        shown = Later(partial(example.of, opened))  # reads all held-out rows, for a page that few look at
        served = Served(opened, engine, batcher, normal, tally, cards.read(opened), redaction, shown)
        self._metrics.holders.add(place, served, tally)
        return served

    def _tally(self, opened: Release, normal: Reference) -> Tally:
        counting = Counting.of(normal, opened.manifest.input, opened.manifest.threshold)
        place = opened.name, opened.version
        totals = Totals(
            self._metrics.signal_counts(*place, len(normal.bins)),
            self._metrics.embedding_sums(*place, counting.components),
        )
        return Tally(counting, totals, self._settings.signal_rows_per_s)

    def _swap(self, served: Served) -> None:
        if self._previous is not None and self._previous is not served:
            self._previous.batcher.close()
        self._live, self._previous = served, self._live
        served.tally.later = asyncio.get_running_loop().call_soon
        self.reason = "live"
        self._changed()
        self._tell_loaded()
        log.info("release_live", extra={"release": served.release.tag, "threads": served.engine.threads})

    def _tell_target(self, wanted: Aliases) -> None:
        told: list[gauges.Told] = []
        if wanted.champion is not None:
            told.append((self._metrics.model_target, (wanted.model, wanted.champion.version), 1))
            self._metrics.promoted.labels(wanted.model).set(wanted.changed_s)
        if wanted.previous is not None:
            told.append((self._metrics.model_before, (wanted.model, wanted.previous.version), 1))
        if followed.place(wanted.model):
            told.append((self._metrics.followed, (wanted.model,), followed.looked_s(wanted.model)))
        self._target = gauges.tell(self._target, told)

    def _tell_loaded(self) -> None:
        metrics, told = self._metrics, []
        for stage, served in (("live", self._live), ("previous", self._previous)):
            if served is None:
                continue
            place, normal = (served.release.name, served.release.version), served.reference
            info = (*place, stage, served.engine.provider, served.engine.requested)
            told += [
                (metrics.model_info, info, 1.0),
                (metrics.drift_psi_threshold, place, normal.psi_floor),
                (metrics.drift_min_rows, place, float(normal.min_rows)),
            ]
            told += [(metrics.drift_z_threshold, (*place, w), limit) for w, limit in normal.z_thresholds.items()]
        self._told = gauges.tell(self._told, told)
        self.admission.show = metrics.inflight_rows.labels(self.name).set
        metrics.inflight_rows_limit.labels(self.name).set(self._settings.max_inflight_rows)


def _state(served: Served) -> SignalState:
    normal, place = served.reference, (served.release.name, served.release.version)
    names = tuple(b.name for b in normal.bins)
    centres = normal.embedding.centres if normal.embedding is not None else ()
    return SignalState(
        *place, names, served.tally.counts(), normal.shares, normal.rows, served.tally.sums(), centres,
        normal.far, normal.outside, normal.padded_slopes().tolist(), normal.classes, normal.missing_thresholds,
    )  # fmt: skip
