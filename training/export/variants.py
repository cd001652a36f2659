"""The exported file again in fp16 and int8, each judged by what it costs in accuracy and gains in speed."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from registry import gate
from registry.errors import ExportError
from registry.release import MODEL
from training.config import Config
from training.export import certificate, export, precision
from training.export.certificate import Limit
from training.export.export import Asked
from training.fit import models
from training.judge import evaluate

# Above it a file is broken, not coarse. What coarseness costs is judged by accuracy.
LIMITS = {"fp16": Limit(0.02, "fp16"), "int8": Limit(0.5, "int8")}
BATCH_ROWS = (1, 64)
TIMED_S, FEWEST_ROUNDS, MOST_ROUNDS = 0.5, 15, 301


@dataclass(frozen=True)
class Variant:
    """An exported file in one precision with its certificate; answers: to the test rows, float32 (n, width).

    embedded: what it gives out as the embedding of these, (n, width); None if it gives out none.
    """

    precision: str
    path: Path
    parity: dict[str, Any]
    answers: np.ndarray
    embedded: np.ndarray | None = None


@dataclass(frozen=True)
class Source:
    """What variants are made from: the model and its file in fp32."""

    model: models.Trainable
    asked: Asked
    full: Variant


@dataclass(frozen=True)
class Rows:
    """What judges them. calibration, x: raw rows of validation and test; y: truth of x; threshold: see Draft."""

    calibration: np.ndarray
    x: np.ndarray
    y: np.ndarray
    threshold: float | None = None


@dataclass(frozen=True)
class Made:
    """What came of the variants. table: one row per precision, fp32 first, refused ones too; [] if none was asked for.

    Every row has precision, accepted and reason; then, as far as it got, size_mb, max_difference,
    top_class_share, metric, value, and of a variant lost (`value`, `upper`), provider, and for batches
    of 1 and 64 rows fp32_ms_batch_, ms_batch_ (medians) and speedup_batch_.
    """

    table: list[dict[str, Any]]
    accepted: list[Variant]


def make(config: Config, source: Source, rows: Rows, folder: Path) -> Made:
    """Return the variants that `config.export.variants` names, each as `folder/release-PRECISION/model.onnx`.

    One that cannot be made, disagrees, loses accuracy or gains no speed is not an error: its row says
    why it was refused. The table is stored as `parity["variants"]` in every manifest.
    """
    found = [_made(wanted, config, source, rows, folder) for wanted in dict.fromkeys(config.export.variants)]
    if not found:
        return Made([], [])
    others = [row for row, _ in found]
    return Made([_full_row(config, source, rows, others), *others], [one for _, one in found if one is not None])


def lost(config: Config, rows: Rows, full: np.ndarray, coarse: np.ndarray) -> dict[str, float]:
    """Return what the answers `coarse` lose against `full` on the same rows, and the most they may lose.

    `value` and `upper`, one-sided at `gate.confidence`, as `promote` judges: of accuracy by Tango's score interval
    (`registry.gate.most_lost`), of R2 by Student's t on the paired rows (`registry.gate.slack`).
    """
    confidence = config.gate.confidence
    if config.task == "regression":
        worse, better = ((answers[:, 0].astype(np.float64) - rows.y) ** 2 / rows.y.var() for answers in (coarse, full))
        return {"value": float((worse - better).mean()), "upper": -gate.slack(better, worse, 0.0, confidence)}
    was, now = (evaluate.decide(answers, rows.threshold) == rows.y for answers in (full, coarse))
    gained, dropped, count = int((now & ~was).sum()), int((was & ~now).sum()), len(rows.y)
    return {"value": (dropped - gained) / count, "upper": gate.most_lost(gained, dropped, count, confidence)}


def speed(full: Path, coarse: Path, rows: np.ndarray) -> dict[str, Any]:
    """Return the provider on which `coarse` gains most over `full`, and the medians of both there.

    Each provider that runs both is timed in turns, one call of each, so that a busy machine slows
    both; with one thread, from rows in memory to answers.
    """
    found = []
    for provider in certificate.PROVIDERS:
        sessions = [certificate.session_on(provider, path) for path in (full, coarse)]
        if not any(isinstance(session, str) for session in sessions):
            found.append({"provider": provider} | timed(sessions, rows))
    return max(found, key=least_speedup)


def embedded(asked: Asked, more: list[np.ndarray]) -> np.ndarray | None:
    """Return the embedding among all outputs but the first; None if there is none."""
    return more[-1] if asked.embedding else None


def least_speedup(row: dict[str, Any]) -> float:
    """Return the smaller of the speed-ups at the two batch sizes."""
    return min(float(row[f"speedup_batch_{size}"]) for size in BATCH_ROWS)


def timed(sessions: list[onnxruntime.InferenceSession], rows: np.ndarray) -> dict[str, float]:
    """Return the median milliseconds per call of two sessions, timed in turns, and their ratio."""
    found: dict[str, float] = {}
    for size in BATCH_ROWS:
        feed = {sessions[0].get_inputs()[0].name: np.resize(rows, (size, *rows.shape[1:]))}
        found_s = medians([partial(session.run, None, feed) for session in sessions])
        found |= {f"fp32_ms_batch_{size}": found_s[0] * 1e3, f"ms_batch_{size}": found_s[1] * 1e3}
        found[f"speedup_batch_{size}"] = found_s[0] / found_s[1]
    return found


def medians(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Return the median seconds of each call, all called in turns, often enough to fill about TIMED_S."""

    def took(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    once = sum(min(took(call) for _ in range(3)) for call in calls)  # the first calls also warm up
    rounds = int(np.clip(TIMED_S / once, FEWEST_ROUNDS, MOST_ROUNDS))
    return [float(median) for median in np.median([[took(call) for call in calls] for _ in range(rounds)], axis=0)]


def _made(
    wanted: str, config: Config, source: Source, rows: Rows, folder: Path
) -> tuple[dict[str, Any], Variant | None]:
    path = folder / f"release-{wanted}" / MODEL
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    row: dict[str, Any] = {"precision": wanted, "accepted": False}
    try:
        _convert(wanted, source, rows, path)
        row["size_mb"] = _megabytes(path)
        held_out = np.concatenate([rows.x, rows.calibration])
        parity = certificate.certify(source.model, source.asked, path, held_out, LIMITS[wanted])
    except ExportError as error:
        return row | {"reason": str(error)}, None
    coarse, *more = export.run(export.open_file(path), rows.x, 64)
    row |= {key: parity[key] for key in ("max_difference", "top_class_share")} | _score(config, rows, coarse)
    row |= {"lost": lost(config, rows, source.full.answers, coarse)} | speed(source.full.path, path, rows.x)
    objections = _objections(config, row, len(rows.y))
    row |= {"accepted": not objections, "reason": "; ".join(objections) or "keeps its accuracy and is faster"}
    return row, None if objections else Variant(wanted, path, parity, coarse, embedded(source.asked, more))


def _full_row(config: Config, source: Source, rows: Rows, others: list[dict[str, Any]]) -> dict[str, Any]:
    clock = next((row for row in others if "provider" in row), {})
    times = {f"ms_batch_{size}": clock[f"fp32_ms_batch_{size}"] for size in BATCH_ROWS if clock}
    agrees = {key: source.full.parity[key] for key in ("max_difference", "top_class_share")}
    said = {
        "precision": "fp32",
        "accepted": True,
        "reason": "the release itself",
        "size_mb": _megabytes(source.full.path),
    }
    return said | agrees | _score(config, rows, source.full.answers) | times


def _convert(wanted: str, source: Source, rows: Rows, path: Path) -> None:
    if export.beside(source.full.path).exists():
        raise ExportError(f"{source.full.path}: has its weights in a second file; variants are made of models in one")
    try:
        if wanted == "fp16":
            precision.fp16(source.full.path, path)
        else:
            precision.int8(source.full.path, path, rows.calibration)
    except ExportError:
        raise
    except Exception as error:  # the converters have no class of errors of their own
        raise ExportError(f"{source.full.path}: cannot be converted to {wanted}: {error}") from error
    export.check(path, source.asked)


def _objections(config: Config, row: dict[str, Any], count: int) -> list[str]:
    wanted, found = config.export, []
    if not row["lost"]["upper"] <= wanted.most_accuracy_lost:
        few = "; too few rows to tell" if row["lost"]["value"] <= wanted.most_accuracy_lost else ""
        found.append(
            f"loses {row['lost']['value']:z.4f} of {row['metric']} on {count} test rows ({config.gate.confidence:.0%} "
            f"upper bound {row['lost']['upper']:z.4f}, allowed {wanted.most_accuracy_lost:g}{few})"
        )
    for size in BATCH_ROWS:
        gain = row[f"speedup_batch_{size}"]
        if not gain >= wanted.least_speedup:
            found.append(f"runs {gain:.2f} times as fast at batch {size}, demanded {wanted.least_speedup:g}")
    return found


def _score(config: Config, rows: Rows, answers: np.ndarray) -> dict[str, Any]:
    if config.task == "regression":
        value = 1 - ((answers[:, 0].astype(np.float64) - rows.y) ** 2).mean() / rows.y.var()
        return {"metric": "r2", "value": float(value)}
    return {"metric": "accuracy", "value": float((evaluate.decide(answers, rows.threshold) == rows.y).mean())}


def _megabytes(path: Path) -> float:
    side = export.beside(path)
    return (path.stat().st_size + (side.stat().st_size if side.exists() else 0)) / 1e6
