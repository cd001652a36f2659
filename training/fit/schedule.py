"""Learning rate as a pure function of the step, so that it needs no state to resume."""

import math

from training.config import Schedule

RISING_SHARE = 0.3  # of a one-cycle run; with START, the defaults of torch.optim.lr_scheduler.OneCycleLR
START = 1 / 25


def rate(step: int, total_steps: int, s: Schedule) -> float:
    """Return the learning rate for optimizer step `step`, 0 <= step < total_steps.

    cosine: linear from near 0 to `s.peak` over `s.warmup_steps`, then half a cosine down to `s.floor`
    at the last step. Source: Loshchilov & Hutter 2017, "SGDR", eq. 5, without restarts.
    one_cycle: half a cosine from `s.peak` / 25 up to `s.peak` over 30 % of the run, then half a cosine
    down to `s.floor`. Source: Smith & Topin 2018, "Super-convergence".
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step must be in [0, {total_steps}), got {step}")
    if s.kind == "one_cycle":
        top = max(1.0, RISING_SHARE * total_steps - 1)
        if step < top:
            return _half_cosine(s.peak * START, s.peak, step / top)
        return _half_cosine(s.peak, s.floor, (step - top) / max(1.0, total_steps - 1 - top))
    if step < s.warmup_steps:
        return s.peak * (step + 1) / s.warmup_steps
    return _half_cosine(s.peak, s.floor, (step - s.warmup_steps) / max(1, total_steps - 1 - s.warmup_steps))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))
