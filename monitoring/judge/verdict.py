"""What the labels say of a challenger: promote, hold or reject, right at every look at the log.

The rows are those that champion and challenger both answered since the challenge began. The margin and the
confidence are those of the gate in the challenger's manifest, and mean what they mean there. Promote when it is sure
that less than the margin is lost, reject when it is sure that more is, hold until then: a challenger that loses the
margin is ever called promote with a chance of at most 1 - confidence, one that loses less is ever called reject with
at most that, over all looks of a challenge together. It takes for granted that rows do not repeat each other.
"""

import json
import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from monitoring.judge import evidence, quality
from monitoring.judge.evidence import Pairs
from monitoring.log import recorder
from monitoring.metrics import MonitorMetrics
from registry import aliases, gate
from registry.aliases import Aliases, Challenge, Change
from registry.errors import AliasError, DataError, ReleaseError, UserError
from registry.gate import FEWEST_COMMON_ROWS, Live
from registry.listing import aligned
from registry.release import HEADLINE, Manifest

log = logging.getLogger(__name__)

PROMOTE, HOLD, REJECT = "promote", "hold", "reject"
MOST_ROWS = 200_000  # the first of a challenge; what these do not tell is not worth more
CLIP_MAES = 10.0  # errors above so many of the champion's held-out mean count as that many
MOST_CLIPPED = 0.05
BOTH = """
    FROM (SELECT id, time_s, predicted FROM shadow WHERE model = ? AND version = ? AND time_s >= ?
          ORDER BY seq LIMIT ?) s
    JOIN predictions p ON p.id = s.id AND p.time_s = s.time_s AND p.version = ?
    LEFT JOIN labels l ON l.seq = (SELECT max(seq) FROM labels WHERE id = s.id)"""
CLASSES = "SELECT s.predicted = p.predicted, p.predicted = l.label, s.predicted = l.label, count(*)" + BOTH
ERRORS = "SELECT p.predicted, s.predicted, l.label" + BOTH


@dataclass(frozen=True)
class Seen:
    """What both answered. rows, agreeing: with or without a label. champion, challenger: accuracy or mean error.

    agreeing: the same class, or within the tolerance of the challenger's manifest. doubt: why the pairs do not
    tell although they are there, "" if they do.
    """

    rows: int
    agreeing: int
    champion: float | None
    challenger: float | None
    pairs: Pairs
    doubt: str = ""


@dataclass(frozen=True)
class Verdict:
    """loss: of accuracy, or the share by which the mean absolute error grows; below 0 the challenger is better.

    labelled: rows the verdict rests on. loss_lower, loss_upper: each surely, with `confidence`, at every look.
    rows_to_tell: about how many labelled rows will tell if they go on as they came; None: too many, or told.
    objections: why a challenger that the labels are for is held yet: what `vigil promote` has against it.
    """

    model: str
    champion: str
    challenger: str
    share: float
    since_s: float
    verdict: str
    reason: str
    rows: int
    agreement: float | None
    labelled: int
    metric: str
    champion_value: float | None
    challenger_value: float | None
    loss: float | None
    loss_lower: float
    loss_upper: float
    margin: float
    confidence: float
    rows_to_tell: int | None
    objections: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """Return what to run next."""
        if self.objections:
            return f'vigil promote {self.model}:{self.challenger} --force --why "...", which overrules this'
        return {
            PROMOTE: f'vigil verdict {self.model} --promote --why "..."',
            REJECT: f'vigil challenge --end --model {self.model} --why "..."',
            HOLD: f"vigil verdict {self.model}, when there are more labels",
        }[self.verdict]


def judge(place: Path, model: str) -> Verdict:
    """Return the verdict on the challenger of `model` from the log at `place`.

    Raises AliasError if there is none, ReleaseError if a release of the two is gone, DataError for a log that
    is none.
    """
    state = aliases.read(model)
    if state.challenger is None:
        raise AliasError(f'{model}: no challenge is under way; begin one: vigil challenge TAG --why "..."')
    if not place.exists():
        raise DataError(f"{place}: there is no prediction log; name the one of the service with --log")
    try:
        with closing(recorder.connect(place)) as connection:
            return _judge(connection, state, state.challenger)
    except sqlite3.Error as error:
        raise DataError(f"{place}: cannot be read: {error}") from error


