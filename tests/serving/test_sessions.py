import os
import threading
import time
from collections import Counter

import numpy as np
import onnxruntime
import pytest
from odd_release import endless_for_bright, release_with
from onnx import TensorProto, helper, numpy_helper
from tiny_release import IMAGE, rows_of, run

from serving import cores, sessions
from serving.engine import Engine, OutputSpec, Stopped
from serving.sessions import SIZES, Threads, Way

FEW, MANY = SIZES


def decided(*seconds):
    """Return the decision among ways that take so long for one row and for many."""
    ways = sessions.ways(0, 2, 1)[: len(seconds)]
    measured = {threads: dict(zip(SIZES, took, strict=False)) for threads, took in zip(ways, seconds, strict=True)}
    return sessions.decide(measured)


def test_the_fastest_way_is_chosen_if_it_is_much_faster():
    small, large, _ = decided((1e-3, 4e-3), (2e-3, 8e-3), (5e-4, 2e-3), (9e-4, 3e-3))
    assert small == large == Threads(2, "in a run")


def test_a_way_that_takes_more_of_the_machine_for_little_is_not_chosen():
    small, large, _ = decided((1.00e-3, 4.0e-3), (0.97e-3, 3.9e-3), (0.96e-3, 3.85e-3), (0.92e-3, 3.7e-3))
    assert small == large == Threads(1)


def test_runs_as_short_as_reading_a_request_leave_the_other_cores_to_the_clients():
    # 14 + 11.7 n us reach 1000 at n = 83
    assert decided((26e-6, 390e-6), (28e-6, 300e-6), (27e-6, 270e-6), (26e-6, 226e-6)) == (
        Threads(1), Threads(2, "always"), 84,
    )  # fmt: skip
    assert decided((26e-6, 390e-6), (26e-6, 190e-6)) == (Threads(2), Threads(2), 1)
    assert decided((200e-6, 450e-6), (90e-6, 300e-6)) == (Threads(2), Threads(2), 1)
    assert decided((7e-6, 13e-6), (7e-6, 9e-6)) == (Threads(1), Threads(2), 5132)


def test_of_as_many_threads_those_that_spin_run_what_they_run_faster():
    ways = sessions.ways(2, 2, 1)
    took = ((30e-6, 300e-6), (25e-6, 280e-6), (20e-6, 200e-6))
    measured = {threads: dict(zip(SIZES, seconds, strict=True)) for threads, seconds in zip(ways, took, strict=True)}
    assert sessions.decide(measured) == (Threads(2, "always"), Threads(2, "always"), 1)


def test_a_run_is_expected_to_take_what_was_measured_of_the_way_that_runs_it():
    opened = [Way(threads, None) for threads in sessions.ways(0, 2, 1)[:2]]
    measured = {Threads(1): {FEW: 26e-6, MANY: 391e-6}, Threads(2): {FEW: 28e-6, MANY: 226e-6}}
    choice = sessions.Choice(*opened, 42, measured)
    assert choice.expected_s(32) == pytest.approx(391e-6)
    assert choice.expected_s(64) == pytest.approx(28e-6 + 63 * (226e-6 - 28e-6) / 31)


def test_one_row_and_many_get_a_session_each_where_both_gain():
    # 200 + 252 (n - 1) us and 800 + 71 (n - 1) us are equal at n = 4.3
    assert decided((2e-4, 8e-3), (8e-4, 3e-3)) == (Threads(1), Threads(2), 4)


def test_a_second_session_that_gains_little_for_one_row_is_not_kept():
    assert decided((7.8e-4, 8e-3), (8e-4, 3e-3)) == (Threads(2), Threads(2), 1)


def test_what_is_much_faster_for_one_row_and_as_fast_for_many_runs_both():
    spinning = (1295e-6, 23954e-6)
    assert decided((2587e-6, 42530e-6), (2360e-6, 24443e-6), (3947e-6, 23276e-6), spinning) == (
        Threads(2, "always"), Threads(2, "always"), 1,
    )  # fmt: skip


def test_a_model_too_slow_to_be_timed_with_many_rows_is_judged_by_one():
    assert decided((0.04,), (0.02,)) == (Threads(2), Threads(2), 1)
    assert sessions.line({FEW: 0.02}) == (0.0, 0.02)


class Counted:
    """Stands where a session stands, and counts its runs by their rows."""

    def __init__(self, row_s):
        self.rows = Counter()
        self._row_s = row_s

    def run(self, outputs, feed):
        self.rows[len(feed["x"])] += 1
        if self._row_s:  # to sleep for 0 s is to give the core away for who knows how long
            time.sleep(self._row_s * len(feed["x"]))


@pytest.mark.parametrize(("row_s", "sizes"), [(0.0, {FEW, MANY}), (0.02, {FEW})])
def test_every_way_is_timed_at_the_same_sizes_and_one_row_tells_whether_many_are_affordable(row_s, sizes):
    opened = [Way(threads, Counted(row_s)) for threads in sessions.ways(0, 2, 1)]
    choice = sessions.choose(opened, "y", "x", np.zeros((8, 3), np.float32))
    assert all(set(way.session.rows) == set(choice.measured[way.threads]) == sizes for way in opened)
    assert sum(sum(way.session.rows.values()) for way in opened) <= 4 * 2 * (2 + 15 * 50)


