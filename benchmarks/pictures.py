"""The images that drift is measured on: MNIST and Fashion-MNIST where they lie, scikit-learn's digits otherwise.

Rows are dealt at random into those the classifier learns from and those it never sees. The test set that MNIST
comes with will not do as clean traffic: other people wrote it, and that is drift.
"""

import gzip
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.shifts import CLEAN, Classifier, looks
from monitoring.shift.support import Support

MNIST = Path(os.environ.get("VIGIL_MNIST", "mnist.npz"))
FASHION = Path(os.environ.get("VIGIL_FASHION", "/usr/share/datasets/fashion-mnist"))  # as Debian installs it
MOST_UNSEEN = 20_000
EPOCHS = 10


@dataclass(frozen=True)
class Pictures:
    """Rows a classifier never saw, in every look, with what it answers; and where it has learned.

    labels: (n,). images, answers: by look, (n, height, width) and float32 (n, classes).
    """

    name: str
    labels: np.ndarray
    images: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]
    seen: Support
    accuracy: float


def found(mnist: Path = MNIST, fashion: Path = FASHION) -> list[Pictures]:
    """Return the data sets that are there, never none."""
    sets = []
    if mnist.exists():
        with np.load(mnist) as said:
            parts = [np.concatenate([said[f"{kind}_train"], said[f"{kind}_test"]]) for kind in "xy"]
        sets.append(prepare("mnist", *parts))
    if fashion.exists():
        sets.append(prepare("fashion_mnist", *_idx(fashion)))
    return sets or [digits()]


def digits() -> Pictures:
    """Return scikit-learn's digits, 8 x 8."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return prepare("digits", loaded.images.astype(np.uint8), loaded.target, epochs=60, learned=0.3)


def prepare(name: str, images: np.ndarray, labels: np.ndarray, epochs: int = EPOCHS, learned: float = 0.7) -> Pictures:
    """Return pictures from images uint8 (n, height, width); learned: the share that the classifier learns from."""
    order = np.random.default_rng(0).permutation(len(images))
    cut = max(round(len(images) * learned), len(images) - MOST_UNSEEN)
    train, rest = order[:cut], order[cut:]
    classifier = Classifier(int(labels.max()) + 1).fit(images[train], labels[train], epochs)
    shown = looks(images[rest], labels[rest], classifier)
    answers = {look: classifier.probabilities(x) for look, x in shown.items()}
    accuracy = float((answers[CLEAN].argmax(axis=1) == labels[rest]).mean())
    return Pictures(name, labels[rest], shown, answers, Support.of(images[train]), round(accuracy, 4))


def _idx(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = [], []
    for part in ("train", "t10k"):
        content = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
        size = tuple(np.frombuffer(content, ">u4", 3, 4).tolist())
        images.append(np.frombuffer(content, np.uint8, offset=16).reshape(size))
        content = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        labels.append(np.frombuffer(content, np.uint8, offset=8))
    return np.concatenate(images), np.concatenate(labels).astype(np.int64)
