import builtins
import csv
import datetime
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_wine

from registry.errors import DataError
from training.config import Data
from training.rows import data

PEOPLE = """id;age;city;when;left;site
a1;30;Bern;2026-01-31;no;n
a2;;Rome;2026-01-31T01:00:00+01:00;yes;n
a3;50; Bern ;2026-02-01T00:00:00Z;no;s
a4;40;;2026-02-02;no;s
"""
ROLES = {"id": "id", "group": "site", "time": "when", "categorical": ("city",)}


def load(tmp_path, text, task="classification", **settings):
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    return data.load(Data("csv", "rows.csv", **{"target": "y"} | settings), tmp_path, task)


def load_parquet(tmp_path, columns, task="classification", **settings):
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    return data.load(Data("parquet", "rows.parquet", **{"target": "y"} | settings), tmp_path, task)


def refusal(load, *arguments, **settings):
    with pytest.raises(DataError) as caught:
        load(*arguments, **settings)
    return str(caught.value)


def test_fill_takes_the_median_and_the_most_frequent_value_and_says_so(tmp_path):
    table = load(tmp_path, PEOPLE, target="left", missing="fill", slices=("city",), **ROLES)
    assert table.names == ("age", "city")
    assert table.categories == {"city": ("Bern", "Rome")}
    assert {name: empty.tolist() for name, empty in table.empty.items()} == {
        "age": [False, True, False, False], "city": [False, False, False, True],
    }  # fmt: skip
    table = data.filled(table, np.arange(4))
    assert table.fills == {"age": 40.0, "city": 0.0}
    assert table.x.tolist() == [[30, 0], [40, 1], [50, 0], [40, 0]]
    assert (table.classes, table.y.tolist()) == (("no", "yes"), [0, 1, 0, 0])
    assert table.slices["city"].tolist() == ["Bern", "Rome", "Bern", "(empty)"]
    days = [datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC).timestamp() + 86400 * day for day in (0, 0, 1, 2)]
    assert table.time.tolist() == days
    assert table.unit[0] == table.unit[1] != table.unit[2] == table.unit[3]
    assert table.spec.categories == {"city": ("Bern", "Rome")}
    assert table.spec.fills == {"age": 40.0, "city": 0.0}


def test_what_fills_a_cell_is_told_by_the_training_rows_alone(tmp_path):
    text = "a,b,y\n1,u,p\n,,q\n3,u,q\n1000,v,p\n2000,v,q\n"
    table = load(tmp_path, text, missing="fill", categorical=("b",))
    told = data.filled(table, np.array([0, 1, 2]))
    assert told.fills == {"a": 2.0, "b": 0.0}
    assert told.x[1].tolist() == [2, 0]
    assert np.array_equal(told.key, table.key) and told.digest == table.digest
    assert data.filled(told, np.array([3, 4])) is told
    with pytest.raises(DataError, match="column 'a' is empty in all 1 training rows; name it in data.drop"):
        data.filled(table, np.array([1]))


def test_a_row_with_a_gap_keeps_its_key_when_rows_are_added(tmp_path):
    few = load(tmp_path, "a,y\n1,p\n,q\n3,q\n", missing="fill")
    more = load(tmp_path, "a,y\n1,p\n,q\n3,q\n900,p\n800,q\n", missing="fill")
    assert np.array_equal(few.key, more.key[:3])


def test_drop_rows_leaves_out_the_rows_with_gaps_and_counts_them(tmp_path):
    text = "a,b,y\n1,u,p\n,u,q\n2,v,p\n3,,q\n4,u,q\n5,w,\n"
    table = load(tmp_path, text, missing="drop_rows", categorical=("b",))
    assert table.x.tolist() == [[1, 0], [2, 1], [4, 0]]
    assert table.categories == {"b": ("u", "v")}  # w went with its row
    assert dict(table.empty) == {}
    assert table.skipped == ("rows.csv: 3 of 6 rows left out, with an empty cell; empty cells: a 1, b 1, y 1",)


def test_fill_never_invents_a_target_and_counts_the_rows_left_out(tmp_path):
    table = data.filled(load(tmp_path, "a,y\n1,p\n2,\n,q\n3,q\n", missing="fill"), np.arange(3))
    assert table.x.tolist() == [[1], [2], [3]]
    assert table.y.tolist() == [0, 1, 1]
    assert table.skipped == ("rows.csv: 1 of 4 rows left out, with an empty cell; empty cells: y 1",)


