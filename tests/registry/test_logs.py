import io
import json
import logging
import time

import pytest

from registry import logs


@pytest.fixture
def lines():
    """Return a function that gives a logger with a limit, and the lines it wrote, as JSON."""
    stream, logger = io.StringIO(), logging.getLogger("registry.test")

    def limited(most_per_s):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logs.Lines(as_json=True))
        handler.addFilter(logs.Fewer(most_per_s))
        logger.handlers, logger.propagate = [handler], False
        return logger, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]

    yield limited
    logger.handlers, logger.propagate = [], True


def at(logger, second, event, count):
    for k in range(count):
        record = logger.makeRecord(logger.name, logging.ERROR, "", 0, event, (), None, extra={"request_id": str(k)})
        record.created = second + 0.001 * k
        logger.handle(record)


def test_a_flood_of_one_event_leaves_ten_lines_a_second_and_the_count_of_the_rest(lines):
    logger, written = lines(10)
    at(logger, 100, "request_failed", 1000)
    at(logger, 101, "request_failed", 500)
    at(logger, 109, "request_failed", 1)
    assert len(written()) == 21
    assert [line.get("suppressed") for line in written()] == [None] * 10 + [990] + [None] * 9 + [490]


def test_a_flood_of_one_event_does_not_hide_another(lines):
    logger, written = lines(3)
    at(logger, 100, "request_failed", 1000)
    at(logger, 100, "release_refused", 1)
    assert [line["event"] for line in written()][-1] == "release_refused"


def test_events_that_are_not_constant_are_not_remembered_for_ever(lines):
    logger, written = lines(3)
    for k in range(3 * logs.MOST_EVENTS):
        at(logger, 100 + k, f"event {k}", 1)
    assert len(logger.handlers[0].filters[0]._seen) <= logs.MOST_EVENTS
    assert len(written()) == 3 * logs.MOST_EVENTS


def test_real_floods_are_limited_too(lines):
    logger, written = lines(10)
    begun = time.time()
    for _ in range(2000):
        logger.error("request_failed")
    assert len(written()) <= 10 * (int(time.time()) - int(begun) + 1)
