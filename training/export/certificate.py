"""The parity certificate: the exported file answers what the PyTorch model answers, wherever it may run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from registry.errors import ExportError
from registry.release import EMBEDDING
from training.export import export
from training.export.export import PROVIDER, Asked
from training.fit import models

BATCH_ROWS = (1, 2, 7, 64, 256)
MOST_ROWS = 1000
_UNITS = {"classification": "of the output", "regression": "standard deviations of the target"}
PROVIDERS = (PROVIDER, "CUDAExecutionProvider", "TensorrtExecutionProvider")


@dataclass(frozen=True)
class Limit:
    """The largest difference accepted: of an answer in a class, or in standard deviations of a target.

    A full-precision file is judged by every output. One of lower precision only by its answers: its
    logits move by design, and what that costs is judged by accuracy.
    """

    value: float
    precision: str = "fp32"

    @property
    def outputs(self) -> int | None:
        """Return how many outputs are judged; None: all."""
        return None if self.precision == "fp32" else 1


def certify(model: models.Trainable, asked: Asked, path: Path, rows: np.ndarray, limit: Limit) -> dict[str, Any]:
    """Return the certificate that `model` and the file at `path` answer alike on raw rows (n, *shape).

    Every row, of at most MOST_ROWS, is run in every batch size of BATCH_ROWS on every provider that
    is present. The difference is the largest absolute one over the outputs (relative would be judged
    where a logit is near 0), in a regression divided by `asked.unit`, of an embedding by the largest number in it if
    that is above 1. The headline is that of the CPU;
    `by_provider` has one entry for each of PROVIDERS, with the numbers or with why it was `skipped`.
    Raises ExportError above the limit; below it a top class can change only where two are all but equal.
    """
    rows = rows[:MOST_ROWS]
    expected = models.predict(model, rows)[: limit.outputs]
    entries = []
    for provider in PROVIDERS:
        session = session_on(provider, path)
        said = {"provider": provider, "precision": limit.precision}
        if isinstance(session, str):
            entries.append(said | {"skipped": session})
        else:
            entries.append(said | _judged(session, rows, expected, (asked, limit, f"{path} on {provider}")))
    return entries[0] | {"by_provider": entries}


def session_on(provider: str, path: Path) -> onnxruntime.InferenceSession | str:
    """Return a session of the file at `path` on `provider`, or the reason why there is none here."""
    if provider not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} was installed without it"
    if provider != PROVIDER and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    try:
        session = export.open_file(path, provider)
    except Exception as error:  # onnxruntime has a class of its own for each kind of failure
        if provider == PROVIDER:
            raise ExportError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        return f"it cannot load the file: {error}"
    if session.get_providers()[0] != provider:
        return f"no device or driver for it: ONNX Runtime fell back to {session.get_providers()[0]}"
    return session


def versions_on(provider: str) -> dict[str, str]:
    """Return the versions that a certificate holds for, those of the provider among them."""
    about = onnxruntime.capi.build_and_package_info
    parts = {"CUDA": "cuda_version", "cuDNN": "cudnn_version", "TensorRT": "trt_version"}
    found = [f"{name} {getattr(about, key)}" for name, key in parts.items() if getattr(about, key, None)]
    ours = ", ".join(found) if found and provider != PROVIDER else onnxruntime.get_build_info()
    return export.versions() | {"provider": ours}


def _judged(
    session: onnxruntime.InferenceSession, rows: np.ndarray, expected: tuple[np.ndarray, ...],
    said: tuple[Asked, Limit, str],
) -> dict[str, Any]:  # fmt: skip
    asked, limit, place = said
    classes = asked.task == "classification"
    gaps, changes = [], 0
    units = _units_of(asked, expected)
    for size in BATCH_ROWS:
        found = export.run(session, rows, size, place)[: limit.outputs]
        gaps += [np.abs(got - want) / unit for got, want, unit in zip(found, expected, units, strict=True)]
        changes += int((found[0].argmax(axis=1) != expected[0].argmax(axis=1)).sum())
    largest, count = float(np.max([gap.max() for gap in gaps])), len(rows) * len(BATCH_ROWS)
    if not largest <= limit.value:  # NaN is above any limit
        moved = f"; the top class changes in {changes} of {count} answers" if classes else ""
        raise ExportError(
            f"{place}: differs from the PyTorch model by {largest:.3g} {_UNITS[asked.task]}, "
            f"limit {limit.value:.3g}{moved}; the model was not published"
        )
    return {
        "rows": len(rows), "batch_rows": list(BATCH_ROWS), "outputs": list(asked.outputs[: limit.outputs]),
        "unit": _UNITS[asked.task],
        "max_difference": largest, "mean_difference": float(np.mean([gap.mean() for gap in gaps])),
        "top_class_changes": changes if classes else None, "top_class_share": changes / count if classes else None,
        "limit": limit.value,
        "versions": versions_on(session.get_providers()[0]),
    }  # fmt: skip


def _units_of(asked: Asked, expected: tuple[np.ndarray, ...]) -> list[float]:
    # An embedding has whatever scale the network gives it.
    return [
        max(1.0, float(np.abs(want).max())) if name == EMBEDDING else asked.unit
        for name, want in zip(asked.outputs, expected, strict=False)
    ]
