"""A release that is loaded: on the provider that was asked for or an error, checked by its own answers."""

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime

from registry.release import Release
from serving import cores, gpu, sessions
from serving.gpu import BoundSession, GpuSettings
from serving.outputs import OutputSpec
from serving.sessions import Choice, Threads, Way
from serving.settings import PROVIDERS
from serving.source import EngineError, Source, golden_limit

__all__ = ["Engine", "EngineError", "GpuSettings", "OutputSpec", "Stopped", "golden_limit"]

log = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - it says what happened to the run, which may be what was wanted
    """A run that was ended by `RunOptions.terminate` before it had an answer."""


class Engine:
    """A loaded release that has proved itself on its own held-out rows.

    outputs: what `run` can return, in the order of the graph. provider: the ONNX Runtime provider that
    runs the graph. threads: of a run of one row, chosen at load.
    """

    def __init__(
        self,
        release: Release,
        providers: tuple[str, ...],
        threads: int,
        device: GpuSettings | None = None,
        workers: int = 1,
    ) -> None:
        """Load, warm up and check `release`; raises EngineError with the reason, ReleaseError if altered.

        providers: in order of preference, of which the first is a demand. threads: of one run; 0 measures.
        workers: processes like this one that share the cores.
        """
        self.requested = PROVIDERS[providers[0]]
        self._release = release
        self._input = release.manifest.input.name
        self._main = (release.manifest.output,)
        self._bound: BoundSession | None = None
        self._choice: Choice | None = None
        self._split = 1
        self._cores = max(1, cores.available() // workers)
        source = Source(release, tuple(PROVIDERS[name] for name in providers))
        self._outside = source.outside
        if self.requested in gpu.DEVICES:
            self._load_on_device(source, threads, device or GpuSettings())
        else:
            self._load_on_cores(source, threads)
        self.provider = self._large.get_providers()[0]

    def run(
        self, rows: np.ndarray, names: tuple[str, ...] = (), options: onnxruntime.RunOptions | None = None
    ) -> list[np.ndarray]:
        """Return the outputs `names`, or the main one, of raw rows (n, *shape): each an array of n rows.

        The main output is float32: probabilities (n, classes) or predictions (n, 1). Raises Stopped if
        `options.terminate` was set, by any thread, before there was an answer.
        """
        try:
            if self._bound is not None:
                return self._bound.run(rows, names, options)
            session = self._small if len(rows) < self._split else self._large
            answers: list[np.ndarray] = session.run(names or self._main, {self._input: rows}, options)
        except Exception as error:  # ONNX Runtime raises many types
            if options is not None and options.terminate:
                raise Stopped(f"{self._release.tag}: a run of {len(rows)} rows was stopped") from error
            raise
        return answers

    @property
    def on_device(self) -> bool:
        return self._bound is not None

    def join(self, parts: list[np.ndarray]) -> np.ndarray:
        """Return the rows of several requests in one array, to be run at once by the thread that joined them."""
        return np.concatenate(parts) if self._bound is None else self._bound.join(parts)

    def expected_s(self, rows: int) -> float:
        """Return about how long a batch of `rows` takes, from what was measured at load."""
        if self._bound is not None:
            return self._bound.expected_s(rows)
        return self._choice.expected_s(rows) if self._choice is not None else 0.0

    def demand(self, name: str, numbers: int) -> None:
        """Raise EngineError unless the graph has an output `name` of so many numbers for each row."""
        shape = self.outputs[name].shape if name in self.outputs else ()
        if not shape or math.prod(size or 0 for size in shape) != numbers:
            found = f"is {'x'.join(str(size or '?') for size in shape)}" if shape else "is not there"
            raise EngineError(
                f"{self._release.tag}: the output '{name}' {found}, its reference is of {numbers} numbers for each "
                "row; publish the model again",
                "load",
            )

    def facts(self) -> dict[str, Any]:
        """Return how this engine runs, for people: provider, threads, buckets, and what was measured."""
        found: dict[str, Any] = {"provider": self.provider, "requested": self.requested}
        if self._bound is not None:
            settings = {"cuda_graphs": self._settings.cuda_graphs, "tf32": self._settings.tf32}
            return found | {"threads": self.threads} | settings | self._bound.facts()
        return found | (_told(self._choice) if self._choice is not None else {})

    def _load_on_cores(self, source: Source, threads: int) -> None:
        def opened_as(way: Threads) -> Way:
            return Way(way, source.open(sessions.options(way), {}))

        tried = sessions.ways(threads, self._cores, source.size_bytes)
        with ThreadPoolExecutor(self._cores) as pool:
            opened = list(pool.map(opened_as, tried))
        self.outputs = source.check(opened[0].session)
        self._choice = sessions.choose(opened, *self._main, self._input, source.golden.rows)
        self._small, self._large = self._choice.small.session, self._choice.large.session
        self._split = self._choice.split
        self.threads = self._choice.small.threads.count

    def _load_on_device(self, source: Source, threads: int, settings: GpuSettings) -> None:
        # What a model does not allow shows when it is loaded or first run: then it is tried without.
        self.threads = threads or self._cores
        attempts = gpu.attempts(settings)
        for attempt in attempts:
            try:
                self._bound = self._bind(source, attempt)
                self._settings = attempt
                return
            except EngineError as error:
                if error.reason == "provider" or attempt is attempts[-1]:
                    raise
                said = {"cuda_graphs": attempt.cuda_graphs, "tf32": attempt.tf32, "error": str(error)}
                log.warning("device_settings_refused", extra={"release": source.release.tag} | said)

    def _bind(self, source: Source, settings: GpuSettings) -> BoundSession:
        manifest, golden = self._release.manifest, source.golden
        told = {
            name: gpu.provider_options(name, settings, manifest.input, manifest.precision, self._release.digest)
            for name in gpu.DEVICES
        }
        self._large = source.open(sessions.options(Threads(self.threads)), told)
        self.outputs = source.check(self._large)
        ordered = {self._main[0]: self.outputs[self._main[0]]} | self.outputs
        bound = BoundSession(self._large, manifest.input, ordered, gpu.DEVICES[self.requested])
        try:
            bound.warm(golden.rows)
            answers = bound.run(golden.rows)[0]
        except Exception as error:  # ONNX Runtime raises many types
            raise EngineError(f"{self._release.tag}: cannot run on {self.requested}: {error}", "load") from error
        source.judge(answers, tuple(self.outputs), certified=settings.tf32)
        return bound


def _told(choice: Choice) -> dict[str, Any]:
    ways = (choice.small.threads, choice.large.threads)
    small, large = ({"threads": threads.count, "spinning": threads.spinning} for threads in ways)
    measured = {
        str(threads): {str(rows): round(seconds * 1e6, 1) for rows, seconds in took.items()}
        for threads, took in choice.measured.items()
    }
    apart = {} if choice.small is choice.large else {"from_rows": {str(choice.split): large}}
    return small | apart | {"measured_us_by_rows": measured}
