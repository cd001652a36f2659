"""What a training run came to, as a table for people or as JSON for machines."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from training.pages import document, results


@dataclass(frozen=True)
class Outcome:
    """A published release; metrics, baselines, parity and gate are those of its manifest; timing: see loop.Fit.

    variants: the tags of the releases in other precisions; `parity["variants"]` says what became of each.
    refusal: why `vigil promote` would refuse it as things are, empty if it would not. judged: whether that is what
    the release is, which only another training changes.
    """

    tag: str
    metrics: dict[str, Any]
    baselines: dict[str, Any]
    parity: dict[str, Any]
    gate: dict[str, Any]
    seconds: float
    run_folder: Path
    timing: list[dict[str, float]] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    refusal: str = ""
    judged: bool = False


def as_text(outcome: Outcome) -> str:
    """Return the results, model and baselines in one table, and what to do next."""
    parity = outcome.parity
    tried = parity.get("variants")
    verdict = "holds" if outcome.gate["beats_baselines"] else "does not hold"
    return "\n".join([
        *document.plain(results.table(outcome.metrics, outcome.baselines)), "",
        f"on {outcome.metrics['rows']} test rows, 95 % intervals; the model {verdict} against the baselines",
        f"ONNX agrees with PyTorch within {parity['max_difference']:.2g} on {parity['rows']} rows "
        f"(limit {parity['limit']:.2g})",
        *(["", *document.plain(results.variants(tried)), *results.refusals(tried), ""] if tried else []),
        pace(outcome.timing),
        f"published {outcome.tag} in {outcome.seconds:.1f} s; the card is {outcome.run_folder}/release/card.html",
        *(f"published {tag}" for tag in outcome.variants),
        _advice(outcome),
    ])  # fmt: skip


def _advice(outcome: Outcome) -> str:
    promote = f'vigil promote {outcome.tag} --why "..."'
    if not outcome.refusal:
        return f"next: {promote}"
    cure = (
        "read the card, look for better settings with vigil search, or change the data; then train again"
        if outcome.judged
        else f"see to that, {promote}"
    )
    return f"promote will refuse it: {outcome.refusal}\nnext: {cure}"


def pace(timing: list[dict[str, float]]) -> str:
    """Return how fast the network was trained, and how little of that was waiting, in one line."""
    train_s = sum(entry["train_s"] for entry in timing)
    outside = sum(entry["outside_share"] * entry["train_s"] for entry in timing) / train_s
    rows = sum(entry["rows"] for entry in timing)
    return (
        f"trained {len(timing)} epochs in {train_s:.1f} s, {rows / train_s:,.0f} rows/s; "
        f"{outside:.1%} of it outside forward, backward and step"
    )


def as_json(outcome: Outcome) -> str:
    """Return the outcome as one JSON object on one line."""
    return json.dumps(asdict(outcome) | {"run_folder": str(outcome.run_folder)}, allow_nan=False)
