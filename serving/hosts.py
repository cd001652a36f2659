"""All models of one service, each with its own releases, queue and limit of rows in flight."""

import asyncio
import functools
import os
from collections.abc import Iterable
from pathlib import Path

from monitoring.counting.signal_metrics import SignalState
from monitoring.log.recorder import Recorder
from monitoring.metrics import ServingMetrics
from registry.errors import RequestError
from serving import chosen, lifecycle
from serving.host import Host
from serving.settings import Settings
from serving.watchdog import Inline


class Hosts:
    """The models of a service, in the order they were named."""

    def __init__(
        self, settings: Settings, metrics: ServingMetrics, pinned: Path | None = None, folder: Path | None = None
    ) -> None:
        """pinned: see `Host`. folder: what all workers of this service see, see `chosen.only_model`."""
        names = settings.models if pinned is None and settings.models else ("",)
        self._metrics = metrics
        self.made_ready = asyncio.Event()
        self.all = [Host(name, settings, metrics, self._tell_ready, pinned) for name in names]
        for host in self.all:
            host.only_model = functools.partial(chosen.only_model, folder)

    @property
    def ready(self) -> bool:
        return all(host.ready for host in self.all)

    @property
    def reason(self) -> str:
        """Return why the service is not ready, "live" if it is."""
        waiting = [host.reason for host in self.all if not host.ready]
        return "; ".join(waiting) or "live"

    def only(self) -> Host:
        """Return the one model; raises RequestError 404 that names the addresses if there are several."""
        if len(self.all) > 1:
            names = ", ".join(f"/v1/models/{host.name}/..." for host in self.all)
            raise RequestError(f"several models are served; name one in the address: {names}", status=404)
        return self.all[0]

    def find(self, name: str) -> Host:
        """Return the model called `name`; raises RequestError 404 with those there are."""
        for host in self.all:
            if host.named and host.name == name:
                return host
        served = ", ".join(host.name for host in self.all if host.name != "none") or "none yet"
        raise RequestError(f"models: '{name[:64]}' is not served here; served: {served}", status=404)

    def states(self) -> Iterable[SignalState]:
        """Return the signal counts of all live releases, for a scrape."""
        return [state for host in self.all for state in host.states()]

    async def start(self, recorder: Recorder | None, inline: Inline | None = None) -> None:
        """Load what should be live; a model without a release is not ready, and is looked for again.

        recorder: where the answers of challengers go, if anywhere. inline: where a watchdog looks for runs.
        """
        self._tell_ready()
        for host in self.all:
            host.challenger.recorder = recorder
            host.inline = inline or host.inline
        await asyncio.gather(*(host.start() for host in self.all))

    async def stop(self) -> None:
        """Stop watching; requests under way finish."""
        await asyncio.gather(*(host.stop() for host in self.all))

    def _tell_ready(self) -> None:
        self._metrics.ready.set(self.ready)
        if self.ready and not self.made_ready.is_set():
            self.made_ready.set()
            lifecycle.tell_ready(os.environ)
