import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.judge import slices

generator = np.random.default_rng(0)
ROWS = 600
SITE = np.array(["north", "south", "east"])[np.arange(ROWS) % 3]
RIGHT = generator.random(ROWS) < np.where(SITE == "east", 0.6, 0.9)
JUDGED = slices.Judged(RIGHT, generator.random(ROWS), "accuracy", "log_loss")


def found(columns, judged=JUDGED):
    return slices.measure(columns, judged)


def test_each_slice_has_the_metrics_of_its_own_rows():
    entries = {entry["value"]: entry for entry in found({"site": SITE})["site"]}
    assert entries.keys() == {"north", "south", "east"}
    for name, entry in entries.items():
        inside = name == SITE
        interval = stats.binomtest(int(RIGHT[inside].sum()), 200).proportion_ci(0.95, method="wilson")
        assert entry["rows"] == 200
        assert list(entry["accuracy"].values()) == pytest.approx([RIGHT[inside].mean(), interval.low, interval.high])
        assert entry["log_loss"]["value"] == pytest.approx(JUDGED.cost[inside].mean())
        assert entry["log_loss"]["lower"] < entry["log_loss"]["value"] < entry["log_loss"]["upper"]


def test_only_a_slice_that_is_surely_worse_or_better_differs():
    entries = {entry["value"]: entry for entry in found({"site": SITE})["site"]}
    assert entries["east"]["differs"]
    even = slices.Judged(generator.random(ROWS) < 0.8, JUDGED.cost, "accuracy", "log_loss")
    assert not any(entry["differs"] for entry in found({"site": SITE}, even)["site"])


def test_a_slice_that_resamples_often_miss_is_not_called_free_of_cost():
    column = np.where(np.arange(ROWS) < 3, "rare", "usual")
    rare = next(entry for entry in found({"kind": column})["kind"] if entry["value"] == "rare")
    assert rare["log_loss"]["lower"] > 0.99 * JUDGED.cost[:3].min()
    assert rare["log_loss"]["upper"] < 1.01 * JUDGED.cost[:3].max()


def test_chance_alone_rarely_makes_any_of_many_slices_differ():
    alarms = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        names = draw.integers(0, 20, 400).astype(str)
        judged = slices.Judged(draw.random(400) < 0.8, draw.random(400), "accuracy", "log_loss")
        columns = found({"a": names, "b": draw.permutation(names)}, judged)
        alarms += any(entry["differs"] for entries in columns.values() for entry in entries)
    assert alarms <= 5  # at most 5 % of 40 is 2; more than 5 happen once in 70 times


@given(st.lists(st.floats(0, 1), max_size=30))
def test_the_adjustment_rejects_exactly_what_the_steps_of_holm_reject(p):
    rejected, m = set(), len(p)
    for step, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] * (m - step) >= 0.05:
            break
        rejected.add(int(i))
    assert {i for i, value in enumerate(slices.holm(p)) if value < 0.05} == rejected


def test_names_with_numbers_stand_in_their_order_and_others_by_their_rows():
    bins = ["54 to 72.5", "(empty)", "below 36", "72.5 and more", "36 to 54", "(empty)", "below -1e+06"]
    ordered = ["below -1e+06", "below 36", "36 to 54", "54 to 72.5", "72.5 and more", "(empty)"]
    index, names = slices.groups(np.array(bins))
    assert names == ordered
    assert [names[i] for i in index] == bins
    assert slices.groups(np.array(["a", "b", "c", "b", "b", "c"]))[1] == ["b", "c", "a"]


def test_beyond_the_most_frequent_values_all_others_are_one_slice():
    values = np.concatenate([np.repeat([f"v{i}" for i in range(20)], 5), [f"rare{i}" for i in range(30)]])
    index, names = slices.groups(values)
    assert len(names) == 21
    assert names[-1] == "all others"
    assert (index == 20).sum() == 30


def test_a_column_that_is_all_one_value_has_nothing_to_differ_from():
    (entry,) = found({"site": np.full(ROWS, "here")})["site"]
    assert (entry["rows"], entry["p"], entry["differs"]) == (ROWS, 1.0, False)


def test_the_weakest_slice_is_the_lowest_among_those_with_enough_rows():
    names = SITE.copy()
    names[np.flatnonzero(~RIGHT)[:5]] = "tiny"
    column, entry = slices.weakest(found({"site": names}), "accuracy")
    assert (column, entry["value"]) == ("site", "east")
    assert slices.weakest({}, "accuracy") is None
