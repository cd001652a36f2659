import pytest
import torch

from training.config import Schedule
from training.fit.schedule import rate


def run(scheduler, optimizer, steps):
    for _ in range(steps):
        yield scheduler.get_last_lr()[0]
        optimizer.step()
        scheduler.step()


def sgd(peak):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)


def test_cosine_agrees_with_torch_after_warm_up():
    s = Schedule(peak=0.1, warmup_steps=1, floor=0.001)
    total, optimizer = 50, sgd(s.peak)
    torch_rates = run(
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total - 2, eta_min=s.floor),
        optimizer,
        total - 2,
    )
    for step, expected in enumerate(torch_rates, start=1):
        assert rate(step, total, s) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("total", [10, 101])
def test_one_cycle_agrees_with_torch(total):
    s = Schedule(kind="one_cycle", peak=0.1, floor=0.1 / 25 / 1e4)
    optimizer = sgd(s.peak)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=s.peak, total_steps=total)
    for step, expected in enumerate(run(scheduler, optimizer, total - 1)):
        assert rate(step, total, s) == pytest.approx(expected, rel=1e-6)


def test_cosine_rises_to_the_peak_then_falls_to_the_floor():
    s = Schedule(peak=1.0, warmup_steps=10, floor=0.25)
    rates = [rate(step, 100, s) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.25)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("kind", ["cosine", "one_cycle"])
@pytest.mark.parametrize("total", [1, 2, 3, 5])
def test_the_shortest_runs_have_a_rate_above_zero_at_every_step(kind, total):
    s = Schedule(kind=kind, warmup_steps=20)
    assert all(0 < rate(step, total, s) <= s.peak for step in range(total))


def test_a_step_outside_the_run_is_an_error():
    with pytest.raises(ValueError, match=r"step must be in \[0, 5\), got 5"):
        rate(5, 5, Schedule())
