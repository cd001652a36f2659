"""The ten shift families of "Failing Loudly" (Rabanser, Guennemann, Lipton 2019), for images of one grey channel.

A family changes what the rows look like, which classes they come from, or both, to a share of 10, 50 or 100 %.
The changed looks are computed once for all rows (`looks`); a window then draws its rows from them (`draw`).
"""

from dataclasses import dataclass

import numpy as np

SHARES = (0.1, 0.5, 1.0)
CLEAN = "clean"
NOISE = {"noise_small": 1.0, "noise_medium": 10.0, "noise_large": 100.0}  # standard deviation, of 255
EPSILON = 0.1  # of the range of a pixel: how far an attack may move one


@dataclass(frozen=True)
class Warp:
    """How far an image is moved at most: degrees, and shares of its size."""

    rotate: float
    move: float
    shear: float
    zoom: float
    flip_x: bool = False
    flip_y: bool = False


WARPS = {
    "image_small": Warp(10, 0.05, 0.1, 0.1),
    "image_medium": Warp(40, 0.2, 0.2, 0.2, flip_x=True),
    "image_large": Warp(90, 0.4, 0.3, 0.4, flip_x=True, flip_y=True),
}


@dataclass(frozen=True)
class Family:
    """One kind of shift.

    look: of the rows that change. look_share: which share of the rows changes; None takes that of the family.
    knock_out: class 0 loses its share of rows. only_first: all rows are of class 0.
    """

    name: str
    look: str = CLEAN
    look_share: float | None = None
    knock_out: bool = False
    only_first: bool = False


FAMILIES = (
    *(Family(name, name) for name in (*NOISE, *WARPS)),
    Family("knock_out", knock_out=True),
    Family("adversarial", "adversarial"),
    Family("image_medium_knock_out", "image_medium", 0.5, knock_out=True),
    Family("only_first_image_medium", "image_medium", only_first=True),
)


