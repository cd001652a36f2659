"""Rows whose label a quick model, which never saw the row, confidently disagrees with.

After Northcutt, Jiang & Chuang 2021, "Confident learning": a class is confidently said of a row when its
probability is at least the mean probability of the class over the rows that bear it, here a half at most;
the label itself must be as good as denied. These are hints: a row may be hard and rightly labelled. Where
the quick model knows too little of the task, it is asked nothing.
"""

import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from training.explore import small
from training.rows import split
from training.rows.data import Table

FOLDS = 5
MOST_ROWS = 20_000
MOST_HINTS = 48
SIDE = 16  # images are averaged to at most this many pixels a side
NEIGHBOURS = 15
SAID, DENIED = 0.5, 0.1  # probabilities of another class, from which, and of the label, to which it is a hint
LEAST_RIGHT = 0.7  # of the quick model; below, its disagreement says more about itself
FAR = 6.0  # regression: a residual this many times the median one, 4 standard deviations where they are normal
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Hint:
    """One row: what its label says, what the model says, and how sure it is: a probability, or a residual."""

    row: int
    label: str
    said: str
    sureness: float


@dataclass(frozen=True)
class Hints:
    """score: share of right answers (R2 in a regression) over the folds. judged: whether the model may be asked.

    count: rows with a hint, `listed` are the surest of them. rows: that were looked at.
    """

    model: str
    rows: int
    score: float
    judged: bool
    count: int
    listed: tuple[Hint, ...]


def find(table: Table, without: Collection[int] = (), most: int = MOST_HINTS) -> Hints:
    """Return the rows most likely labelled wrong, from FOLDS models that each leave out a fold.

    without: columns of a table that the models do not see: a column that was written with the label in view
    agrees with a wrong one too. most: hints that are listed.
    """
    rows = np.sort(np.argsort(table.key, kind="stable")[:MOST_ROWS])
    x, fold = _inputs(table, rows, without), _folds(table, rows)
    judge = _classified if table.classes else _regressed
    found = judge(table, rows, x, fold)
    return replace(found, listed=found.listed[:most])


def disagreements(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that another class than y is confidently said of, the surest first, and that class.

    p: (n, classes), of models that did not see the row. The order is by p[y] - max p.
    """
    everyone = np.arange(len(y))
    limit = np.array([min(p[y == c, c].mean(), SAID) if (y == c).any() else SAID for c in range(p.shape[1])])
    said = np.where(p >= limit, p, -1.0)
    said[everyone, y] = -1.0
    other = said.argmax(axis=1)
    found = np.flatnonzero((said.max(axis=1) >= 0) & (p.argmax(axis=1) == other) & (p[everyone, y] <= DENIED))
    margin = p[everyone, y] - p.max(axis=1)
    found = found[np.argsort(margin[found], kind="stable")]
    return found, other[found]


def _inputs(table: Table, rows: np.ndarray, without: Collection[int]) -> np.ndarray:
    if not table.names:
        channels = small.pixels(table.x[:1]).shape[3]
        side = SIDE if channels == 1 else SIDE // 2
        parts = np.array_split(rows, -(-len(rows) // _CHUNK_ROWS))
        small_ones = np.concatenate([small.averaged(table.x[part], side) for part in parts])
        return small_ones.reshape(len(rows), -1)
    columns = [np.zeros((len(rows), 1))]
    for place, name in enumerate(table.names):
        if place in without:
            continue
        column = table.x[rows, place]
        values = table.categories.get(name)
        columns.append(column[:, None] == np.arange(len(values)) if values else column[:, None])
    return np.concatenate(columns, axis=1).astype(np.float32)


def _folds(table: Table, rows: np.ndarray) -> np.ndarray:
    by_group = split.folds(table.unit[rows], FOLDS, seed=1)
    fair = np.bincount(by_group, minlength=FOLDS).min() >= len(rows) / (3 * FOLDS)
    return by_group if fair else split.folds(table.key[rows], FOLDS, seed=1)


def _classified(table: Table, rows: np.ndarray, x: np.ndarray, fold: np.ndarray) -> Hints:
    y = table.y[rows]
    p = np.zeros((len(rows), len(table.classes)))
    for number in range(FOLDS):
        out = fold == number
        if out.any() and len(np.unique(y[~out])) > 1:
            classes, answer = _answer(x[~out], y[~out], x[out], neighbours=not table.names)
            p[np.ix_(out, classes)] = answer
    right = float((p.argmax(axis=1) == y).mean())
    often = np.bincount(y).max() / len(y)
    judged = bool(right >= max(LEAST_RIGHT, (1 + often) / 2))
    found, other = disagreements(p, y) if judged else (np.zeros(0, dtype=int), np.zeros(0, dtype=int))
    listed = tuple(
        Hint(int(rows[r]), table.classes[y[r]], table.classes[k], round(float(p[r, k]), 4))
        for r, k in zip(found, other, strict=True)
    )
    name = f"{NEIGHBOURS} nearest neighbours on small pixels" if not table.names else "logistic regression"
    return Hints(name, len(rows), right, judged, len(found), listed)


def _answer(x: np.ndarray, y: np.ndarray, asked: np.ndarray, neighbours: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes that were seen and their probabilities (asked, classes)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if neighbours:
        model = KNeighborsClassifier(min(NEIGHBOURS, len(x)))
    else:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a quick model need not be the best one
        model.fit(x, y)
    return model.classes_, model.predict_proba(asked)


def _regressed(table: Table, rows: np.ndarray, x: np.ndarray, fold: np.ndarray) -> Hints:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    y, said = table.y[rows], np.full(len(rows), np.nan)
    for number in range(FOLDS):
        out = fold == number
        if out.any():
            said[out] = make_pipeline(StandardScaler(), Ridge()).fit(x[~out], y[~out]).predict(x[out])
    left = y - said
    typical = float(np.median(np.abs(left))) or 1e-12
    score = 1 - float((left**2).sum() / ((y - y.mean()) ** 2).sum())
    order = np.argsort(-np.abs(left), kind="stable")
    found = order[np.abs(left)[order] > FAR * typical]
    listed = tuple(Hint(int(rows[r]), f"{y[r]:.6g}", f"{said[r]:.6g}", round(float(left[r]), 6)) for r in found)
    return Hints("ridge regression", len(rows), score, True, len(found), listed)
