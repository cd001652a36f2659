"""The calls of Open Inference Protocol v2 beside infer: what lives, what is ready, what a model takes and gives."""

from collections.abc import Callable

from serving.hosts import Hosts
from serving.http import Call, Reply
from serving.routes import Parameters, Route
from serving.wire import v2_pages

NAME, VERSION = "vigil", "0.3.0"


class Pages:
    """draining: whether the service is about to stop, and so is not ready."""

    def __init__(self, hosts: Hosts, draining: Callable[[], bool]) -> None:
        self._hosts = hosts
        self._draining = draining

    def routes(self) -> list[Route]:
        """Return the part of the route table that these answer."""
        model = "/v2/models/{name}"
        return [
            Route("GET", "/v2", "predict", self.server),
            Route("GET", "/v2/health/live", "open", self.live),
            Route("GET", "/v2/health/ready", "open", self.ready),
            Route("GET", model, "predict", self.model),
            Route("GET", model + "/versions/{version}", "predict", self.model),
            Route("GET", model + "/ready", "open", self.model_ready),
            Route("GET", model + "/versions/{version}/ready", "open", self.model_ready),
        ]

    async def server(self, _: Call, __: Parameters) -> Reply:
        """Name the server and the extensions of the protocol it has."""
        return Reply(200, v2_pages.server_metadata(NAME, VERSION))

    async def live(self, _: Call, __: Parameters) -> Reply:
        """Say that the process answers."""
        return Reply(200, v2_pages.server_live())

    async def ready(self, _: Call, __: Parameters) -> Reply:
        """Say whether every model answers."""
        ready = self._hosts.ready and not self._draining()
        return Reply(200 if ready else 503, v2_pages.server_ready(ready))

    async def model(self, _: Call, parameters: Parameters) -> Reply:
        """Describe the tensors of a release, the live one unless a version is named."""
        host = self._hosts.find(parameters["name"])
        served = host.serving(parameters.get("version", ""))
        return Reply(200, v2_pages.model_metadata(served.release, served.engine.outputs, host.versions()))

    async def model_ready(self, _: Call, parameters: Parameters) -> Reply:
        """Say whether a model, or one of its versions, answers."""
        host = self._hosts.find(parameters["name"])
        if host.ready:
            host.serving(parameters.get("version", ""))
        ready = host.ready and not self._draining()
        return Reply(200 if ready else 503, v2_pages.model_ready(host.name, ready))
