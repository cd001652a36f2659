"""The answers that a network must beat: what needs no row, and what a straight line finds in it."""

import warnings
from collections.abc import Callable

import numpy as np

from registry.release import InputSpec
from training.rows import encoding
from training.rows.data import Table, moments

MOST_ITERATIONS, FEWEST_ITERATIONS = 5000, 100
_CELL_VISITS = 10**10  # of all iterations together: some ten seconds of one core

Answer = Callable[[np.ndarray], np.ndarray]  # rows (n, *shape) -> float64 (n, classes), or (n, 1) in a regression


def fit(table: Table, train: np.ndarray, y: np.ndarray) -> dict[str, Answer]:
    """Return the baselines of the task, fitted on the rows `train` (row numbers) with labels y."""
    x = table.x[train]
    if table.classes:
        return {"majority": majority(y, len(table.classes)), "linear": linear(x, y, len(table.classes), table.spec)}
    return {"mean": mean(y), "linear": ridge(x, y, table.spec)}


def majority(y: np.ndarray, classes: int) -> Answer:
    """Return a function that answers the class shares of y for each row."""
    shares = np.bincount(y, minlength=classes) / len(y)
    return lambda x: np.tile(shares, (len(x), 1))


def mean(y: np.ndarray) -> Answer:
    """Return a function that answers the mean of y for each row."""
    value = float(y.mean())
    return lambda x: np.full((len(x), 1), value)


def linear(x: np.ndarray, y: np.ndarray, classes: int, spec: InputSpec | None = None) -> Answer:
    """Return multinomial logistic regression on standardised columns; the categories of `spec` are one-hot.

    Many rows get fewer iterations, never below 100. A class without a row in y gets probability 0.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    encode = _encode(x, spec)
    iterations = min(MOST_ITERATIONS, max(FEWEST_ITERATIONS, _CELL_VISITS // x.size))
    pipeline = make_pipeline(StandardScaler(copy=False), LogisticRegression(max_iter=iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit(encode(x), y)

    def answer(rows: np.ndarray) -> np.ndarray:
        probabilities = np.zeros((len(rows), classes))
        probabilities[:, pipeline.classes_] = pipeline.predict_proba(encode(rows))
        return probabilities

    return answer


def ridge(x: np.ndarray, y: np.ndarray, spec: InputSpec | None = None) -> Answer:
    """Return ridge regression (alpha 1) on standardised columns; the categories of `spec` are one-hot."""
    from sklearn.linear_model import Ridge

    encode = _encode(x, spec)
    fitted = Ridge(alpha=1.0).fit(encode(x), y)
    return lambda rows: fitted.predict(encode(rows)).astype(np.float64)[:, None]


def _encode(x: np.ndarray, spec: InputSpec | None) -> Answer:
    encoder = encoding.Encoder(moments(x), spec)
    kind = np.float64 if x.ndim == 2 else np.float32  # images in float64 would take eight times their bytes
    return lambda rows: encoding.flat(encoder, rows).astype(kind, copy=False)
