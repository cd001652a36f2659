"""Staying awake after an answer: seen by whether the loop has something to call soon."""

import asyncio
import time

from serving.busy_poll import QUICK_S, BusyPoll


async def turns_awake(busy_poll: BusyPoll, gap_s: float) -> int:
    """Return how many turns of the loop pass within 50 ms once a request was answered that came after `gap_s`."""
    busy_poll.answered()
    busy_poll.arrived(time.perf_counter() + gap_s)
    turns, until = 0, time.perf_counter() + 0.05
    busy_poll.answered()
    loop = asyncio.get_running_loop()
    while busy_poll._until > time.perf_counter() and time.perf_counter() < until:
        turns += 1
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned
    return turns


def test_after_a_quick_request_the_loop_stays_awake_and_then_sleeps():
    busy_poll = BusyPoll(longest_s=0.01)
    assert asyncio.run(turns_awake(busy_poll, gap_s=0.0)) > 1
    assert time.perf_counter() > busy_poll._until


def test_after_a_slow_request_or_when_it_is_off_the_loop_sleeps_at_once():
    assert asyncio.run(turns_awake(BusyPoll(longest_s=0.01), gap_s=2 * QUICK_S)) == 0
    assert asyncio.run(turns_awake(BusyPoll(longest_s=0.0), gap_s=0.0)) == 0


def test_a_request_that_comes_ends_the_wait():
    async def interrupted() -> list[float]:
        busy_poll = BusyPoll(longest_s=5.0)
        busy_poll.arrived(time.perf_counter())
        busy_poll.answered()
        busy_poll.arrived(time.perf_counter())
        begun = time.perf_counter()
        await asyncio.sleep(0.01)
        return [busy_poll._until, time.perf_counter() - begun]

    until, _ = asyncio.run(interrupted())
    assert until == 0.0
