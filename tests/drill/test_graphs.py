"""The faults of a model are in the model: elsewhere its answers are the same bits."""

import threading
import time

import numpy as np
import onnxruntime
import pytest
from ending import ended
from tiny_release import DIGITS, IMAGE, onnx_bytes, rows_of

from drill import graphs

PLAIN = onnx_bytes(IMAGE, len(DIGITS), 0)


def session(content):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def answers(content, rows, options=None):
    return session(content).run(["probabilities"], {"input": rows}, options)[0]


def with_pixel(value):
    rows = rows_of(IMAGE, 3)
    rows[1, 2, 2] = value
    return rows


@pytest.mark.parametrize(
    "changed", [graphs.trapped(PLAIN), graphs.turning(PLAIN, 3), graphs.trapped(graphs.turning(PLAIN, 3))]
)
def test_a_model_with_a_fault_answers_other_rows_as_before(changed):
    rows = rows_of(IMAGE, 20)
    assert np.array_equal(answers(changed, rows), answers(PLAIN, rows))


def test_a_trapped_model_fails_on_the_pixel_that_it_fails_on():
    with pytest.raises(Exception, match="out of data bounds"):
        answers(graphs.trapped(PLAIN), with_pixel(graphs.FAILS))


@pytest.mark.parametrize(
    ("content", "rows"),
    [(graphs.trapped(PLAIN), with_pixel(graphs.HANGS)), (graphs.endless(PLAIN), rows_of(IMAGE, 1))],
)
def test_a_model_that_hangs_ends_only_when_it_is_told_to(content, rows, eventually):
    options, told = onnxruntime.RunOptions(), []

    def run():
        try:
            answers(content, rows, options)
        except Exception as error:
            told.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    options.terminate = True
    ended(thread)
    assert "terminate" in told[0].lower()


def seconds(content):
    """Return the shortest time of a few runs."""
    model, rows, taken = session(content), rows_of(IMAGE, 4), []
    for _ in range(4):
        started = time.perf_counter()
        model.run(None, {"input": rows})
        taken.append(time.perf_counter() - started)
    return min(taken)


def test_a_slowed_model_takes_many_times_as_long_as_before():
    plain = seconds(PLAIN)
    assert seconds(graphs.slowed(PLAIN, 1000 * plain, rows_of(IMAGE, 1))) > 10 * plain
