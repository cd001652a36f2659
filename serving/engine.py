"""One ONNX Runtime session: verified bytes in, the provider that was asked for or an error, batches out."""

import io
import logging
import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime

from registry import graph
from registry.errors import ReleaseError
from registry.release import HELDOUT, MODEL, MODEL_DATA, Release
from serving.settings import PROVIDERS

log = logging.getLogger(__name__)

GOLDEN_ROWS = 64
# By precision: providers differ in the last digits, of which int8 has few; a wrong model differs by far more.
GOLDEN_LIMITS = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
ULPS = 16  # of the largest prediction: how far providers may be apart where the predictions hardly differ
TIMED_ROWS = 32


class EngineError(ReleaseError):
    """A release that cannot serve; `reason` is provider, load or golden."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Engine:
    """A loaded release that has proved itself on its own held-out rows.

    provider: the ONNX Runtime provider that runs the graph. threads: chosen at load.
    """

    def __init__(self, release: Release, providers: tuple[str, ...], threads: int) -> None:
        """Load, warm up and check `release`; raises EngineError with the reason, ReleaseError if altered."""
        self.requested = PROVIDERS[providers[0]]
        self._release = release
        self._names = ([release.manifest.output], release.manifest.input.name)
        self._model, self._outside = _graph(release)
        self._providers = [PROVIDERS[name] for name in providers]
        rows, expected = _golden(release)
        cores = os.cpu_count() or 1
        # Two sessions of a model of gigabytes are not held at once: it is given every core.
        counts = [threads or cores] if threads or self._outside else sorted({1, cores})
        sessions = {count: self._open(count) for count in counts}
        del self._model  # the weights outside stay: ONNX Runtime reads them where they are
        self._session = sessions[counts[0]]
        self._check(rows, expected)
        self.threads = self._fastest(sessions, rows) if len(counts) > 1 else counts[0]
        self._session = sessions[self.threads]
        self.provider = self._session.get_providers()[0]
        self._seconds = _seconds_per_row(self.run, rows)

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Return the probabilities, float32 (n, classes), or predictions (n, 1), of raw rows (n, *shape)."""
        outputs, name = self._names
        answers: list[np.ndarray] = self._session.run(outputs, {name: rows})
        return answers[0]

    def expected_s(self, rows: int) -> float:
        """Return about how long a batch of `rows` takes, from what was measured at load."""
        return self._seconds[0] + self._seconds[1] * rows

    def _fastest(self, sessions: dict[int, onnxruntime.InferenceSession], rows: np.ndarray) -> int:
        # More threads cost small models more than they give: measured for this model on this machine.
        outputs, name = self._names
        batch = np.resize(rows, (TIMED_ROWS, *rows.shape[1:]))
        took = {count: _median_s(partial(session.run, outputs, {name: batch})) for count, session in sessions.items()}
        return min(took, key=lambda count: took[count])

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        if self.requested != PROVIDERS["cpu"] and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the event loop needs the core
        options.add_external_initializers([*self._outside], [*self._outside.values()])
        present = onnxruntime.get_available_providers()
        usable = [name for name in self._providers if name in present]
        try:
            # Without enable_fallback=0 a provider that fails is replaced by another, told by a line on stdout.
            session = onnxruntime.InferenceSession(self._model, options, providers=usable or None, enable_fallback=0)
        except Exception as error:  # ONNX Runtime raises many types for a graph it cannot load
            raise EngineError(f"{self._release.tag}: ONNX Runtime cannot load it: {error}", "load") from error
        if session.get_providers()[0] != self.requested:
            raise EngineError(
                f"{self._release.tag}: asked for {self.requested}, ONNX Runtime gave {session.get_providers()[0]} "
                f"(present: {', '.join(present)}); install onnxruntime-gpu and its CUDA libraries, or ask for cpu",
                "provider",
            )
        return session

    def _check(self, rows: np.ndarray, expected: np.ndarray) -> None:
        limit = golden_limit(self._release.manifest.task, expected, self._release.manifest.precision)
        try:
            got = self.run(rows)
        except Exception as error:  # as above: the graph does not accept its own rows
            raise EngineError(f"{self._release.tag}: cannot answer its held-out rows: {error}", "load") from error
        worst = float(np.abs(got - expected).max()) if got.shape == expected.shape else float("inf")
        if not worst <= limit:
            raise EngineError(
                f"{self._release.tag}: answers its held-out rows differently by {worst:.3g}, limit {limit:.3g}",
                "golden",
            )


def golden_limit(task: str, expected: np.ndarray, precision: str = "fp32") -> float:
    """Return how far answers may lie from the stored ones, `expected` (n, outputs).

    Probabilities have one scale. A prediction has its own: its limit is a share of how much the stored
    ones differ from each other, plus the rounding of float32 at the size of the largest.
    """
    share = GOLDEN_LIMITS.get(precision, GOLDEN_LIMITS["fp32"])
    if task == "classification":
        return share
    rounding = ULPS * float(np.finfo(np.float32).eps) * float(np.abs(expected).max())
    return share * float(expected.std(dtype=np.float64)) + rounding


def _graph(release: Release) -> tuple[bytes, dict[str, onnxruntime.OrtValue]]:
    # The weights of a large model are handed over as bytes that were verified: ONNX Runtime opens no file.
    model = release.read(MODEL)
    files = {MODEL_DATA: release.read(MODEL_DATA)} if MODEL_DATA in release.manifest.files else {}
    try:
        outside = graph.weights(model, files, f"{release.tag}: {MODEL}")
    except ReleaseError as error:
        raise EngineError(str(error), "load") from error
    return model, {name: onnxruntime.OrtValue.ortvalue_from_numpy(values) for name, values in outside.items()}


def _golden(release: Release) -> tuple[np.ndarray, np.ndarray]:
    content = release.read(HELDOUT)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as heldout:
            return heldout["x"][:GOLDEN_ROWS], heldout[release.manifest.output][:GOLDEN_ROWS]
    except (KeyError, ValueError, OSError) as error:
        raise EngineError(
            f"{release.tag}: {HELDOUT} cannot be read: {error}; publish the model again", "load"
        ) from error


def _median_s(call: Callable[[], object], repeats: int = 7) -> float:
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return sorted(took)[repeats // 2]


def _seconds_per_row(run: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> tuple[float, float]:
    # A line through the times of one row and of a batch.
    batch = np.resize(rows, (TIMED_ROWS, *rows.shape[1:]))
    one, many = _median_s(lambda: run(rows[:1])), _median_s(lambda: run(batch))
    slope = max(0.0, (many - one) / (TIMED_ROWS - 1))
    return max(0.0, one - slope), slope