def look(connection: sqlite3.Connection, models: list[str]) -> Callable[[MonitorMetrics], None]:
    """Return what writes the verdict on each challenger into the metrics; what an ended challenge left there goes.

    A model whose aliases or releases cannot be read is logged and counted, and stops nothing else.
    """
    found, failed = [], []
    for model in models:
        try:
            state = aliases.read(model)
            if state.challenger is not None:
                found.append(_judge(connection, state, state.challenger))
        except UserError as error:
            failed.append(type(error).__name__)
            log.warning("verdict_failed", extra={"model": model, "error": str(error)})

    def show(metrics: MonitorMetrics) -> None:
        metrics.challenge_verdict.clear()
        metrics.challenge_rows.clear()
        for said in found:
            _show(metrics, said)
        for kind in failed:
            metrics.failures.labels(kind).inc()

    return show


def promote(said: Verdict, why: str) -> Change:
    """Make the challenger the champion, as the verdict has it; the verdict goes into the history.

    Raises AliasError for another verdict, and where the challenge has ended since.
    """
    tag = f"{said.model}:{said.challenger}"
    if said.verdict != PROMOTE or said.loss is None:
        raise AliasError(f"{tag}: not promoted; the verdict is {said.verdict}: {said.reason}")
    live = Live(
        said.champion, said.challenger, said.since_s, said.labelled, said.metric,
        said.loss, said.loss_lower, said.loss_upper, said.margin, said.confidence,
    )  # fmt: skip
    return aliases.promote(tag, why, live=live)


def as_json(said: Verdict) -> str:
    """Return the verdict as one JSON object."""
    return json.dumps(asdict(said) | {"command": said.command}, allow_nan=False)


