"""Dates with a time of day, as spreadsheets and people write them."""

from datetime import UTC, datetime

import pytest

from training.rows import dates

AFTERNOON = datetime(2025, 5, 31, 13, 5, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("cell", "form"),
    [
        ("2025-05-31T13:05", "YYYY-MM-DD"), ("2025-05-31 13:05:00", "YYYY-MM-DD"),
        ("2025-05-31T15:05:00+02:00", "YYYY-MM-DD"), ("20250531T130500Z", "YYYY-MM-DD"),
        ("31.5.2025 13:05", "DD.MM.YYYY"), ("31.05.2025, 13:05", "DD.MM.YYYY"), ("31.5.2025T13:05Z", "DD.MM.YYYY"),
        ("31/5/2025 13:05:00.0", "DD/MM/YYYY"), ("5/31/2025 1:05 PM", "MM/DD/YYYY"),
        ("05/31/2025 01:05pm", "MM/DD/YYYY"),
    ],
)  # fmt: skip
def test_a_time_of_day_may_follow_in_each_form(cell, form):
    assert dates.moment(cell, form) == AFTERNOON
    assert dates.forms([cell]) == (form,)


@pytest.mark.parametrize(
    ("cell", "hour", "minute"),
    [
        ("1/31/2025 8:05", 8, 5), ("1/31/2025 0:05", 0, 5), ("1/31/2025 12:05 AM", 0, 5),
        ("1/31/2025 12:05 PM", 12, 5), ("1/31/2025 11:59 pm", 23, 59), ("2025-01-31 8:05", 8, 5),
    ],
)  # fmt: skip
def test_an_hour_may_have_one_digit_and_half_a_day_may_be_named(cell, hour, minute):
    (form,) = dates.forms([cell])
    assert dates.moment(cell, form) == datetime(2025, 1, 31, hour, minute, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "cell",
    ["1/31/2025 13:05 PM", "1/31/2025 0:05 AM", "1/31/2025 8:5", "1/31/2025 25:00", "1/31/2025 8", "1/31/25 8:05"],
)
def test_what_is_no_time_of_day_is_no_date(cell):
    assert dates.forms([cell]) == ()
