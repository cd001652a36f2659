import shutil
import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_release import HOMES

from monitoring.log import labels, logfile, recorder
from registry import aliases
from registry.errors import DataError


def answer(connection, ident, version="v", predicted="a", time_s=10.0, model="m"):
    blob = np.ones(1 if predicted[0].isdigit() else 2, dtype=np.float32).tobytes()
    with connection:
        connection.execute(recorder.PREDICTION, (ident, time_s, model, version, predicted, blob, blob))


ARRIVALS = st.lists(
    st.tuples(st.just("answer"), st.sampled_from("pqrs"), st.just(""))
    | st.tuples(st.just("label"), st.sampled_from("pqrsxy"), st.sampled_from("ab")),
    max_size=25,
)


@given(ARRIVALS)
def test_the_join_is_that_of_plain_python_in_whatever_order_things_come(arrivals):
    connection = sqlite3.connect(":memory:")
    connection.executescript(recorder.SCHEMA)
    answered, said = [], {}
    for kind, ident, label in arrivals:
        if kind == "answer":
            answer(connection, ident)
            answered += [] if ident in answered else [ident]
        else:
            recorder.add_labels(connection, [(ident, label)])
            said.setdefault(ident, []).append(label)
    joined = labels.join(connection, "m", since_s=0)
    assert [row.label for row in joined] == [said[i][-1] if i in said else None for i in answered]
    connection.close()


def test_only_the_window_and_the_model_that_were_asked_for_are_joined(tmp_path):
    connection = recorder.connect(tmp_path / "log")
    answer(connection, "old", time_s=1.0)
    answer(connection, "new", time_s=100.0)
    answer(connection, "other", time_s=100.0, model="n")
    recorder.add_labels(connection, [("old", "a"), ("new", "b"), ("other", "a")])
    (row,) = labels.join(connection, "m", since_s=50.0)
    assert (row.label, row.predicted) == ("b", "a") and row.delay_s > 0
    connection.close()


def test_a_file_is_added_and_unknown_ids_are_counted(tmp_path):
    log, file = tmp_path / "log", tmp_path / "truth.csv"
    connection = recorder.connect(log)
    answer(connection, "a")
    connection.close()
    file.write_text("label,id,comment\n3,a,seen\n4,b,not seen\n")
    assert labels.add(log, labels.read_file(file)) == labels.Added(accepted=2, unknown=1)


