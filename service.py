"""The BentoML entry point: `bentoml serve` here, `bentoml build` with bentofile.yaml.

Without arguments the service follows the champion of the store. With `--arg model_tag=name:version`
(what `vigil build` passes) the Bento carries that release and serves nothing else.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
# BentoML sets this for its own metrics, which are off: ours belong to one process and need no shared files.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import bentoml  # noqa: E402
from bentoml._internal.utils.analytics import usage_stats  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from monitoring.counting import folder
from registry import logs  # noqa: E402
from registry.errors import ConfigError, UserError  # noqa: E402
from serving import chosen, exposure, lifecycle, settings, supervisor, tracing  # noqa: E402
from serving.lanes import check  # noqa: E402
from serving.lanes.asgi import App  # noqa: E402
from serving.server import Server, predict_rows  # noqa: E402

usage_stats.do_not_track.cache_clear()  # `bentoml serve` asks, and remembers, before this file can say so


class Arguments(BaseModel):
    """What `bentoml serve|build --arg` accepts."""

    model_tag: str = ""
    model_digest: str = ""  # of its manifest; the image is labelled with both


arguments = bentoml.use_arguments(Arguments)
try:
    configured = settings.from_environment(os.environ)
    tracing.demand(configured.trace_share)
except ConfigError as error:  # here, in the parent, once: a worker that cannot start would be started for ever
    sys.exit(f"vigil: {error}")
lifecycle.follow_parent(os.environ)
check.install(configured)
LINES_PER_S = 10  # of one event: whoever sends bad requests must not fill the log
running: list[Server] = []
claimed: list[socket.socket | None] = []  # of the parent of the workers


def start() -> Server:
    """Return the server of this worker process."""
    logs.set_up(LINES_PER_S)
    exposure.warn(configured.keys_path, sys.argv)
    pinned = Path(Vigil.inner.release.resolve().path) if arguments.model_tag else None
    running[:] = [Server(configured, pinned, folder.of_service(configured.metrics_folder))]
    running[0].metrics.worker_started(lifecycle.started_for(os.environ))
    return running[0]


@bentoml.service(
    name="vigil",
    workers=configured.workers,
    traffic={"timeout": 5},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    envs=[{"name": name.upper(), "value": value} for name, value in arguments if value],
)
class Vigil:
    """Predictions of the live release. The layer in front answers over HTTP; this declares the route to BentoML."""

    if arguments.model_tag:
        release = bentoml.models.BentoModel(arguments.model_tag)

    @bentoml.on_deployment
    @staticmethod
    def supervise() -> None:
        """Look after the workers; runs once, in their parent."""
        logs.set_up()
        try:
            claimed.append(exposure.claim(configured))
            if not arguments.model_tag and (only := chosen.at_start(configured)):
                os.environ["VIGIL_MODELS"] = only  # of the workers, also of those that start later
        except UserError as error:
            sys.exit(f"vigil: {error}")
        supervisor.prepare(configured)

    @bentoml.api(route="/predict")
    async def predict(self, rows: list[Any]) -> dict[str, Any]:
        """Return what `/v1/predict` returns."""
        return await predict_rows(running[0], rows)


Vigil.add_asgi_middleware(App, server=start)
