"""A release that is loaded: verified bytes in, the provider that was asked for or an error, batches out."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from registry import graph
from registry.errors import ReleaseError
from registry.release import HELDOUT, MODEL, MODEL_DATA, Release
from serving import cores, sessions
from serving.sessions import EngineError, Stopped, Threads, Way
from serving.settings import PROVIDERS

__all__ = ["Engine", "EngineError", "OutputSpec", "Stopped", "golden_limit"]

GOLDEN_ROWS = 64
# By precision: providers differ in the last digits, of which int8 has few; a wrong model differs by far more.
GOLDEN_LIMITS = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
ULPS = 16  # of the largest prediction: how far providers may be apart where the predictions hardly differ
DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class OutputSpec:
    """One output of the graph. dtype: as numpy names it. shape: of one row, None where the graph does not say."""

    dtype: str
    shape: tuple[int | None, ...]


class Engine:
    """A loaded release that has proved itself on its own held-out rows.

    outputs: what `run` can return, in the order of the graph. provider: the ONNX Runtime provider that
    runs the graph. threads: of a run of one row, chosen at load.
    """

    def __init__(self, release: Release, providers: tuple[str, ...], threads: int) -> None:
        """Load, warm up and check `release`; raises EngineError with the reason, ReleaseError if altered."""
        self.requested = PROVIDERS[providers[0]]
        self._release = release
        self._input = release.manifest.input.name
        self._main = (release.manifest.output,)
        self._providers = [PROVIDERS[name] for name in providers]
        model, outside = _graph(release)
        rows, expected = _golden(release)
        size_bytes = sum(release.manifest.files[name].size_bytes for name in _files(release))
        tried = sessions.ways(threads, cores.available(), size_bytes)
        opened = [Way(way, self._open(model, way, outside)) for way in tried]
        self._outside = outside  # ONNX Runtime reads these weights where they are
        self._small = self._large = opened[0].session
        self._split = 1
        self.outputs = self._check(rows, expected)
        self._choice = sessions.choose(opened, *self._main, self._input, rows)
        self._small, self._large = self._choice.small.session, self._choice.large.session
        self._split = self._choice.split
        self._seconds = sessions.line(self._choice.seconds)
        self.threads = self._choice.small.threads.count
        self.provider = self._large.get_providers()[0]

    def run(
        self, rows: np.ndarray, names: tuple[str, ...] = (), options: onnxruntime.RunOptions | None = None
    ) -> list[np.ndarray]:
        """Return the outputs `names`, or the main one, of raw rows (n, *shape): each an array of n rows.

        The main output is float32: probabilities (n, classes) or predictions (n, 1). Raises Stopped if
        `options.terminate` was set, by any thread, before there was an answer.
        """
        session = self._small if len(rows) < self._split else self._large
        try:
            answers: list[np.ndarray] = session.run(names or self._main, {self._input: rows}, options)
        except Exception as error:  # ONNX Runtime raises many types
            if options is not None and options.terminate:
                raise Stopped(f"{self._release.tag}: a run of {len(rows)} rows was stopped") from error
            raise
        return answers

    def expected_s(self, rows: int) -> float:
        """Return about how long a batch of `rows` takes, from what was measured at load."""
        return self._seconds[0] + self._seconds[1] * rows

    def facts(self) -> dict[str, Any]:
        """Return how this engine runs, for people: provider, threads, and what was measured to choose them."""
        choice = self._choice
        measured = {
            str(threads): {str(rows): round(seconds * 1e6, 1) for rows, seconds in took.items()}
            for threads, took in choice.measured.items()
        }
        found = {"provider": self.provider, "requested": self.requested, "measured_us_by_rows": measured}
        if choice.small is choice.large:
            return found | _told(choice.large.threads)
        return found | _told(choice.small.threads) | {"from_rows": {str(choice.split): _told(choice.large.threads)}}

    def _open(
        self, model: bytes, threads: Threads, outside: dict[str, onnxruntime.OrtValue]
    ) -> onnxruntime.InferenceSession:
        if self.requested != PROVIDERS["cpu"] and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        options = sessions.options(threads, outside)
        present = onnxruntime.get_available_providers()
        usable = [name for name in self._providers if name in present]
        try:
            # Without enable_fallback=0 a provider that fails is replaced by another, told by a line on stdout.
            session = onnxruntime.InferenceSession(model, options, providers=usable or None, enable_fallback=0)
        except Exception as error:  # ONNX Runtime raises many types for a graph it cannot load
            raise EngineError(f"{self._release.tag}: ONNX Runtime cannot load it: {error}", "load") from error
        if session.get_providers()[0] != self.requested:
            raise EngineError(
                f"{self._release.tag}: asked for {self.requested}, ONNX Runtime gave {session.get_providers()[0]} "
                f"(present: {', '.join(present)}); install onnxruntime-gpu and its CUDA libraries, or ask for cpu",
                "provider",
            )
        return session

    def _check(self, rows: np.ndarray, expected: np.ndarray) -> dict[str, OutputSpec]:
        # Returns the outputs that have one row per row: no other can be handed to the caller of a row.
        limit = golden_limit(self._release.manifest.task, expected, self._release.manifest.precision)
        known = {node.name: node for node in self._large.get_outputs() if node.type in DTYPES}
        try:
            got = dict(zip(known, self.run(rows, tuple(known)), strict=True))
        except Exception as error:  # as above: the graph does not accept its own rows
            raise EngineError(f"{self._release.tag}: cannot answer its held-out rows: {error}", "load") from error
        answers = got.get(self._main[0])
        if answers is None:
            has = ", ".join(known) or "none of numbers"
            raise EngineError(f"{self._release.tag}: has no output '{self._main[0]}'; it has {has}", "load")
        worst = float(np.abs(answers - expected).max()) if answers.shape == expected.shape else float("inf")
        if not worst <= limit:
            raise EngineError(
                f"{self._release.tag}: answers its held-out rows differently by {worst:.3g}, limit {limit:.3g}",
                "golden",
            )
        return {name: _spec(node, got[name]) for name, node in known.items() if _by_row(node, got[name], len(rows))}


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
    files = {name: release.read(name) for name in _files(release) if name != MODEL}
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


def _files(release: Release) -> list[str]:
    return [name for name in (MODEL, MODEL_DATA) if name in release.manifest.files]


def _by_row(node: onnxruntime.NodeArg, answer: np.ndarray, rows: int) -> bool:
    fixed = bool(node.shape) and isinstance(node.shape[0], int)
    return not fixed and answer.shape[:1] == (rows,)


def _spec(node: onnxruntime.NodeArg, answer: np.ndarray) -> OutputSpec:
    said = node.shape[1:] if len(node.shape) == answer.ndim else [None] * (answer.ndim - 1)
    return OutputSpec(DTYPES[node.type], tuple(size if isinstance(size, int) else None for size in said))


def _told(threads: Threads) -> dict[str, Any]:
    return {"threads": threads.count, "spinning": threads.spinning}