class Classifier:
    """A softmax classifier with one hidden layer, in numpy: enough to answer, and to be attacked."""

    def __init__(self, classes: int, hidden: int = 128, seed: int = 0) -> None:
        self._classes = classes
        self._hidden = hidden
        self._generator = np.random.default_rng(seed)
        self._scale = 1.0
        self._weights: list[np.ndarray] = []

    def fit(self, images: np.ndarray, labels: np.ndarray, epochs: int = 10, batch: int = 128) -> "Classifier":
        """Learn from images (n, ...) and class indices (n,) with Adam (Kingma and Ba 2015); return itself."""
        self._scale = 1 / float(images.max())
        x = self._flat(images)
        sizes = ((x.shape[1], self._hidden), (self._hidden,), (self._hidden, self._classes), (self._classes,))
        self._weights = [self._initial(size) for size in sizes]
        first, second = ([np.zeros_like(w) for w in self._weights] for _ in range(2))
        steps = epochs * -(-len(x) // batch)
        step = 0
        for _ in range(epochs):
            order = self._generator.permutation(len(x))
            for start in range(0, len(x), batch):
                chosen, step = order[start : start + batch], step + 1
                rate = 2e-3 * 0.5 * (1 + np.cos(np.pi * step / steps))
                for w, g, m, v in zip(
                    self._weights, self._gradients(x[chosen], labels[chosen]), first, second, strict=True
                ):
                    m += 0.1 * (g - m)
                    v += 0.001 * (g * g - v)
                    w -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        return self

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the class probabilities, float32 (n, classes)."""
        return self._forward(self._flat(images))[1]

    def attacked(self, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return the images moved by EPSILON along the sign of the loss's gradient (Goodfellow et al. 2015)."""
        x = self._flat(images)
        error, hidden = self._error(x, labels)
        towards = np.sign((error @ self._weights[2].T * (hidden > 0)) @ self._weights[0].T)
        moved = np.clip(x + EPSILON * towards, 0, 1) / self._scale
        return np.rint(moved).astype(images.dtype).reshape(images.shape)

    def _flat(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32) * np.float32(self._scale)

    def _initial(self, size: tuple[int, ...]) -> np.ndarray:
        spread = np.sqrt(2 / size[0]) if len(size) > 1 else 0.0
        return (self._generator.standard_normal(size) * spread).astype(np.float32)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w, b, v, c = self._weights
        hidden = np.maximum(x @ w + b, 0)
        logits = hidden @ v + c
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        return hidden, grown / grown.sum(axis=1, keepdims=True)

    def _error(self, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hidden, error = self._forward(x)
        error[np.arange(len(x)), labels] -= 1
        return error, hidden

    def _gradients(self, x: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
        error, hidden = self._error(x, labels)
        error /= len(x)
        back = error @ self._weights[2].T * (hidden > 0)
        return [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]


def looks(images: np.ndarray, labels: np.ndarray, classifier: Classifier, seed: int = 0) -> dict[str, np.ndarray]:
    """Return every image (n, height, width) in each look, `CLEAN` among them; the range of a pixel is that of all."""
    generator = np.random.default_rng(seed)
    top = float(images.max())
    found = {CLEAN: images}
    for name, deviation in NOISE.items():
        noisy = images + generator.standard_normal(images.shape, dtype=np.float32) * np.float32(deviation / 255 * top)
        found[name] = np.rint(np.clip(noisy, 0, top)).astype(images.dtype)
    for name, warp in WARPS.items():
        found[name] = warped(images, warp, generator)
    found["adversarial"] = classifier.attacked(images, labels)
    return found


def warped(images: np.ndarray, warp: Warp, generator: np.random.Generator) -> np.ndarray:
    """Return images (n, height, width), each moved by as much as `warp` allows; bilinear, edges go on outside."""
    count, height, width = images.shape
    matrix, move = _transforms(warp, count, (height, width), generator)
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    place = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).reshape(-1, 2) - middle
    result = np.empty_like(images)
    for part in np.array_split(np.arange(count), -(-count // 1000)):  # bounded memory
        source = np.einsum("pj,nij->npi", place, matrix[part]) + (middle + move[part])[:, None]
        result[part] = _bilinear(images[part], source).reshape(-1, height, width)
    return result


def draw(
    family: Family, share: float, labels: np.ndarray, rows: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a window as indices: those that keep their look, and those in the look of the family."""
    eligible = np.arange(len(labels))
    if family.only_first:
        eligible = np.flatnonzero(labels == 0)
    elif family.knock_out:
        first = np.flatnonzero(labels == 0)
        gone = generator.choice(first, round(len(first) * share), replace=False)
        eligible = np.setdiff1d(eligible, gone, assume_unique=True)
    chosen = generator.choice(eligible, rows, replace=rows > len(eligible))
    if family.look == CLEAN:
        return chosen, chosen[:0]
    moved = round(rows * (share if family.look_share is None else family.look_share))
    return chosen[moved:], chosen[:moved]


def _transforms(
    warp: Warp, count: int, size: tuple[int, int], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    # From a place in the new image to the one it shows, both from the middle: (count, 2, 2) and (count, 2).
    def any_of(most: float) -> np.ndarray:
        return generator.uniform(-most, most, count)

    turn, slant = np.radians(any_of(warp.rotate)), any_of(warp.shear)
    rotated = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]).transpose(2, 0, 1)
    sheared = np.tile(np.eye(2), (count, 1, 1))
    sheared[:, 0, 1] = slant
    scale = 1 + np.stack([any_of(warp.zoom), any_of(warp.zoom)], axis=1)
    for axis, flips in ((0, warp.flip_y), (1, warp.flip_x)):
        scale[:, axis] *= np.where(flips & (generator.random(count) < 0.5), -1, 1)
    move = np.stack([any_of(warp.move) * size[0], any_of(warp.move) * size[1]], axis=1)
    return rotated @ sheared * scale[:, None, :], move


def _bilinear(images: np.ndarray, source: np.ndarray) -> np.ndarray:
    # images (n, height, width), source (n, places, 2) -> values (n, places), in the type of the images.
    edge = np.array(images.shape[1:]) - 1
    source = source.clip(0, edge)
    low = np.minimum(source.astype(np.int64), edge - 1)
    part = source - low
    row = np.arange(len(images))[:, None]
    y, x = low[..., 0], low[..., 1]
    top = images[row, y, x] * (1 - part[..., 1]) + images[row, y, x + 1] * part[..., 1]
    bottom = images[row, y + 1, x] * (1 - part[..., 1]) + images[row, y + 1, x + 1] * part[..., 1]
    values: np.ndarray = top * (1 - part[..., 0]) + bottom * part[..., 0]
    return (np.rint(values) if images.dtype.kind in "ui" else values).astype(images.dtype)
