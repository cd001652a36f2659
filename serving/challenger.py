"""The challenger of one model as the aliases have it: loaded beside the live release, and dropped when it ends."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from monitoring.counting.counts import GaugeChild
from monitoring.log.recorder import Recorder
from monitoring.metrics import ServingMetrics
from registry import store
from registry.aliases import Aliases, Challenge, Pin
from registry.errors import ReleaseError, UserError
from registry.release import Release
from serving.engine import Engine, EngineError, GpuSettings
from serving.rehearsal import GivenUp, rehearse
from serving.settings import Settings
from serving.shadow import Shadow

log = logging.getLogger(__name__)

RETRY_S = 60.0  # nobody waits for a challenger, and loading takes what the live release may need


class Challenger:
    """Follows the challenge of one model; `shadow` is what takes requests, None while there is none.

    recorder: where its answers go, if anywhere; to be set before the first challenge.
    Use from one event loop only. A challenger that fails to verify or load is logged and counted, and tried again
    after RETRY_S; whatever happens to it, the live release answers on.
    """

    def __init__(self, settings: Settings, metrics: ServingMetrics) -> None:
        self.shadow: Shadow | None = None
        self.recorder: Recorder | None = None
        self._settings = settings
        self._metrics = metrics
        self._info: GaugeChild | None = None
        self._wanted: tuple[Pin, str] | None = None  # the challenger and the version of the champion
        self._loading: asyncio.Task[None] | None = None
        self._unwanted = threading.Event()  # the one that is loading
        self._refused_s = 0.0

    def follow(self, aliases: Aliases, live: str, idle: Callable[[], bool]) -> None:
        """Make `shadow` what `aliases` ask for beside the live version; returns at once, loading goes on behind.

        idle: whether the live release has nothing to do; asked from another thread.
        """
        challenge = aliases.challenger
        beside = challenge is not None and aliases.champion is not None and aliases.champion.version == live
        wanted = (challenge.pin, live) if challenge is not None and beside else None
        if wanted != self._wanted:
            self._drop()
            self._wanted, self._refused_s = wanted, 0.0
        if challenge is None or wanted is None:
            return
        if self.shadow is not None:
            self.shadow.share = challenge.share
        elif self._loading is None and time.monotonic() >= self._refused_s:
            self._loading = asyncio.create_task(self._load(aliases.model, challenge, live, idle))

    async def stop(self) -> None:
        """Drop the challenger, and wait for what it was doing as long as that takes no longer than moments."""
        shadow, loading = self.shadow, self._loading
        self._wanted = None
        self._drop()
        if loading is not None:
            await asyncio.gather(loading, return_exceptions=True)
        if shadow is not None:
            await asyncio.get_running_loop().run_in_executor(None, shadow.join)

    def _drop(self) -> None:
        self._unwanted.set()
        if self.shadow is not None:
            self.shadow.stop()
            log.info("challenger_dropped", extra={"release": self.shadow.release.tag})
        if self._info is not None:
            self._info.clear()
        self.shadow = self._info = None

    async def _load(self, model: str, challenge: Challenge, live: str, idle: Callable[[], bool]) -> None:
        tag, loop = f"{model}:{challenge.version}", asyncio.get_running_loop()
        self._unwanted = threading.Event()
        try:
            release, engine = await loop.run_in_executor(None, self._open, tag, challenge.pin, self._unwanted)
        except GivenUp:
            return
        except UserError as error:
            self._refuse(tag, error.reason if isinstance(error, EngineError) else "verify", str(error))
            return
        except Exception as error:  # no memory, say: it is the challenger's trouble, and nobody else's
            self._refuse(tag, "load", repr(error))
            return
        finally:
            self._loading = None
        if self._wanted == (challenge.pin, live):
            self.shadow = Shadow(release, engine, live, idle)
            self._metrics.holders.add((model, release.version), self.shadow)
            self.shadow.start(challenge.share, self._metrics, self.recorder)
            place = (model, release.version, "challenger", engine.provider, engine.requested)
            self._info = self._metrics.model_info.labels(*place)
            self._info.set(1)
            log.info("challenger_loaded", extra={"release": tag, "share": challenge.share})

    def _refuse(self, tag: str, reason: str, error: str) -> None:
        self._metrics.load_failures.labels(tag.split(":")[0], reason).inc()
        self._refused_s = time.monotonic() + RETRY_S
        log.error("challenger_refused", extra={"release": tag, "reason": reason, "error": error})

    def _open(self, tag: str, pin: Pin, unwanted: threading.Event) -> tuple[Release, Engine]:
        release = store.open_release(tag)
        if release.digest != pin.digest:
            raise ReleaseError(f"{tag}: is not the release that was put up as challenger (its digest differs)")
        if self._settings.rehearsal_mb:
            rehearse(release, self._settings.rehearsal_mb, unwanted)
        device = GpuSettings(self._settings.cuda_graphs, self._settings.tensorrt_path)
        # One thread: it is to run beside the live release, not in its place.
        return release, Engine(release, self._settings.providers, 1, device, self._settings.workers)
