import pytest

from monitoring.backtest.firing import Alert, Held, Watched

ALERT = Alert("VigilDataDrift", "warning", "m", "v", 10, "signals moved")


def fired(*steps, end, alert=ALERT):
    watched = Watched(alert)
    for at_s, value in steps:
        watched.step(float(at_s), None if value is None else Held(value))
    return [(one.since_s, one.from_s, one.to_s, one.value) for one in watched.finish(float(end))]


@pytest.mark.parametrize(
    ("steps", "end", "found"),
    [
        ([(0, 1), (30, None)], 40, [(0, 10, 30, 1)]),
        ([(0, 1), (10, None)], 40, []),  # over at the evaluation at which it would have fired
        ([(0, 1), (5, None), (6, 1), (15, None)], 40, []),  # an interruption begins the waiting anew
        ([(0, 1), (5, None), (6, 1), (17, None)], 40, [(6, 16, 17, 1)]),
        ([(0, 1)], 9, []),
        ([(0, 1)], 10, [(0, 10, None, 1)]),
        ([(0, 1), (30, None), (50, 2), (70, None)], 80, [(0, 10, 30, 1), (50, 60, 70, 2)]),
        ([(0, None)], 80, []),
    ],
)
def test_an_alert_fires_when_its_condition_has_held_for_as_long_as_it_waits(steps, end, found):
    assert fired(*steps, end=end) == found


def test_the_worst_value_is_told_which_is_the_smallest_where_a_small_one_is_bad():
    steps = [(0, 0.8), (5, 0.6), (9, 0.7), (30, None)]
    assert fired(*steps, end=40)[0][3] == 0.8
    assert (
        fired(*steps, end=40, alert=Alert("VigilQualityUnderFloor", "critical", "m", "v", 10, "x", low=True))[0][3]
        == 0.6
    )


def test_the_three_signals_that_moved_furthest_are_told_with_their_largest_z():
    watched = Watched(ALERT)
    watched.step(0.0, Held(2, {"a": 5.0, "b": 9.0}))
    watched.step(3.0, Held(4, {"a": 7.0, "c": 6.0, "d": 8.0}))
    (one,) = watched.finish(20.0)
    assert one.signals == (("b", 9.0), ("d", 8.0), ("a", 7.0))
