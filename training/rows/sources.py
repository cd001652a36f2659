"""Where rows come from: data sets that scikit-learn ships, NPZ, CSV, Parquet, image folders."""

import zipfile
from pathlib import Path

import numpy as np

from registry.errors import DataError
from training.config import Data
from training.rows import images, tabular
from training.rows.raw import Raw


def read(data: Data, folder: Path, task: str) -> Raw:
    """Return what `data` names, unchecked; a relative path starts at `folder`. Raises DataError."""
    if data.source == "digits":
        return _digits()
    if data.source == "breast_cancer":
        return _breast_cancer()
    path = folder / data.path
    if data.source == "images":
        return images.read(path, data)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; a path in the TOML file starts at its folder, one after --data at yours"
        )
    return _npz(path) if data.source == "npz" else tabular.read(path, data, task)


def _digits() -> Raw:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Raw("digits", bunch.images.astype(np.uint8), bunch.target, classes=tuple("0123456789"))


def _breast_cancer() -> Raw:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    names = tuple(name.replace(" ", "_") for name in bunch.feature_names)
    return Raw("breast_cancer", bunch.data, bunch.target, names, tuple(bunch.target_names))


def _npz(path: Path) -> Raw:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path}: not an NPZ file of plain arrays: {error}; np.savez(path, x=..., y=...)") from error
    names, classes = (tuple(map(str, found.get(key, ()))) for key in ("names", "classes"))
    if {"x_train", "y_train", "x_test", "y_test"} <= found.keys():
        try:
            x, y = (np.concatenate([found[f"{part}_train"], found[f"{part}_test"]]) for part in "xy")
        except ValueError as error:
            raise DataError(f"{path}: x_train and x_test, or y_train and y_test, do not fit: {error}") from error
        given_test = np.arange(len(x)) >= len(found["x_train"])
        return Raw(str(path), x, y, names, classes, given_test=given_test)
    if missing := [name for name in ("x", "y") if name not in found]:
        raise DataError(
            f"{path}: no array {' and '.join(missing)}; found {', '.join(found)}; accepted are x and y, "
            "or x_train, y_train, x_test and y_test"
        )
    return Raw(str(path), found["x"], found["y"], names, classes)
