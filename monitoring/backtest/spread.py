"""How the parts of a log are read: here one after the other, in processes, or on a Ray cluster.

The parts are the same each time, and are added up in their order, so the result is the same to the last bit.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Protocol

from monitoring.backtest.counted import Seen
from registry.errors import StackError

LOCAL = "local"
WAITING = 2  # parts per worker that are under way: what waits to be added up takes memory


class Part(Protocol):
    """A part of a log that any process may read."""

    def read(self) -> Seen:
        """Return what the rules need of it."""


def here(parts: Sequence[Part]) -> Iterator[Seen]:
    """Yield what each part holds, in order, read in this process."""
    return (part.read() for part in parts)


def in_processes(parts: Sequence[Part], processes: int) -> Iterator[Seen]:
    """Yield what each part holds, in order, read in as many processes."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_read, parts)


def on_ray(parts: Sequence[Part], address: str) -> Iterator[Seen]:
    """Yield what each part holds, in order, read by the workers of a Ray cluster; `local` begins one on this machine.

    The workers must see the log and the store under the same paths. Raises StackError without Ray, or if the
    cluster cannot be reached.
    """
    ray = _ray(address)
    try:
        read = ray.remote(_read)
        most = WAITING * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = [read.remote(part) for part in parts[:most]]
        for number in range(len(parts)):
            found: Seen = ray.get(waiting.pop(0))
            if number + most < len(parts):
                waiting.append(read.remote(parts[number + most]))
            yield found
    finally:
        ray.shutdown()


def _read(part: Part) -> Seen:
    return part.read()


def _ray(address: str) -> Any:
    import os

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells nobody
    try:
        import ray
    except ImportError as error:
        raise StackError("--ray: Ray is not installed; run: pip install 'vigil[ray]'") from error
    passed = {name: os.environ[name] for name in ("BENTOML_HOME", "OMP_NUM_THREADS") if name in os.environ}
    settings: dict[str, Any] = {"log_to_driver": False, "runtime_env": {"env_vars": passed}}
    if address == LOCAL:
        settings["include_dashboard"] = False
    else:
        settings["address"] = address
    try:
        ray.init(**settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StackError(f"--ray {address}: no cluster answers there: {error}") from error
    return ray
