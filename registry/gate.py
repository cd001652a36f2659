"""What speaks against promoting a release, judged on held-out rows both releases answered."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from registry.release import HELDOUT, Manifest, Release

FEWEST_COMMON_ROWS = 50
# Share of the common rows whose truth may be another one: in ten well-known test sets at least 3.3 % of the labels are
# wrong on average, and may be corrected (Northcutt, Athalye, Mueller 2021, arXiv 2103.14749).
MOST_CORRECTED = 0.05
ROUNDING = 1e-3  # of the spread of a regression's truth: what moves it less is no other truth
MOST_LOSS = 10.0  # where the search for the least margin that would pass ends


@dataclass(frozen=True)
class Common:
    """Rows both releases held out: the newer truth and the older (n,), what each answered (n, classes) or (n, 1)."""

    y: np.ndarray
    was: np.ndarray
    old: np.ndarray
    new: np.ndarray


@dataclass(frozen=True)
class Live:
    """What labelled traffic said of a challenger, which stands in for the rows that both releases held out.

    champion, challenger: versions. since_s: when the challenge began. rows: with a label, answered by both. loss and
    its bounds, margin: see `monitoring.judge.verdict.Verdict`.
    """

    champion: str
    challenger: str
    since_s: float
    rows: int
    metric: str
    loss: float
    loss_lower: float
    loss_upper: float
    margin: float
    confidence: float


def objections(candidate: Release, champion: Release | None) -> list[str]:
    """Return the reasons not to promote `candidate`, each a sentence with its numbers.

    The rules come from the candidate's manifest: a parity certificate within its limit, no worse
    than the baselines, and not worse than the champion by more than `gate.margin` at
    `gate.confidence` (one-sided, paired over the rows that both releases held out, by the newer truth).
    The margin is a difference in accuracy; in a regression, a share of the champion's mean absolute error.
    The truth itself is doubted if it is another one for more than MOST_CORRECTED of these rows.
    """
    found = unfit(candidate.manifest)
    if champion is not None:
        found += _against(champion, candidate)
    return found


def unfit(manifest: Manifest) -> list[str]:
    """Return the reasons not to promote a release that hold whatever the champion is."""
    found = []
    parity, gate = manifest.parity, manifest.gate
    if not parity or not parity["max_difference"] <= parity["limit"]:
        found.append("it has no parity certificate within its limit")
    if not gate.get("beats_baselines", False):
        found.append("it does not beat the baselines it was trained with")
    return found


def incomparable(champion: Release, candidate: Release) -> list[str]:
    """Return why no rows can say which of the two is better: no rule in the manifest, another task, other classes."""
    old, new = champion.manifest, candidate.manifest
    if not new.gate:
        return ["its manifest states no rules of promotion"]
    if old.task != new.task:
        return [f"it is a {new.task} and the champion {champion.version} a {old.task}: no rows compare them"]
    if old.classes != new.classes:
        return [_other_classes(champion.version, old, new)]
    return []


def other_rows(champion: Release, candidate: Release) -> list[str]:
    """Return why a row read for the champion is none for `candidate`; what stands for an empty cell may differ."""
    old, new = champion.manifest.input, candidate.manifest.input
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return [
            f"its rows are {new.dtype} {new.shape}, those of the champion {champion.version} {old.dtype} {old.shape}"
        ]
    if old.columns != new.columns or old.categories != new.categories:
        return [f"its columns or their values are not those of the champion {champion.version}"]
    return []


def score(better: int, worse: int, rows: int, margin: float) -> float:
    """Return Tango's score statistic: how surely accuracy fell by less than `margin`, in standard deviations.

    better, worse: rows that only the new release, or only the old one, answers right. The variance is
    taken where the difference is exactly `-margin`, so few disagreements do not look like certainty.
    Tango (1998), Statistics in Medicine 17, 891-908; with margin 0 it is McNemar's statistic.
    """
    b = (2 * rows - better + worse) * -margin - worse - better
    share = ((b * b - 8 * rows * worse * margin * (1 + margin)) ** 0.5 - b) / (4 * rows)
    variance = rows * (2 * share - margin * (1 + margin))
    excess = better - worse + rows * margin
    if variance > 0:
        return excess / float(variance**0.5)
    return math.copysign(math.inf, excess) if excess else 0.0


def most_lost(better: int, worse: int, rows: int, confidence: float) -> float:
    """Return the upper bound of the accuracy lost, one-sided: the least margin at which `score` is sure enough."""
    z = NormalDist().inv_cdf(confidence)
    return least_margin(lambda m: m >= 1 or (m > -1 and score(better, worse, rows, m) >= z))


def slack(old: np.ndarray, new: np.ndarray, margin: float, confidence: float) -> float:
    """Return the lower bound of mean((1 + margin) old - new), by Student's t on the paired rows.

    old, new: absolute errors (n,). At 0 or more, the new mean error exceeds the old by at most `margin` of it.
    """
    left = (1 + margin) * old - new
    z, freedom = NormalDist().inv_cdf(confidence), len(left) - 1
    t = z + (z**3 + z) / (4 * freedom)  # of Student's distribution, to 0.002 from 49 degrees of freedom on
    return float(left.mean() - t * left.std(ddof=1) / len(left) ** 0.5)


def least_margin(passes: Callable[[float], bool]) -> float:
    """Return the smallest margin in [-1, MOST_LOSS] that passes, to 1e-6; MOST_LOSS if none does."""
    low, high = -1.0, MOST_LOSS
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _against(champion: Release, candidate: Release) -> list[str]:
    if reasons := incomparable(champion, candidate):
        return reasons
    common = _common(champion, candidate)
    if len(common.y) < FEWEST_COMMON_ROWS:
        return [f"only {len(common.y)} held-out rows in common with the champion, {FEWEST_COMMON_ROWS} are needed"]
    judge = _less_exact if candidate.manifest.task == "regression" else _less_accurate
    return _other_truth(champion, common) + judge(champion, candidate, common)


def _other_truth(champion: Release, common: Common) -> list[str]:
    # Both are judged by the newer truth: labels that were mixed up would make a model that learnt them look perfect.
    classes = champion.manifest.classes
    other = common.y != common.was if classes else ~np.isclose(common.y, common.was, 1e-6, ROUNDING * common.was.std())
    if other.mean() <= MOST_CORRECTED:
        return []
    return [
        f"the truth of {other.sum()} of {len(other)} common held-out rows is not the one of the champion "
        f"{champion.version}: {_moves(common, other, classes)}; look at the labels, and overrule this only if they "
        "were corrected"
    ]


def _moves(common: Common, other: np.ndarray, classes: tuple[str, ...]) -> str:
    if not classes:
        return f"{(common.y - common.was)[other].mean():+.4g} on average"
    moves, counts = np.unique(np.stack([common.was[other], common.y[other]]), axis=1, return_counts=True)
    was, now = moves[:, counts.argmax()]
    return f"most often '{classes[now]}' where it was '{classes[was]}' ({counts.max()} rows)"


def _less_accurate(champion: Release, candidate: Release, common: Common) -> list[str]:
    margin, confidence = candidate.manifest.gate["margin"], candidate.manifest.gate["confidence"]
    was = champion.manifest.decide(common.old) == common.y
    now = candidate.manifest.decide(common.new) == common.y
    better, worse, rows = int((now & ~was).sum()), int((was & ~now).sum()), len(common.y)
    if score(better, worse, rows, margin) >= NormalDist().inv_cdf(confidence):
        return []
    lower = -most_lost(better, worse, rows, confidence)
    return [
        f"on {rows} common held-out rows its accuracy differs by {(better - worse) / rows:+.3f} from "
        f"{champion.version} ({better} rows better, {worse} worse; {confidence:.0%} lower bound {lower:+.3f}, "
        f"allowed {-margin:+.3f})" + ("; too few rows to tell" if better >= worse else "")
    ]


def _less_exact(champion: Release, candidate: Release, common: Common) -> list[str]:
    margin, confidence = candidate.manifest.gate["margin"], candidate.manifest.gate["confidence"]
    was, now = (np.abs(answer[:, 0] - common.y) for answer in (common.old, common.new))
    if slack(was, now, margin, confidence) >= 0:
        return []
    upper = least_margin(lambda m: slack(was, now, m, confidence) >= 0)
    bound = f"upper bound {upper:+.1%}" if upper < MOST_LOSS else "no upper bound"
    return [
        f"on {len(common.y)} common held-out rows its mean absolute error is {now.mean():.4g}, that of "
        f"{champion.version} {was.mean():.4g} ({confidence:.0%} {bound}, allowed {margin:+.1%})"
        + ("; too few rows to tell" if now.mean() <= was.mean() else "")
    ]


def _other_classes(version: str, old: Manifest, new: Manifest) -> str:
    lost, fresh = sorted(set(old.classes) - set(new.classes)), sorted(set(new.classes) - set(old.classes))
    what = [f"{word} {', '.join(names)}" for word, names in (("without", lost), ("new", fresh)) if names]
    return f"its classes are not those of the champion {version}: {'; '.join(what) or 'another order'}"


def _common(champion: Release, candidate: Release) -> Common:
    # Rows that are equal share a key and the answers; with more than one truth, the order in the file must not choose.
    old, new = _heldout(champion), _heldout(candidate)
    _, i, j = np.intersect1d(old["key"], new["key"], return_indices=True)
    output = candidate.manifest.output
    classes = len(candidate.manifest.classes)
    return Common(_usual(new, classes)[j], _usual(old, classes)[i], old[output][i], new[output][j])


def _usual(heldout: dict[str, np.ndarray], classes: int) -> np.ndarray:
    # (n,): the truth; of equal rows the most frequent one (of a tie the first class), of a regression the mean
    _, group, sizes = np.unique(heldout["key"], return_inverse=True, return_counts=True)
    if not classes:
        mean: np.ndarray = (np.bincount(group, heldout["y"]) / sizes)[group]
        return mean
    pairs, counts = np.unique(group * classes + heldout["y"], return_counts=True)
    ordered = pairs[np.lexsort((-counts, pairs // classes))]
    _, first = np.unique(ordered // classes, return_index=True)
    return (ordered[first] % classes)[group]


def _heldout(release: Release) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(release.read(HELDOUT)), allow_pickle=False) as heldout:
        return {name: heldout[name] for name in ("key", "y", release.manifest.output)}