@pytest.mark.parametrize("cell", ["", "  ", "NA", "N/A", "NaN", "nan", "NULL", "null", "?"])
def test_each_way_to_write_an_empty_cell_is_one(tmp_path, cell):
    table = load(tmp_path, f"a,b,y\n1,u,p\n{cell},{cell},q\n3,u,q\n", missing="fill", categorical=("b",))
    assert data.filled(table, np.arange(3)).fills == {"a": 2.0, "b": 0.0}


def test_codes_are_categories_in_the_order_of_numbers(tmp_path):
    table = load(tmp_path, "a,c,y\n1,10,10\n2,9,9\n3,10,2\n", categorical=("c",))
    assert table.categories == {"c": ("9", "10")}
    assert table.x[:, 1].tolist() == [1, 0, 1]
    assert (table.classes, table.y.tolist()) == (("2", "9", "10"), [2, 1, 0])


def test_a_regression_keeps_the_target_in_double_precision(tmp_path):
    table = load(tmp_path, "a,y\n1,0.1\n2,123456789.25\n", "regression")
    assert (table.task, table.classes) == ("regression", ())
    assert table.y.dtype == np.float64
    assert table.y.tolist() == [0.1, 123456789.25]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separator_byte_order_mark_and_carriage_returns_make_no_difference(tmp_path, separator):
    plain = load(tmp_path, 'a,"b ",y\n1,"2.5",p\n\n3,4,"q, r"\n')
    lines = ["a|b|y", "1|2.5|p", '3|4|"q, r"']
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace("|", separator).encode())
    other = data.load(Data("csv", "rows.csv", target="y"), tmp_path)
    assert other.names == ("a", "b")
    assert other.digest == plain.digest


def test_a_column_without_a_name_gets_one_from_its_place(tmp_path):
    table = load(tmp_path, ",a,y\n0,1,p\n1,2,q\n", drop=("unnamed_1",))
    assert table.names == ("a",)


def test_a_slice_of_many_numbers_is_cut_at_the_quartiles(tmp_path):
    lines = [f"{n},{n % 2}" for n in range(100)]
    table = load(tmp_path, "\n".join(["a,y", *lines]), slices=("a", "y"))
    names, counts = np.unique(table.slices["a"], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "below 24.75": 25, "24.75 to 49.5": 25, "49.5 to 74.25": 25, "74.25 and more": 25,
    }  # fmt: skip
    assert table.slices["y"].tolist() == [str(n % 2) for n in range(100)]


def test_the_first_rows_are_those_of_the_file(tmp_path):
    table = load(tmp_path, "a,y\n1,p\n2,q\n3,r\n", first_rows=2)
    assert (table.x.tolist(), table.classes) == ([[1], [2]], ("p", "q"))