def as_text(said: Verdict) -> str:
    """Return the numbers, the sentence and the command to run next."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(said.since_s))
    agreement = "" if said.agreement is None else f", {said.agreement:.2%} of them alike"
    sure = f"{said.confidence:.0%} sure each, at every look"
    lines = [
        ("challenger", f"{said.model}:{said.challenger}, {100 * said.share:g} % of the requests since {since}"),
        ("champion", f"{said.model}:{said.champion}"),
        ("answered by both", f"{said.rows} rows{agreement}"),
        ("with a label", f"{said.labelled} rows"),
        *_numbers(said, sure),
        ("verdict", f"{said.verdict}: {said.reason}"),
        ("next", said.command),
    ]
    return aligned(lines)


def _numbers(said: Verdict, sure: str) -> list[tuple[str, str]]:
    if said.loss is None or said.champion_value is None or said.challenger_value is None:
        return []
    both = f"champion {said.champion_value:.4g}, challenger {said.challenger_value:.4g}"
    if said.metric == "mae":
        width = f"{said.loss_lower:+.1%} to {said.loss_upper:+.1%}"
        return [("mean error", both), ("growth", f"{said.loss:+.1%}, {width} ({sure}), allowed {said.margin:+.1%}")]
    width = f"{-said.loss_upper:+.4f} to {-said.loss_lower:+.4f}"
    return [("accuracy", both), ("difference", f"{-said.loss:+.4f}, {width} ({sure}), allowed {-said.margin:+.4f}")]


def _show(metrics: MonitorMetrics, said: Verdict) -> None:
    place = (said.model, said.challenger)
    metrics.challenge_rows.labels(*place).set(said.labelled)
    for verdict in (PROMOTE, HOLD, REJECT):
        metrics.challenge_verdict.labels(*place, verdict).set(said.verdict == verdict)


def _judge(connection: sqlite3.Connection, state: Aliases, challenge: Challenge) -> Verdict:
    champion = state.champion.version if state.champion else ""
    old, new = _manifest(state.model, champion), _manifest(state.model, challenge.version)
    place = (state.model, challenge.version, challenge.since_s, MOST_ROWS, champion)
    seen = _classes(connection, place) if new.classes else _errors(connection, place, old, new)
    margin, confidence = new.gate["margin"], new.gate["confidence"]
    verdict, reason, rows_to_tell = _decide(seen, margin, confidence)
    lower, upper = evidence.bounds(seen.pairs, confidence)
    objections = tuple(gate.unfit(new)) if verdict == PROMOTE else ()
    if objections:
        verdict, reason = HOLD, f"{reason}; yet {'; '.join(objections)}"
    return Verdict(
        state.model, champion, challenge.version, challenge.share, challenge.since_s,
        verdict, reason, seen.rows, seen.agreeing / seen.rows if seen.rows else None,
        seen.pairs.rows, HEADLINE[new.task], seen.champion, seen.challenger,
        _loss(seen), lower, upper, margin, confidence, rows_to_tell, objections,
    )  # fmt: skip


def _decide(seen: Seen, margin: float, confidence: float) -> tuple[str, str, int | None]:
    pairs, rows = seen.pairs, seen.pairs.rows
    if rows < FEWEST_COMMON_ROWS:
        return HOLD, f"{rows} rows with a label, at least {FEWEST_COMMON_ROWS} are needed", None
    if evidence.loses_more(pairs, margin, confidence):
        return REJECT, "surely worse than the champion by more than the margin", None
    if seen.doubt:
        return HOLD, seen.doubt, None
    if evidence.loses_less(pairs, margin, confidence):
        better = evidence.loses_less(pairs, 0.0, confidence)
        return PROMOTE, "surely better" if better else "surely within the margin that its gate allows", None
    needed = evidence.rows_to_tell(pairs, margin, confidence)
    told = f"about {needed} labelled rows will, if they go on as they came" if needed else "nor will they soon"
    return HOLD, f"the labels do not tell yet; {told}", needed


def _loss(seen: Seen) -> float | None:
    if seen.champion is None or seen.challenger is None:
        return None
    if not seen.pairs.relative:
        return seen.champion - seen.challenger
    return seen.challenger / seen.champion - 1 if seen.champion else None


def _manifest(model: str, version: str) -> Manifest:
    found = quality.manifest_of(model, version)
    if found is None:
        tag = f"{model}:{version}"
        raise ReleaseError(f'{tag}: is not in the store any more; end the challenge: vigil challenge --end --why "..."')
    return found


def _classes(connection: sqlite3.Connection, place: tuple[object, ...]) -> Seen:
    rows = agreeing = right = now = better = worse = labelled = 0
    for same, old, new, count in connection.execute(f"{CLASSES} GROUP BY 1, 2, 3", place):
        rows += count
        agreeing += count * same
        if old is not None:  # without a label neither is right or wrong
            labelled += count
            right, now = right + count * old, now + count * new
            better, worse = better + count * (new > old), worse + count * (old > new)
    pairs = evidence.of_classes(better, worse, labelled)
    if not labelled:
        return Seen(rows, agreeing, None, None, pairs)
    return Seen(rows, agreeing, right / labelled, now / labelled, pairs)


def _errors(connection: sqlite3.Connection, place: tuple[object, ...], old: Manifest, new: Manifest) -> Seen:
    found = [(float(p), float(s), quality.number(label or "")) for p, s, label in connection.execute(ERRORS, place)]
    tolerance = new.quality.get("tolerance", 0.0)
    agreeing = sum(abs(champion - challenger) <= tolerance for champion, challenger, _ in found)
    told = np.array([row for row in found if row[2] is not None], dtype=np.float64).reshape(-1, 3)
    errors = np.abs(told[:, :2] - told[:, 2:]).T
    most = CLIP_MAES * float(old.metrics.get("mae", {}).get("value", 0.0))
    pairs = evidence.of_errors(errors[0], errors[1], most or 1.0)
    if not len(told):
        return Seen(len(found), agreeing, None, None, pairs)
    champion, challenger = errors.mean(axis=1).tolist()
    doubt = _doubt(errors, most, new.gate["margin"])
    return Seen(len(found), agreeing, champion, challenger, pairs, doubt)


def _doubt(errors: np.ndarray, most: float, margin: float) -> str:
    # Errors (2, n) of champion and challenger. What may speak against a promotion only; no guarantee is lost by it.
    if not most:
        return "the champion's manifest states no mean absolute error to measure errors by"
    clipped = float((errors > most).mean(axis=1).max())
    if clipped > MOST_CLIPPED:
        return f"{clipped:.0%} of the errors exceed {CLIP_MAES:g} times the held-out mean; look at the drift first"
    champion, challenger = errors.mean(axis=1).tolist()
    if challenger > (1 + margin) * champion and (errors > most).any():
        return f"few large errors, above {most:.4g}, make the challenger's mean error larger than the margin allows"
    return ""