@pytest.mark.parametrize(
    ("asked", "cores", "size_bytes", "expected"),
    [
        (0, 1, 1000, [Threads(1)]),
        (1, 8, 1000, [Threads(1)]),
        (0, 2, 1000, [Threads(1), Threads(2), Threads(2, "in a run"), Threads(2, "always")]),
        (3, 2, 1000, [Threads(3), Threads(3, "in a run"), Threads(3, "always")]),
        (0, 8, 10**9, [Threads(8, "in a run")]),
        (3, 8, 10**9, [Threads(3, "in a run")]),
    ],
)
def test_the_number_of_threads_someone_asks_for_is_kept_and_a_large_model_is_opened_once(
    asked, cores, size_bytes, expected
):
    assert sessions.ways(asked, cores, size_bytes) == expected


@pytest.mark.parametrize("spinning", ["no", "in a run", "always"])
def test_threads_spin_only_where_they_may(spinning):
    options = sessions.options(Threads(2, spinning))
    keys = ("session.intra_op.allow_spinning", "session.force_spinning_stop")
    said = [options.get_session_config_entry(key) for key in keys]
    assert said == {"no": ["0", "0"], "in a run": ["1", "1"], "always": ["1", "0"]}[spinning]


def test_an_engine_tells_how_it_runs_and_what_that_was_chosen_by(publish):
    engine = Engine(publish(), ("cpu",), threads=0)
    facts = engine.facts()
    assert (facts["provider"], facts["requested"]) == ("CPUExecutionProvider", "CPUExecutionProvider")
    assert facts["threads"] == engine.threads
    ways = 4 if len(os.sched_getaffinity(0)) > 1 else 1
    assert len(facts["measured_us_by_rows"]) == ways
    assert all(set(took) == {"1", "32"} for took in facts["measured_us_by_rows"].values())


def test_processes_that_share_the_cores_get_a_share_of_the_threads(publish, monkeypatch):
    monkeypatch.setattr(cores, "available", lambda: 4)
    for workers, most in ((1, 4), (2, 2), (3, 1), (9, 1)):
        measured = Engine(publish(seed=workers), ("cpu",), 0, None, workers).facts()["measured_us_by_rows"]
        assert max(int(way.split()[0]) for way in measured) == most


def test_every_way_to_run_gives_the_same_answers(publish):
    made, rows = publish(), rows_of(IMAGE, 40)
    expected = run(made.read("model.onnx"), rows, "probabilities")
    for threads in (0, 1, 2):
        engine = Engine(made, ("cpu",), threads)
        for size in (1, 2, 31, 32, 33, 40):
            np.testing.assert_allclose(engine.run(rows[:size])[0], expected[:size], rtol=0, atol=1e-6)


def test_any_output_of_the_graph_can_be_asked_for_in_any_order(publish):
    made, rows = publish(), rows_of(IMAGE, 5)
    engine = Engine(made, ("cpu",), threads=1)
    assert engine.outputs == {
        "probabilities": OutputSpec("float32", (10,)),
        "logits": OutputSpec("float32", (10,)),
    }
    logits, probabilities = engine.run(rows, ("logits", "probabilities"))
    np.testing.assert_array_equal(probabilities, engine.run(rows)[0])
    np.testing.assert_array_equal(logits, run(made.read("model.onnx"), rows, "logits"))


def more_outputs(graph):
    graph.initializer.append(numpy_helper.from_array(np.ones(64, np.float32), "fixed"))
    graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), "two"))
    graph.node.extend([
        helper.make_node("Identity", ["fixed"], ["constant"]),
        helper.make_node("TopK", ["logits", "two"], ["best", "which"]),
        helper.make_node("ReduceMax", ["logits"], ["highest"], keepdims=0),
    ])  # fmt: skip
    for name, kind, shape in (("constant", TensorProto.FLOAT, [64]), ("which", TensorProto.INT64, ["batch", None]),
                              ("highest", TensorProto.FLOAT, [])):  # fmt: skip
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))


def test_an_output_that_has_no_row_per_row_is_not_offered(tmp_path):
    engine = Engine(release_with(tmp_path, more_outputs), ("cpu",), threads=1)
    assert list(engine.outputs) == ["probabilities", "logits", "which"]
    assert engine.outputs["which"] == OutputSpec("int64", (2,))


def test_a_run_without_end_is_stopped_from_another_thread(tmp_path):

    engine = Engine(release_with(tmp_path, endless_for_bright), ("cpu",), threads=1)
    endless = np.full((3, 8, 8), 255, np.uint8)
    options = onnxruntime.RunOptions()
    stop = threading.Timer(0.1, lambda: setattr(options, "terminate", True))
    stop.start()
    with pytest.raises(Stopped, match="a run of 3 rows was stopped"):
        engine.run(endless, (), options)
    stop.join()
    assert engine.run(rows_of(IMAGE, 3))[0].shape == (3, 10)


def test_a_run_that_fails_by_itself_is_no_stopped_run(publish):

    engine = Engine(publish(), ("cpu",), threads=1)
    for options in (None, onnxruntime.RunOptions()):
        with pytest.raises(Exception, match="INVALID_ARGUMENT") as caught:
            engine.run(np.zeros((1, 9, 9), np.uint8), (), options)
        assert not isinstance(caught.value, Stopped)