@pytest.mark.parametrize(("nullable", "fills"), [(("a",), {"a": 2.0}), (("*",), {"a": 2.0, "b": 1.0})])
@pytest.mark.parametrize("missing", ["stop", "drop_rows", "fill"])
def test_a_column_may_be_empty_in_requests_though_it_is_full_in_training(tmp_path, nullable, fills, missing):
    text = "a,b,y\n1,u,p\n2,v,q\n9,v,q\n"
    table = load(tmp_path, text, categorical=("b",), nullable=nullable, missing=missing)
    filled = data.filled(table, np.arange(3))
    assert filled.spec.fills == fills
    np.testing.assert_array_equal(filled.x, load(tmp_path, text, categorical=("b",)).x)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a,b,y\n1,2,c\n", {"nullable": ("aa",)}, "no column 'aa' (data.nullable); did you mean 'a'?"),
        ("a,b,y\n1,2,c\n", {"nullable": ("b",), "drop": ("b",)}, "column 'b' is data.drop and data.nullable; only"),
        ("a,y\n1,c\n2,c\n,d\n", {"nullable": ("a",)}, "line 4, column 'a': the cell is empty"),
        ("", {}, "0 lines; a header and at least one row are needed"),
        ("a,y\n", {}, "no row; a header and at least one row are needed (CSV, separated by comma)"),
        ("a,b\n1,2\n", {}, "no column 'y' (data.target); found a, b (CSV, separated by comma)"),
        ("a,y\n1,2\n", {"group": "site"}, "no column 'site' (data.group)"),
        ("age,y\n1,2\n", {"categorical": ("agee",)}, "no column 'agee' (data.categorical); did you mean 'age'?"),
        ("a,a,y\n1,2,3\n", {}, "columns appear twice: a"),
        ("y\n1\n", {}, "no column is left to learn from"),
        ("a,b,y\n1,2,3\n", {"id": "b", "drop": ("b",)}, "column 'b' is data.id and data.drop; accepted is one"),
        ("a,y\n1,c\n2,d,3\n", {}, "line 3 has 3 cells; the header has 2"),
        ("a,y\n1,c\n,d\n", {}, "line 3, column 'a': the cell is empty; empty cells: a 1; data.missing = \"fill\" puts"),
        ("a,y\n1,c\ninf,d\n", {}, "line 3, column 'a': inf is not a finite float32"),
        ("a,y\n1,c\n\n1e39,d\n", {}, "line 4, column 'a': 1e39 is not a finite float32"),
        ("a,y\n1,c\n1_0,d\n", {}, "line 3, column 'a': '1_0' is not a number"),
        ('a,b,y\n1,"two\nlines",c\n1,x,d\n', {"categorical": ("a",)}, "line 2, column 'b': 'two\\nlines' is not"),
        ('a,b,y\n1,"\n",c\nx,1,d\n', {"categorical": ("b",)}, "line 4, column 'a': 'x' is not a number"),
        ("a;y\n1;c\n1,5;d\n", {}, "line 3, column 'a': '1,5' has a decimal comma; accepted is a point: 1.5"),
        ("a,b,y\n1,,c\n1,,d\n", {}, "column 'b' is empty in every row; name it in data.drop"),
        ("a,b,y\n1,,c\n,1,d\n", {"missing": "drop_rows"}, "every row has an empty cell; empty cells: a 1, b 1"),
        ("a,b,y\n1,,c\n2,,d\n3,1,\n", {"missing": "fill"}, "column 'b' is empty in every row that is left; name it in"),
        ("a,t,y\n1,2026-01-01,c\n1,soon,d\n", {"time": "t"}, "line 3, column 't': 'soon' is not an ISO 8601 date"),
        (
            "a,t,y\n1,,c\n1,03/04/2025,c\n1,12/11/2025,d\n",
            {"time": "t", "missing": "fill"},
            "line 3, column 't': '03/04/2025' is DD/MM/YYYY or MM/DD/YYYY: no date of the column tells which; write",
        ),
        (
            "a,t,y\n1,31/12/2025,c\n1,12/31/2025,d\n",
            {"time": "t"},
            "line 3, column 't': '12/31/2025' is not a date as DD/MM/YYYY, which those before it are; accepted is",
        ),
        (
            "a,t,y\n1,31/12/2025 8:05,c\n1,31/12/25,d\n",
            {"time": "t"},
            "01/31/2026, alone or with a time of day as 08:05, 8:05:30, 1:05 PM or 08:05Z",
        ),
        ("a,t,y\n1,31.12.2025,c\n1,2025-12-31,d\n", {"time": "t"}, "'2025-12-31' is not a date as DD.MM.YYYY"),
        ("a,t,y\n1,7,c\n1,2026-01-01,d\n", {"time": "t"}, "line 3, column 't': '2026-01-01' is not a number"),
        ('a,y\n1,"c\n', {}, "not a CSV file: line 2: unexpected end of data"),
    ],
)
def test_a_wrong_csv_names_the_line_and_the_column(tmp_path, text, settings, message):
    assert message in refusal(load, tmp_path, text, **settings)


def test_text_that_is_not_declared_says_how_to_declare_it(tmp_path):
    said = refusal(load, tmp_path, "a,city,y\n1,Bern,c\n2,Rome,d\n")
    assert "rows.csv: line 2, column 'city': 'Bern' is not a number" in said
    assert all(cure in said for cure in ("data.categorical", "data.drop", "data.id"))


def test_a_regression_on_text_says_that_it_may_be_classes(tmp_path):
    said = refusal(load, tmp_path, "a,y\n1,2.5\n2,high\n", "regression")
    assert "line 3, column 'y': 'high' is not a number; for classes, set task = \"classification\"" in said


def test_too_many_categories_or_classes_are_refused_with_the_cure(tmp_path):
    text = "\n".join(["a,b,y", *(f"{n},v{n},{n % 2}" for n in range(1001))])
    assert "column 'b' has 1001 different values; accepted are up to 1000; name it in data.drop" in refusal(
        load, tmp_path, text, categorical=("b",)
    )
    assert 'set task = "regression"' in refusal(load, tmp_path, text, target="a", drop=("b",))


