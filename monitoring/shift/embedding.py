"""What the bins of single signals cannot see: how columns, pixels and answers go together.

Random Fourier features (Rahimi and Recht 2007) of the row and its answer: their mean over a window, against that of
the reference, is the maximum mean discrepancy (MMD, Gretton et al. 2012) of a Gaussian kernel. They are turned and
scaled so that over the reference each has variance 1 and none goes with another. So the squared length of the gap
between the two means is Hotelling's T2, whose law is known also for a small reference, and sums over rows are all
that has to be counted: they add up over workers, replicas and restarts.

Where the graph gives out an embedding of its own, beside its answer, that stands for the row.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from monitoring.shift import images
from monitoring.shift.support import typical_distance

WAVES = 32
ROWS_PER_WAVE = 20  # fewest of the reference
JUDGED = 0.75  # of the reference rows; the waves are laid by the others, which are nearer to them than new rows are
FEWEST_ROWS = 200  # of the reference: with fewer the score is over a limit twice as often as it should be
MOST_FIT_ROWS = 20_000
SIDE = 8  # blocks of an image, along each side
MOST_COLUMNS = 256
MOST_CLASSES = 50
FAR = 8.0  # deviations from the middle, at which a value is cut off: one broken value must not fill a sum
NORMAL = 1.4826  # times the median distance from the middle is the deviation, in a normal distribution
EVEN = 0.1  # of the mean variance, added to each: directions in which the reference hardly varies stay quiet
LARGEST = 3.4e38  # a number of float32 that six digits can say
FINEST = 2.0**-23  # of a number of float32: what two of its size differ by at least
SMALLEST = 1e-27  # a deviation: of a smaller one the weights would be no numbers of float32
WEAK = 0.1  # of the largest variance of a mixture of waves: below, it repeats the others


@dataclass(frozen=True)
class Embedding:
    """Fourier features of a row, whitened on the reference.

    low, high: where each place of the flat row is cut off, (places,). weights: (places, waves); offsets: (waves,),
    in radians. means: of each wave over the reference. whitening: (waves, k), from waves to components. centres:
    (k,), the mean of each component over the reference, so large that no component of a row is below 0. Means and
    whitening are those of the share JUDGED of the reference. width: of the graph's own embedding, which `inputs` are
    then everywhere, (n, width); 0 where they are raw rows.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    offsets: tuple[float, ...]
    means: tuple[float, ...]
    whitening: tuple[tuple[float, ...], ...]
    centres: tuple[float, ...]
    width: int = 0

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> "Embedding":
        """Return what `dataclasses.asdict` gave, with lists for tuples."""
        return cls(**{name: _tuples(values) for name, values in said.items()})

    def components(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return the components of each row, float32 (n, k), all 0 or more; arguments as in `signals.compute`."""
        turned = (self._waves(inputs, outputs) - self._means) @ self._whitening + self._centres
        found: np.ndarray = turned.astype(np.float32)
        return found

    def sums(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return the components summed over the rows, float64 (k,): what is counted, without a column for each row."""
        waves = self._waves(inputs, outputs)
        rows = len(waves)
        summed: np.ndarray = (np.ones(rows, np.float32) @ waves) @ self._whitening + rows * self._start
        return summed

    def z(self, sums: np.ndarray, rows: float, reference_rows: int) -> float:
        """Return how unlike the reference a window is, from its sums (k,) and rows; about N(0, 1) without drift."""
        return float(self.z_of_each(sums, np.asarray(rows), reference_rows))

    def size(self, sums: np.ndarray, rows: float, reference_rows: int) -> float:
        """Return the squared distance of the two means in deviations, less what chance gives; below 0 for chance.

        Of two normal distributions of one spread it is the population stability index.
        """
        return float(self.size_of_each(sums, np.asarray(rows), reference_rows))

    def z_of_each(self, sums: np.ndarray, rows: np.ndarray, reference_rows: int) -> np.ndarray:
        """Return z of windows (...), from their sums (..., k) and rows (...).

        Hotelling's T2 with the covariance of the reference alone is, times (N - k) / (k (N - 1)), an F with k and
        N - k degrees of freedom; made normal by Paulson (1942). The recording rules compute the same in PromQL.
        """
        n, m, k = rows, reference_rows * JUDGED, len(self.centres)
        f = n * m / (n + m) * self._gap(sums, rows) * (m - k) / (k * (m - 1))
        a, b, root = 2 / (9 * k), 2 / (9 * (m - k)), np.cbrt(f)
        found: np.ndarray = (root * (1 - b) - (1 - a)) / np.sqrt(a + root**2 * b)
        return found

    def size_of_each(self, sums: np.ndarray, rows: np.ndarray, reference_rows: int) -> np.ndarray:
        """Return `size` of windows (...), from their sums (..., k) and rows (...)."""
        found: np.ndarray = self._gap(sums, rows) - len(self.centres) * (1 / rows + 1 / (reference_rows * JUDGED))
        return found

    def _gap(self, sums: np.ndarray, rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = ((sums / rows[..., None] - self._centres) ** 2).sum(axis=-1)
        return found

    def _waves(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        places = flatten(inputs, outputs)
        np.fmin(places, self._high, out=places)  # not a number counts as too large
        np.fmax(places, self._low, out=places)
        phases: np.ndarray = places @ self._weights
        phases += self._offsets
        np.cos(phases, out=phases)
        return phases

    @cached_property
    def _low(self) -> np.ndarray:
        return np.array(self.low, np.float32)

    @cached_property
    def _high(self) -> np.ndarray:
        return np.array(self.high, np.float32)

    @cached_property
    def _weights(self) -> np.ndarray:
        return np.array(self.weights, np.float32)

    @cached_property
    def _offsets(self) -> np.ndarray:
        return np.array(self.offsets, np.float32)

    @cached_property
    def _means(self) -> np.ndarray:
        return np.array(self.means)

    @cached_property
    def _whitening(self) -> np.ndarray:
        return np.array(self.whitening)

    @cached_property
    def _start(self) -> np.ndarray:
        # What a row adds whose waves are all 0.
        start: np.ndarray = self._centres - self._means @ self._whitening
        return start

    @cached_property
    def _centres(self) -> np.ndarray:
        return np.array(self.centres)


def fit(inputs: np.ndarray, outputs: np.ndarray, seed: int = 0) -> Embedding | None:
    """Return the embedding of reference rows (n, ...) and their outputs (n, classes) or (n, 1), all finite.

    None if nothing varies from row to row, or there are fewer than FEWEST_ROWS.
    """
    if len(inputs) < FEWEST_ROWS:
        return None
    generator = np.random.default_rng(seed)
    drawn, judged = dealt(len(inputs), generator)
    places = flatten(inputs[drawn[:MOST_FIT_ROWS]], outputs[drawn[:MOST_FIT_ROWS]]).astype(np.float64)
    places = np.fmax(np.fmin(places, LARGEST), -LARGEST)
    middle, deviation = _spread(places, outputs.shape[1])
    deviation = np.maximum(deviation, np.maximum(FINEST * np.abs(middle), SMALLEST))
    low, high = ((middle + far * deviation).clip(-LARGEST, LARGEST) for far in (-FAR, FAR))
    waves = max(1, min(WAVES, len(judged) // ROWS_PER_WAVE))
    turn = _evened((places.clip(low, high) - middle) / deviation)
    weights = _rounded(turn @ generator.standard_normal((turn.shape[1], waves)) / deviation[:, None])
    offsets = _rounded(generator.uniform(0, 2 * np.pi, waves) - middle @ weights)
    # The rest is measured with the numbers as they are written down.
    bounds = _tuples(_rounded(low).tolist()), _tuples(_rounded(high).tolist())
    plain = Embedding(*bounds, _tuples(weights.tolist()), tuple(offsets.tolist()), (), (), ())
    whitened = _whitened(plain, plain._waves(inputs[judged], outputs[judged]).astype(np.float64))
    return whitened if whitened.centres else None


def dealt(rows: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the rows that the waves are laid by, and of those that say what is normal."""
    drawn, judged = np.split(generator.permutation(rows), [round(rows * (1 - JUDGED))])
    return drawn, judged


def flatten(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return a row and its answer as one flat row of few numbers, float32 (n, places).

    Images are pooled to SIDE x SIDE blocks; of a longer vector every MOST_COLUMNS-th column is averaged with it.
    Classes beyond MOST_CLASSES are one "other". What is too large for float32, as a mean of numbers near its end may
    be, is infinite or not a number.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _flat(inputs, outputs)


def _flat(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    if outputs.shape[1] > MOST_CLASSES:
        rest = outputs[:, MOST_CLASSES - 1 :].sum(axis=1, keepdims=True)
        outputs = np.concatenate([outputs[:, : MOST_CLASSES - 1], rest], axis=1)
    if inputs.ndim > 2:
        flat = images.pooled(images.grey(inputs), SIDE)
    elif inputs.shape[1] > MOST_COLUMNS:
        groups = inputs.shape[1] // MOST_COLUMNS
        flat = inputs[:, : groups * MOST_COLUMNS].reshape(len(inputs), groups, MOST_COLUMNS).mean(axis=1)
    else:
        flat = inputs
    return np.concatenate([flat, outputs], axis=1, dtype=np.float32)


def _spread(places: np.ndarray, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    # Robust for what a client sends; probabilities are bounded, and most of them are nearly 0.
    middle = np.median(places, axis=0)
    deviation = NORMAL * typical_distance(places, middle)
    if outputs > 1:
        answers = places[:, -outputs:] if outputs <= MOST_CLASSES else places[:, -MOST_CLASSES:]
        middle[-answers.shape[1] :] = answers.mean(axis=0)
        deviation[-answers.shape[1] :] = answers.std(axis=0) + 1e-3
    return middle, deviation


def _evened(places: np.ndarray) -> np.ndarray:
    # (places, directions): turned to the axes of the cloud, each as long as the others, 1 in all.
    values, vectors = np.linalg.eigh(np.cov(places.T, ddof=0).reshape(places.shape[1], -1))
    values = values.clip(0)
    floor = EVEN * values.mean() + 1e-12
    turned: np.ndarray = vectors / np.sqrt((values + floor) * (values / (values + floor)).sum().clip(1e-6))
    return turned


def _whitened(plain: Embedding, waves: np.ndarray) -> Embedding:
    means = waves.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(waves.T).reshape(len(means), -1))
    strong = values > max(WEAK * values.max(), 1e-9)
    whitening = _rounded(vectors[:, strong] / np.sqrt(values[strong]))
    centres = np.ceil(np.abs(whitening).T @ (1 + np.abs(means)))
    return Embedding(
        plain.low, plain.high, plain.weights, plain.offsets,
        tuple(means.tolist()), _tuples(whitening.tolist()), tuple(centres.tolist()),
    )  # fmt: skip


def _rounded(values: np.ndarray) -> np.ndarray:
    # Six digits are enough, and keep the artefact small.
    magnitude = 10.0 ** (5 - np.floor(np.log10(np.abs(values), where=values != 0, out=np.zeros(values.shape))))
    rounded: np.ndarray = np.rint(values * magnitude) / magnitude
    return rounded


def _tuples(values: Any) -> Any:
    return tuple(_tuples(value) for value in values) if isinstance(values, list) else values
