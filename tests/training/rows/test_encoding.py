import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from registry.release import InputSpec
from training.config import Augment
from training.export import export
from training.fit import augment, models
from training.rows import encoding
from training.rows.data import moments

generator = np.random.default_rng(0)
ROWS = np.column_stack(
    [generator.normal(7, 2, 40), generator.integers(0, 3, 40), generator.normal(0, 1, 40), generator.integers(0, 2, 40)]
).astype(np.float32)
SPEC = InputSpec("float32", (4,), ("size", "town", "age", "sex"), {"sex": ("f", "m"), "town": ("Bern", "Genf", "Chur")})


def test_a_table_is_encoded_as_scikit_learn_does_each_column_in_its_place():
    encoder = encoding.Encoder(moments(ROWS), SPEC)
    standard = StandardScaler().fit_transform(ROWS[:, [0, 2]])
    town, sex = (OneHotEncoder(sparse_output=False).fit_transform(ROWS[:, [c]]) for c in (1, 3))
    expected = np.column_stack([standard[:, :1], town, standard[:, 1:], sex])
    assert encoding.flat(encoder, ROWS) == pytest.approx(expected, abs=1e-5)
    assert encoding.shape(SPEC) == (7,) == expected.shape[1:]


def test_without_categories_a_row_keeps_its_shape():
    assert encoding.shape(InputSpec("float32", (2,), ("a", "b"))) == (2,)
    assert encoding.shape(InputSpec("uint8", (9, 7, 3))) == (9, 7, 3)
    image = generator.integers(0, 255, (2, 9, 7, 3), dtype=np.uint8)
    assert encoding.Encoder(moments(image))(torch.from_numpy(image)).shape == (2, 3, 9, 7)


def test_noise_never_changes_a_category_and_a_masked_one_is_none_of_them():
    encoder = encoding.Encoder(moments(ROWS), SPEC)
    keyed = augment.Keyed(0, 0, np.arange(40))
    noisy = augment.rows(ROWS, keyed, Augment(noise=0.5), encoder.augmentable())
    assert np.array_equal(noisy[:, [1, 3]], ROWS[:, [1, 3]])
    assert not np.array_equal(noisy[:, 0], ROWS[:, 0])
    masked = augment.rows(ROWS, keyed, Augment(mask_share=0.5), encoder.augmentable())
    hidden = masked[:, 1] != ROWS[:, 1]
    towns = encoding.flat(encoder, masked)[:, 1:4]
    assert 0 < hidden.sum() < 40
    assert np.array_equal(towns.sum(axis=1), (~hidden).astype(np.float32))


def test_the_exported_graph_encodes_to_the_same_numbers(tmp_path):
    model = models.Classifier(torch.nn.Identity(), moments(ROWS), SPEC)  # the logits are the encoded row
    file = tmp_path / "model.onnx"
    export.export(model, export.Asked(SPEC, tuple("abcdefg")), file, {})
    _, logits = export.run(export.session_of(file.read_bytes()), ROWS, 7)
    assert logits == pytest.approx(encoding.flat(model.encoder, ROWS), abs=1e-6)