def test_parquet_gives_the_table_of_the_same_csv(tmp_path):
    bunch = load_wine()
    columns = {name: bunch.data[:, n].astype(np.float32) for n, name in enumerate(bunch.feature_names)}
    columns |= {"kind": [bunch.target_names[t] for t in bunch.target], "year": pa.array(range(178), pa.int16())}
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(columns)
    writer.writerows(zip(*(map(str, values) for values in columns.values()), strict=True))
    roles = {"target": "kind", "time": "year"}
    one = load(tmp_path, written.getvalue(), **roles)
    other = load_parquet(tmp_path, columns, **roles)
    assert np.array_equal(one.x, bunch.data.astype(np.float32))
    assert one.digest == other.digest


def test_parquet_takes_nulls_booleans_decimals_dictionaries_and_dates(tmp_path):
    day = datetime.date(2026, 1, 31)
    columns = {
        "a": pa.array([1, None, 3]),
        "flag": pa.array([True, False, None]),
        "price": pa.array(["1.5", "2.5", "3.5"]).cast(pa.decimal128(5, 2)),
        "city": pa.array(["Bern", None, "Rome"]).dictionary_encode(),
        "when": pa.array([day, day, None]),
        "y": pa.array([7, 8, 7]),
    }
    table = load_parquet(tmp_path, columns, categorical=("city",), drop=("when",), missing="fill")
    table = data.filled(table, np.arange(3))
    assert table.x.tolist() == [[1, 1, 1.5, 0], [2, 0, 2.5, 0], [3, 0.5, 3.5, 1]]
    assert table.classes == ("7", "8")
    when = pa.array([datetime.datetime(2026, 1, 31, 1), None, datetime.datetime(2026, 1, 31)], pa.timestamp("ns"))
    columns = {"a": [1, 2, 3], "when": when, "y": ["p", "q", "q"]}
    assert load_parquet(tmp_path, columns, time="when", missing="drop_rows").time.tolist() == [1769821200, 1769817600]


def test_a_wrong_parquet_names_the_row_or_what_the_column_holds(tmp_path):
    columns = {"a": [1, 2, 3], "y": ["p", "q", "p"]}
    said = refusal(load_parquet, tmp_path, columns | {"b": [1.0, None, 2.0]})
    assert "rows.parquet: row 1 (from 0), column 'b': the cell is empty" in said
    assert "row 1 (from 0), column 'b': 'x' is not a number" in refusal(
        load_parquet, tmp_path, columns | {"b": ["1", "x", "2"]}
    )
    said = refusal(load_parquet, tmp_path, columns | {"b": [[1], [2], [3]]})
    assert "column 'b' holds list<" in said
    (tmp_path / "rows.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match="not a Parquet file"):
        data.load(Data("parquet", "rows.parquet", target="y"), tmp_path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(f"No module named '{name}'")
        return real(name, *rest)

    (tmp_path / "rows.parquet").write_bytes(b"")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"install it: pip install 'vigil\[parquet\]'"):
        data.load(Data("parquet", "rows.parquet", target="y"), Path(tmp_path))


words = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=6).map(lambda t: f"_{t}_")
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.tuples(numbers, words, numbers, words), min_size=2, max_size=30),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
)
@settings(max_examples=60)
def test_a_written_table_reads_back_equal(tmp_path_factory, rows, separator, quote_all):
    rows = [*rows, (0.0, "_b_", 0.0, "_p_"), (1.0, "_c_", 2.0, "_q_")]
    folder = tmp_path_factory.mktemp("written")
    with open(folder / "rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
        writer.writerow(["a", "b", "c", "y"])
        writer.writerows([repr(a), b, repr(c), y] for a, b, c, y in rows)
    table = data.load(Data("csv", "rows.csv", target="y", categorical=("b",)), folder)
    assert np.array_equal(table.x[:, [0, 2]], np.array([(a, c) for a, _, c, _ in rows], np.float32))
    assert [table.categories["b"][int(code)] for code in table.x[:, 1]] == [b for _, b, _, _ in rows]
    assert [table.classes[code] for code in table.y] == [y for _, _, _, y in rows]
    assert list(table.categories["b"]) == sorted({b for _, b, _, _ in rows})
