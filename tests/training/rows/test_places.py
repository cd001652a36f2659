"""A row is told by the line of its file, also where lines are blank or cells hold line breaks."""

import pytest

from registry.errors import DataError
from training.config import Config, Data, Split
from training.explore.demands import demand
from training.rows import data, places
from training.rows.split import deal


def place_of(tmp_path, text, **settings):
    (tmp_path / "rows.csv").write_text(text)
    config = Config("rows", data=Data("csv", "rows.csv", target="y", id="id", **settings))
    table = data.load(config.data, tmp_path)
    return places.outside(config, tmp_path, table), table


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,id,y\n1,p,no\n2,q,yes\n3,r,no\n", "line 4"),
        ("a,id,y\n1,p,no\n\n\n2,q,yes\n3,r,no\n", "line 6"),
        ('a,id,y\n1,"p\nx",no\n2,q,yes\n3,r,no\n\n', "line 5"),
    ],
)
def test_the_third_row_is_told_by_its_line(tmp_path, text, line):
    outside, _ = place_of(tmp_path, text)
    assert outside.place(2) == line


def test_the_line_is_right_also_where_the_first_rows_alone_are_read(tmp_path):
    outside, _ = place_of(tmp_path, "a,id,y\n1,p,no\n2,q,yes\n3,r,no\n4,s,no\n", first_rows=3)
    assert outside.place(2) == "line 4" and len(outside.ids) == 3


def test_a_row_after_rows_that_were_left_out_is_told_by_its_own_line(tmp_path):
    for blank, line in (("", "line 5"), ("\n", "line 6")):
        text = f"a,id,y\n1,40,no\n{blank},50,yes\n3,60,no\n4,70,yes\n5,80,yes\n"
        outside, table = place_of(tmp_path, text, missing="drop_rows", first_rows=4)
        assert len(table.y) == 3 and outside.place(2) == line
        assert outside.ids.tolist() == [40, 60, 70]


def test_ids_are_numbers_or_the_order_of_the_alphabet(tmp_path):
    assert place_of(tmp_path, "a,id,y\n1,30,no\n2,4,yes\n")[0].ids.tolist() == [30, 4]
    assert place_of(tmp_path, "a,id,y\n1,p,no\n2,b4,yes\n3,p,yes\n")[0].ids.tolist() == [1, 0, 1]


def test_a_refusal_names_copied_rows_by_their_lines(tmp_path):
    rows = [f"{n},{n},{'yes' if n % 2 else 'no'},g{n}" for n in range(120)] + [
        f"{n},9,no,h{n}" for n in range(0, 40, 2)
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["a,id,y,group", *rows]) + "\n")
    config = Config("rows", data=Data("csv", "rows.csv", target="y", id="id", group="group"))
    table = data.load(config.data, tmp_path)
    with pytest.raises(DataError, match=r"value by value: line \d+ and line \d+; "):
        demand(table, deal(table.unit, Split()), config, places.finder(config, tmp_path, table))