@pytest.mark.parametrize(
    "text",
    ["id,label\na,3\nb,4\n", "\ufeffid,label\na,3\nb,4\n", '{"id": "a", "label": 3}\n\n{"id": "b", "label": "4"}\n'],
)
def test_csv_and_json_lines_say_the_same(tmp_path, text):
    file = tmp_path / "truth"
    file.write_text(text, encoding="utf-8")
    assert labels.read_file(file) == [("a", "3"), ("b", "4")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truth:1: column 'id' is missing; found none; accepted are id,label"),
        (b"id,class\na,3\n", "truth:1: column 'label' is missing; found id, class"),
        (b"id,label\n", "truth: holds no labels"),
        (b"id,label\na,3\n,4\n", "truth:3: 'id' is missing or empty"),
        (b"id,label\na\n", "truth:2: 'label' is missing or empty"),
        (b'{"id": "a", "label": 1}\n{"id"\n', "truth:2: not valid JSON"),
        (b'{"id": "a", "label": 1}\n3\n', "truth:2: must be an object with id and label"),
        (b'{"id": "a"}\n', "truth:1: 'label' is missing or empty"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b"id,label\na," + b"x" * 200_000 + b"\n", "truth:2: not valid CSV: field larger than field limit"),
        (b"id,label" + b"x" * 200_000 + b"\n", "truth:1: not valid CSV: field larger than field limit"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_by_line_and_column(tmp_path, content, message):
    (tmp_path / "truth").write_bytes(content)
    with pytest.raises(DataError) as caught:
        labels.read_file(tmp_path / "truth")
    assert message in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nothing.csv: no such file"):
        labels.read_file(tmp_path / "nothing.csv")


def test_a_folder_given_as_file_is_named(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}: cannot be read: Is a directory"):
        labels.read_file(tmp_path)


def test_a_line_break_within_a_csv_field_or_a_json_text_is_part_of_it(tmp_path):
    file = tmp_path / "truth"
    file.write_text('id,label\n"a\nb",3\n', encoding="utf-8")
    assert labels.read_file(file) == [("a\nb", "3")]
    file.write_text('{"id": "a\u2028b", "label": 3}\n', encoding="utf-8")
    assert labels.read_file(file) == [("a\u2028b", "3")]


def homes(publish, log):
    """Publish a regression and record two of its answers, "a" and "b"."""
    made = publish("homes", spec=HOMES, classes=())
    connection = recorder.connect(log)
    for ident in ("a", "b"):
        answer(connection, ident, made.version, "10.5", model="homes")
    connection.close()


def test_numbers_for_a_regression_are_written_alike_however_they_are_spelt(tmp_path, publish):
    log, file = tmp_path / "log", tmp_path / "truth.csv"
    homes(publish, log)
    file.write_text("id,label\na,12\nb,1.5e1\nnot seen,7\n")
    assert labels.add_file(log, file) == labels.Added(accepted=3, unknown=1)
    connection = recorder.connect(log)
    joined = labels.join(connection, "homes", since_s=0)
    connection.close()
    assert [(row.predicted, row.label, row.number) for row in joined] == [
        ("10.5", "12.0", True),
        ("10.5", "15.0", True),
    ]


@pytest.mark.parametrize("label", ["dear", "nan", "-inf"])
def test_a_label_of_a_regression_that_is_no_finite_number_is_named_by_its_line_and_nothing_is_written(
    tmp_path, publish, label
):
    log, file = tmp_path / "log", tmp_path / "truth.csv"
    homes(publish, log)
    file.write_text(f"id,label\na,12\nb,{label}\n")
    with pytest.raises(DataError, match=f"{file}:3: label '{label}' is not a finite number, and homes is a regression"):
        labels.add_file(log, file)
    with pytest.raises(DataError, match=rf"labels\[0\]: label '{label}'"):
        labels.add(log, [("b", label)])
    connection = recorder.connect(log)
    assert connection.execute("SELECT count(*) FROM labels").fetchone() == (0,)
    connection.close()


def test_a_label_in_a_file_that_is_not_a_class_is_named_by_its_line(tmp_path, publish):
    log, file = tmp_path / "log", tmp_path / "truth"
    made = publish()
    connection = recorder.connect(log)
    answer(connection, "a", made.version, model="tiny")
    connection.close()
    file.write_text('{"id": "a", "label": 3}\n{"id": "a", "label": "eleven"}\n')
    with pytest.raises(DataError, match=f"{file}:2: label 'eleven' is not a class; tiny has 0, 1, 2"):
        labels.add_file(log, file)


@pytest.mark.parametrize("logged", [True, False])
def test_a_label_of_no_model_at_hand_is_named_also_for_a_row_that_is_not_on_the_log(tmp_path, publish, logged):
    log, file = tmp_path / "log", tmp_path / "truth.csv"
    made = publish()
    aliases.promote(made.tag, "first")
    connection = recorder.connect(log)
    if logged:
        answer(connection, "a", made.version, model="tiny")
    file.write_text("id,label\nb,3\nx,maybe\n")
    with pytest.raises(DataError, match=f"{file}:3: label 'maybe' is not a class; tiny has 0, 1, 2"):
        labels.add_file(log, file)
    assert connection.execute("SELECT count(*) FROM labels").fetchone() == (0,)
    connection.close()
    assert labels.add(log, [("b", "3")]) == labels.Added(accepted=1, unknown=1)


def test_a_row_that_is_not_on_the_log_may_be_of_any_model_at_hand_or_of_one_that_nobody_knows(tmp_path, publish):
    log = tmp_path / "log"
    homes(publish, log)
    aliases.promote(publish().tag, "first")
    assert labels.add(log, [("x", "3"), ("y", "12.5")]).unknown == 2
    with pytest.raises(DataError, match=r"'maybe' is not a finite number, and homes is a .*; is not a class; tiny has"):
        labels.add(log, [("z", "maybe")])
    connection = recorder.connect(log)
    answer(connection, "c", model="deleted since")
    connection.close()
    assert labels.add(log, [("z", "maybe")]).unknown == 1


def test_a_label_that_only_a_deleted_version_had_is_unknown_and_the_file_is_taken(tmp_path, publish):
    log, file = tmp_path / "log", tmp_path / "truth.csv"
    old, new = publish(classes=("cat", "dog")), publish(classes=("cat", "bird"))
    aliases.promote(old.tag, "first")
    aliases.promote(new.tag, "other classes", force=True)
    connection = recorder.connect(log)
    answer(connection, "a", new.version, "cat", model="tiny")
    connection.close()
    file.write_text("id,label\na,bird\nold,dog\n")
    shutil.rmtree(old.path)
    assert labels.add_file(log, file) == labels.Added(accepted=2, unknown=1)
    with pytest.raises(DataError, match=r"label 'dog' is not a class; tiny has cat, bird"):
        labels.add(log, [("a", "dog")])  # on the log, so its release is known
    aliases.path("tiny").write_text("{")
    aliases.copy_of("tiny").unlink()
    assert labels.add(log, [("older", "fox")]).unknown == 1


def test_a_log_that_cannot_be_written_is_named_with_the_cure_and_takes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(logfile, "BUSY_S", 0.05)
    log = tmp_path / "log"
    recorder.connect(log).close()
    other = sqlite3.connect(log, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DataError, match=f"{log}: the labels were not written: database is locked; see that its disk"):
        labels.add(log, [("a", "3")])
    other.execute("ROLLBACK")
    assert other.execute("SELECT count(*) FROM labels").fetchone() == (0,)
    other.close()


def test_a_file_that_is_no_log_is_named(tmp_path):
    (tmp_path / "log").write_text("this is not a database, and long enough to be read as one " * 50)
    with pytest.raises(DataError, match="the labels were not written: file is not a database"):
        labels.add(tmp_path / "log", [("a", "3")])
