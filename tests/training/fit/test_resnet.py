import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from registry.errors import ConfigError
from registry.release import InputSpec
from training.config import Model
from training.export import export
from training.export.certificate import Limit, certify
from training.fit import models
from training.fit.resnet import Stage, resnet
from training.rows.data import moments

SMALL = Model("resnet", width=4, depth=1, dropout=0.1)


@pytest.mark.parametrize(
    ("shape", "stages", "last"),
    [((1, 8, 8), 3, 1), ((1, 28, 28), 3, 3), ((3, 32, 32), 3, 4), ((3, 64, 80), 3, 4), ((3, 96, 96), 3, 6)]
    + [((3, 224, 224), 3, 7), ((2, 300, 280), 4, 4)],
)
def test_images_of_any_size_become_logits_from_a_few_pixels_of_the_last_stage(shape, stages, last):
    seen = []
    network = resnet(shape, 5, SMALL)
    network[-2].register_forward_hook(lambda _, __, out: seen.append(min(out.shape[2:])))
    assert network.eval()(torch.randn(2, *shape)).shape == (2, 5)
    assert sum(isinstance(layer, Stage) for layer in network) == stages
    assert seen == [last]


def test_a_stage_adds_its_branch_to_the_pooled_image():
    torch.manual_seed(0)
    stage, x = Stage(3, 4, 2).double().eval(), torch.randn(2, 3, 7, 6, dtype=torch.float64)
    kernels = [module.weight for module in stage.modules() if isinstance(module, torch.nn.Conv2d)]
    normal = 1 / np.sqrt(1 + 1e-5)  # a fresh norm only divides by the root of 1 + eps
    halved = functional.max_pool2d(functional.conv2d(x, kernels[0], padding=1) * normal, 2).relu()
    branch = halved
    for kernel in kernels[1:]:
        branch = functional.relu(functional.conv2d(branch, kernel, padding=1) * normal)
    assert len(kernels) == 3
    assert torch.allclose(stage(x), halved + branch, atol=1e-12)


def test_signals_keep_their_size_through_a_fresh_network():
    torch.manual_seed(0)
    network = resnet((3, 32, 32), 10, Model("resnet", width=16, depth=1, dropout=0.0)).train()
    x = torch.randn(64, 3, 32, 32, requires_grad=True)
    logits = network(x)
    assert 0.02 < float(logits.detach().std()) < 2
    functional.cross_entropy(logits, torch.arange(64) % 10).backward()
    sizes = [float(p.grad.std() / p.detach().std()) for p in network.parameters() if p.ndim == 4]
    assert max(sizes) / min(sizes) < 100


def test_the_exported_network_agrees_and_holds_no_batch_norm(tmp_path):
    shape = (32, 32, 3)
    rows = np.random.default_rng(0).integers(0, 256, (40, *shape), dtype=np.uint8)
    torch.manual_seed(0)
    model = models.Classifier(models.build(SMALL, shape, 3, tmp_path), moments(rows))
    for _ in range(3):  # so that the running statistics are not those of a fresh layer
        model.train()(torch.from_numpy(rows))
    path = tmp_path / "model.onnx"
    asked = export.Asked(InputSpec("uint8", shape), ("a", "b", "c"))
    export.export(model, asked, path, {})
    assert certify(model, asked, path, rows, Limit(1e-4))["max_difference"] < 1e-4
    assert not {"BatchNormalization", "Dropout"} & {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5,), "resnet needs images, the rows are vectors"),
        ((1, 7, 9), "needs images of 8x8 pixels or more, the rows have 7x9"),
    ],
)
def test_rows_that_are_no_images_or_too_small_are_refused(shape, message):
    with pytest.raises(ConfigError, match=message):
        resnet(shape, 3, SMALL)
