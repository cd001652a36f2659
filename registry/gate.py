"""What speaks against promoting a release, judged on held-out rows both releases answered."""

import io
from statistics import NormalDist

import numpy as np

from registry.release import HELDOUT, Release

FEWEST_COMMON_ROWS = 50


def objections(candidate: Release, champion: Release | None) -> list[str]:
    """Return the reasons not to promote `candidate`, each a sentence with its numbers.

    The rules come from the candidate's manifest: a parity certificate within its limit, no worse
    than the baselines, and not worse than the champion by more than `gate.margin` of accuracy at
    `gate.confidence` (one-sided, paired over the rows that both releases held out).
    """
    found = []
    parity, gate = candidate.manifest.parity, candidate.manifest.gate
    if not parity or not parity["max_difference"] <= parity["limit"]:
        found.append("it has no parity certificate within its limit")
    if not gate.get("beats_baselines", False):
        found.append("it does not beat the baselines it was trained with")
    if champion is not None:
        found += _against(champion, candidate, gate["margin"], gate["confidence"])
    return found


def _against(champion: Release, candidate: Release, margin: float, confidence: float) -> list[str]:
    new, old = _correct(candidate), _correct(champion)
    common = sorted(new.keys() & old.keys())
    if len(common) < FEWEST_COMMON_ROWS:
        return [f"only {len(common)} held-out rows in common with the champion, {FEWEST_COMMON_ROWS} are needed"]
    difference = np.array([new[key] - old[key] for key in common], dtype=np.float64)
    spread = difference.std(ddof=1) / np.sqrt(len(common))
    lower = difference.mean() - NormalDist().inv_cdf(confidence) * spread
    if lower >= -margin:
        return []
    return [
        f"on {len(common)} common held-out rows its accuracy differs by {difference.mean():+.3f} from "
        f"{champion.version} ({confidence:.0%} lower bound {lower:+.3f}, allowed {-margin:+.3f})"
    ]


def _correct(release: Release) -> dict[int, int]:
    # Rows that are equal share a key; any of them may stand for all, since the answers are equal too.
    with np.load(io.BytesIO(release.read(HELDOUT)), allow_pickle=False) as heldout:
        right = heldout["probabilities"].argmax(axis=1) == heldout["y"]
        return dict(zip(heldout["key"].tolist(), right.astype(int).tolist(), strict=True))
