import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.fit.average import Average


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


def test_the_average_is_that_of_torch_once_warm_with_the_statistics_of_batch_norm():
    model = network()
    ours = Average(model, 0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(model)  # torch takes its first call as the start
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    for step in range(100, 120):  # from here on the decay is 0.9
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        ours.update(model, step)
        theirs.update_parameters(model)
    for got, want in zip(ours.model.state_dict().values(), theirs.module.state_dict().values(), strict=True):
        if got.is_floating_point():  # torch averages the counters, too
            assert torch.allclose(got, want, atol=1e-6)
    assert int(ours.model[1].num_batches_tracked) == 20


@pytest.mark.parametrize(("step", "decay"), [(1, 2 / 11), (8, 0.5), (1000, 0.9)])
def test_the_decay_starts_low_and_ends_as_asked(step, decay):
    model = network()
    ours = Average(model, 0.9)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        before = ours.model[0].weight.clone()
    ours.update(model, step)
    assert torch.allclose(ours.model[0].weight, decay * before + (1 - decay), atol=1e-6)


def test_the_averaged_model_is_in_evaluation_mode_and_is_not_trained():
    ours = Average(network().train(), 0.9).model
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())
