"""The network of the export tests, exported once per module."""

import pytest
from tiny_export import ASKED, FACTS, build

from training.export import export


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model and the file exported from it."""
    model, path = build(), tmp_path_factory.mktemp("good") / "model.onnx"
    export.export(model, ASKED, path, FACTS)
    return model, path


@pytest.fixture(scope="module")
def large(good):
    """The same model with its weights in a file of their own, as one of more than 2 GiB has them."""
    path = good[1].parent / "large" / "model.onnx"
    path.parent.mkdir()
    export.export(good[0], ASKED, path, FACTS, most_inside=2000)
    return path
