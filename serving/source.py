"""What an engine is made from: the verified bytes of a release, its held-out answers, and sessions on a provider."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnxruntime

from registry import graph
from registry.errors import ReleaseError
from registry.release import HELDOUT, MODEL, MODEL_DATA, Release
from serving import gpu, outputs
from serving.outputs import OutputSpec

CPU = "CPUExecutionProvider"
GOLDEN_ROWS = 64
# By precision: providers differ in the last digits, of which int8 has few; a wrong model differs by far more.
GOLDEN_LIMITS = {"fp32": 1e-3, "fp16": 1e-2, "int8": 5e-2}
ULPS = 16  # of the largest prediction: how far providers may be apart where the predictions hardly differ


class EngineError(ReleaseError):
    """A release that cannot serve; `reason` is provider, load or golden."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Golden:
    """Held-out rows, (n, *shape), and what the release answered when it was published, (n, outputs)."""

    rows: np.ndarray
    expected: np.ndarray


class Source:
    """The bytes of a release, kept while sessions are opened from them.

    outside: the weights of a large model. ONNX Runtime reads them where they are, so whoever keeps a
    session keeps them. size_bytes: of model and weights.
    """

    def __init__(self, release: Release, providers: tuple[str, ...]) -> None:
        """providers: as ONNX Runtime names them; the first is a demand. Raises EngineError, or ReleaseError."""
        self.release = release
        self._providers = providers
        self._files = [name for name in (MODEL, MODEL_DATA) if name in release.manifest.files]
        self.size_bytes = sum(release.manifest.files[name].size_bytes for name in self._files)
        self._model, self.outside = self._read()
        self.golden = self._golden()

    def open(
        self, options: onnxruntime.SessionOptions, told: Mapping[str, Mapping[str, str]]
    ) -> onnxruntime.InferenceSession:
        """Return a session on the first provider; told: provider options. Raises EngineError, provider or load."""
        demanded, present = self._providers[0], onnxruntime.get_available_providers()
        if demanded != CPU:
            _preload()
        usable = [(name, dict(told.get(name, {}))) for name in self._providers if name in present]
        options.add_external_initializers([*self.outside], [*self.outside.values()])
        try:
            # Without enable_fallback=0 a provider that fails is replaced by another, told by a line on stdout.
            session = onnxruntime.InferenceSession(self._model, options, providers=usable or None, enable_fallback=0)
        except Exception as error:  # ONNX Runtime raises many types for a graph it cannot load
            reason = "load" if demanded == CPU or demanded not in present or not self._opens() else "provider"
            raise EngineError(f"{self.release.tag}: ONNX Runtime cannot load it: {_line(error)}", reason) from error
        if session.get_providers()[0] != demanded:
            raise EngineError(
                f"{self.release.tag}: asked for {demanded}, ONNX Runtime gave {session.get_providers()[0]} "
                f"(present: {', '.join(present)}); install onnxruntime-gpu and its CUDA libraries, or ask for cpu",
                "provider",
            )
        return session

    def check(self, session: onnxruntime.InferenceSession) -> dict[str, OutputSpec]:
        """Return the outputs that a caller may ask for, if the main one repeats the stored answers.

        Raises EngineError where it does not, or the graph does not accept its own rows.
        """
        names, rows = outputs.numeric(session), self.golden.rows
        try:
            answers = session.run(names, {self.release.manifest.input.name: rows}, gpu.uncaptured())
        except Exception as error:  # as above
            raise EngineError(f"{self.release.tag}: cannot answer its held-out rows: {_line(error)}", "load") from error
        got = dict(zip(names, answers, strict=True))
        self.judge(got.get(self.release.manifest.output), names)
        return outputs.specs(session, got, len(rows))

    def judge(self, answers: np.ndarray | None, has: tuple[str, ...], certified: bool = False) -> None:
        """Raise EngineError unless `answers` to the held-out rows are those that are stored.

        has: the outputs of the graph, for whom the main one is missing. certified: within the limit of
        the parity certificate too.
        """
        manifest = self.release.manifest
        if answers is None:
            found = ", ".join(has) or "none of numbers"
            raise EngineError(f"{self.release.tag}: has no output '{manifest.output}'; it has {found}", "load")
        expected = self.golden.expected
        share = GOLDEN_LIMITS.get(manifest.precision, GOLDEN_LIMITS["fp32"])
        if certified:
            share = min(share, manifest.parity.get("limit", share))
        limit = _limit(manifest.task, expected, share)
        worst = float(np.abs(answers - expected).max()) if answers.shape == expected.shape else float("inf")
        if not worst <= limit:
            raise EngineError(
                f"{self.release.tag}: answers its held-out rows differently by {worst:.3g}, limit {limit:.3g}",
                "golden",
            )

    def _opens(self) -> bool:
        # On the CPU: then what failed on another provider is that provider, not the model.
        try:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.add_external_initializers([*self.outside], [*self.outside.values()])
            onnxruntime.InferenceSession(self._model, options, providers=[CPU])
        except Exception:  # as above
            return False
        return True

    def _read(self) -> tuple[bytes, dict[str, onnxruntime.OrtValue]]:
        # The weights of a large model are handed over as bytes that were verified: ONNX Runtime opens no file.
        model = self.release.read(MODEL)
        files = {name: self.release.read(name) for name in self._files if name != MODEL}
        try:
            outside = graph.weights(model, files, f"{self.release.tag}: {MODEL}")
        except ReleaseError as error:
            raise EngineError(str(error), "load") from error
        return model, {name: onnxruntime.OrtValue.ortvalue_from_numpy(values) for name, values in outside.items()}

    def _golden(self) -> Golden:
        content = self.release.read(HELDOUT)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as heldout:
                answers = heldout[self.release.manifest.output]
                return Golden(heldout["x"][:GOLDEN_ROWS], answers[:GOLDEN_ROWS])
        except (KeyError, ValueError, OSError) as error:
            raise EngineError(
                f"{self.release.tag}: {HELDOUT} cannot be read: {error}; publish the model again", "load"
            ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())  # some messages of ONNX Runtime end in a new line


@cache
def _preload() -> None:
    # The libraries of CUDA that came as packages are found by none but this; once, since it prints what it lacks.
    onnxruntime.preload_dlls()


def golden_limit(task: str, expected: np.ndarray, precision: str = "fp32") -> float:
    """Return how far answers may lie from the stored ones, `expected` (n, outputs).

    Probabilities have one scale. A prediction has its own: its limit is a share of how much the stored
    ones differ from each other, plus the rounding of float32 at the size of the largest.
    """
    return _limit(task, expected, GOLDEN_LIMITS.get(precision, GOLDEN_LIMITS["fp32"]))


def _limit(task: str, expected: np.ndarray, share: float) -> float:
    if task == "classification":
        return share
    rounding = ULPS * float(np.finfo(np.float32).eps) * float(np.abs(expected).max())
    return share * float(expected.std(dtype=np.float64)) + rounding
