import dataclasses
import json
from contextlib import closing

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from tiny_release import HOMES, IMAGE, TABLE, make_draft, make_files, rows_of

from grafana import drift_rules, profile, restless_rules, serving_rules
from monitoring.backtest import encode, outcome, rules, run, sqlite_log, table, timeline
from monitoring.backtest.run import Order
from monitoring.log import parquet, recorder
from monitoring.log.decoded import Selection
from registry import aliases, store
from registry.errors import DataError
from tests.monitoring.recorded import T0_S, answers, label, record, said, times

HOUR_S = 3600.0


def fired(order):
    (found,) = run.backtest(order)
    return found, {(one.alert, one.severity): one for one in found.firings}


def hours(at_s):
    return (at_s - T0_S) / HOUR_S


@pytest.fixture
def publish_known(tmp_path):
    """Return a function that publishes a tiny release whose reference has 2,000 rows."""
    return lambda seed=0: store.publish(make_draft(), make_files(tmp_path / f"files-{seed}", seed=seed, rows=2000))


@pytest.fixture
def dark(publish_known, tmp_path):
    """A log of 30 hours, 200 rows an hour, whose images are darker on the left from hour 20 to hour 24."""
    made, log = publish_known(), tmp_path / "log.sqlite"
    rows, at = rows_of(IMAGE, 6000, seed=8), times(6000, 30)
    rows[(at >= T0_S + 20 * HOUR_S) & (at < T0_S + 24 * HOUR_S), :, :4] //= 2
    record(log, made, rows, at)
    return made, log


def test_a_shift_fires_the_drift_alert_with_its_signals_and_nothing_else(dark):
    found, alerts = fired(Order(dark[1]))
    one = alerts["VigilDataDrift", "warning"]
    assert alerts.keys() == {("VigilDataDrift", "warning")}
    assert 20 < hours(one.since_s) < 21 and one.from_s == one.since_s
    assert {signal for signal, _ in one.signals} <= {
        "brightness",
        "centre_x",
        "edge_x",
        "edge_y",
        "contrast",
        "embedding",
    }
    assert (found.spans[0].rows, found.refused, found.unknown) == (6000, 0, {})


def test_before_the_shift_nothing_fires_and_times_can_be_chosen(dark):
    found, alerts = fired(Order(dark[1], span_s=(0.0, T0_S + 20 * HOUR_S - 1)))
    assert alerts == {} and found.spans[0].rows == 4000
    with pytest.raises(DataError, match="holds no row of tiny in the time that was asked for"):
        run.backtest(Order(dark[1], span_s=(0.0, T0_S - 1)))


def test_the_parts_of_a_log_give_the_same_however_large_they_are(dark, monkeypatch):
    whole = fired(Order(dark[1]))[0]
    monkeypatch.setattr(sqlite_log, "PART_ROWS", 700)
    assert len(sqlite_log.parts(dark[1], "tiny", run.EVER_S, rules.PROFILES["production"])) == 9
    few = fired(Order(dark[1]))[0]
    assert [dataclasses.replace(one, signals=()) for one in few.firings] == [
        dataclasses.replace(one, signals=()) for one in whole.firings
    ]


def test_processes_give_the_same_to_the_last_bit(dark, monkeypatch):
    monkeypatch.setattr(sqlite_log, "PART_ROWS", 1500)
    assert fired(Order(dark[1], processes=2))[0] == fired(Order(dark[1]))[0]


def test_a_ray_cluster_of_two_workers_gives_the_same_to_the_last_bit(dark, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed; run: pip install 'vigil[ray]'")
    monkeypatch.setattr(sqlite_log, "PART_ROWS", 1500)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    here = fired(Order(dark[1]))[0]
    assert fired(Order(dark[1], ray="local"))[0] == here
    assert not ray.is_initialized()


def test_one_class_for_nearly_every_row_fires_a_page(publish, tmp_path):
    made, log = publish(), tmp_path / "log.sqlite"
    rows, at = rows_of(IMAGE, 3000, seed=8), times(3000, 10)
    rows[at >= T0_S + 8 * HOUR_S] = rows[0]
    record(log, made, rows, at)
    one = fired(Order(log))[1]["VigilPredictionsCollapsed", "critical"]
    assert 8.8 < hours(one.since_s) < 9.1 and one.value > 0.95 and one.to_s is None


def test_labels_count_from_when_they_came_and_the_last_one_of_a_row_holds(publish, tmp_path):
    made, log = publish(), tmp_path / "log.sqlite"
    outputs = record(log, made, rows_of(IMAGE, 1000, seed=8), times(1000, 10))
    right = said(made, outputs)
    late = T0_S + 12 * HOUR_S
    label(log, [(str(i), "none", late + i / 10) for i in range(1000)])
    label(log, [(str(i), right[i], late + 2 * HOUR_S) for i in range(1000)])
    found, alerts = fired(Order(log))
    one = alerts["VigilQualityUnderFloor", "critical"]
    assert hours(one.since_s) == pytest.approx(12, abs=0.1) and hours(one.to_s) == pytest.approx(14, abs=0.1)
    assert found.spans[0].labelled == 1000 and one.value < 0.05


def test_labels_that_come_after_the_window_still_show_a_decline_and_that_they_are_late_is_said(publish, tmp_path):
    made, log = publish(), tmp_path / "log.sqlite"
    at = times(2000, 40)
    right = said(made, record(log, made, rows_of(IMAGE, 2000, seed=8), at))
    label(log, [(str(i), right[i] if i < 1000 or i % 3 else "none", at[i] + 30 * HOUR_S) for i in range(2000)])
    found, alerts = fired(Order(log))
    assert ("VigilQualityUnderFloor", "critical") not in alerts
    one = alerts["VigilQualityDeclined", "warning"]
    assert 50 < hours(one.since_s) < 55 and 0.6 < one.value < 0.7  # row 1000 was answered in hour 20
    assert (found.spans[0].labelled, found.spans[0].in_time) == (2000, 0)
    assert "every label came after its row had left the window of quality" in outcome.as_text([found])


def test_only_the_version_that_answers_is_judged(publish_known, tmp_path):
    one, two, log = publish_known(seed=1), publish_known(seed=2), tmp_path / "log.sqlite"
    rows = rows_of(IMAGE, 3000, seed=8)
    rows[:, :, :4] //= 2
    record(log, one, rows[:1500], times(1500, 5))
    record(log, two, rows_of(IMAGE, 1500, seed=9), times(1500, 5, T0_S + 5 * HOUR_S), begin=1500)
    found, alerts = fired(Order(log))
    drifted = alerts["VigilDataDrift", "warning"]
    assert drifted.version == one.version and hours(drifted.to_s) == pytest.approx(5, abs=0.1)
    assert [span.version for span in found.spans] == [one.version, two.version]


def test_rows_of_a_release_that_is_gone_are_told_and_the_others_judged(dark):
    with closing(recorder.connect(dark[1])) as connection, connection:
        connection.execute("UPDATE predictions SET version = 'gone' WHERE seq > 5000")
    found, alerts = fired(Order(dark[1]))
    assert found.unknown == {"gone": 1000} and ("VigilDataDrift", "warning") in alerts
    assert "gone: 1000 rows are not judged" in outcome.as_text([found])


def test_every_model_of_a_log_is_replayed_and_one_can_be_chosen(dark, publish):
    table_release = publish("table", spec=TABLE)
    record(dark[1], table_release, rows_of(TABLE, 300, seed=3), times(300, 2), begin=9000)
    assert [one.model for one in run.backtest(Order(dark[1]))] == ["table", "tiny"]
    assert [one.model for one in run.backtest(Order(dark[1], "table"))] == ["table"]
    with pytest.raises(DataError, match="holds no row of other; it has table, tiny"):
        run.backtest(Order(dark[1], "other"))


def test_what_a_policy_did_not_keep_raises_no_alarm(publish, tmp_path):
    made, log = publish("table", spec=TABLE), tmp_path / "log.sqlite"
    rows = rows_of(TABLE, 2000, seed=8)
    record(log, made, rows, times(2000, 10), kept=np.where(np.arange(3) == 1, np.nan, rows).astype(np.float32))
    assert fired(Order(log))[0].firings == ()


@pytest.fixture
def homes(publish, tmp_path):
    """A table of past traffic with text columns, as arrays by column, and the log of the same traffic."""
    made = publish("homes", spec=HOMES, classes=())
    aliases.promote(made.tag, "first")
    rows, at = rows_of(HOMES, 3000, seed=8), times(3000, 10)
    rows[1500:, 1] = 2  # from hour 5 on all live in Rome
    outputs = record(tmp_path / "log.sqlite", made, rows, at, begin=10_000)
    truth = outputs[:, 0] + np.where(at > T0_S + 6 * HOUR_S, 10.0, 0.0)
    label(tmp_path / "log.sqlite", [(str(10_000 + i), repr(float(truth[i])), at[i] + 60) for i in range(3000)])
    columns = {
        "area": rows[:, 0], "city": [HOMES.categories["city"][int(i)] for i in rows[:, 1]],
        "heating": [HOMES.categories["heating"][int(i)] for i in rows[:, 2]], "time": at,
        "label": truth.astype(np.float64), "label_time": at + 60, "unused": np.arange(3000),
    }  # fmt: skip
    return made, tmp_path, pa.table(columns)


def test_a_parquet_or_csv_file_gives_what_the_log_of_the_same_traffic_gives(homes, monkeypatch):
    made, folder, columns = homes
    monkeypatch.setattr(encode, "PART_ROWS", 1000)
    pa.parquet.write_table(columns, folder / "a.parquet", row_group_size=700)
    with pa.parquet.ParquetFile(folder / "a.parquet") as file:
        assert encode.groups(file) == [(0, 1), (2, 3), (4,)]
    pa.csv.write_csv(columns, folder / "a.csv")
    log, alerts = fired(Order(folder / "log.sqlite"))
    assert {name for name, _ in alerts} == {"VigilDataDrift", "VigilQualityUnderFloor", "VigilQualityDeclined"}
    for name in ("a.parquet", "a.csv"):
        for model in ("", "homes", made.tag):
            found = fired(Order(folder / name, model))[0]
            assert found.firings == log.firings and found.spans == log.spans, name


def test_an_export_of_a_log_gives_what_the_log_gives(dark, homes):
    folder = homes[1]
    with closing(recorder.connect(folder / "log.sqlite")) as connection, connection:
        connection.execute("UPDATE predictions SET version = 'gone' WHERE model = 'homes' AND seq % 50 = 0")
    parquet.write_file(folder / "log.sqlite", folder / "export.parquet", Selection())
    from_log, from_file = (run.backtest(Order(folder / name)) for name in ("log.sqlite", "export.parquet"))
    for one, other in zip(from_log, from_file, strict=True):
        assert one.spans == other.spans and one.unknown == other.unknown and one.firings == other.firings
    assert [one.model for one in run.backtest(Order(folder / "export.parquet", "homes"))] == ["homes"]


def test_what_a_policy_did_not_keep_is_not_judged_in_an_export_either(publish, tmp_path):
    made, log = publish("table", spec=TABLE), tmp_path / "log.sqlite"
    rows = rows_of(TABLE, 2000, seed=8)
    record(log, made, rows, times(2000, 10), kept=np.where(np.arange(3) == 1, np.nan, rows).astype(np.float32))
    parquet.write_file(log, tmp_path / "e.parquet", Selection())
    found = fired(Order(tmp_path / "e.parquet"))[0]
    assert (found.firings, found.refused, found.spans[0].rows) == ((), 0, 2000)


def test_rows_the_service_would_refuse_are_counted_and_page(homes):
    _, folder, columns = homes
    city = columns["city"].to_pylist()
    city[2000:] = ["Atlantis"] * 1000
    pa.parquet.write_table(columns.set_column(1, "city", pa.array(city)), folder / "b.parquet")
    found, alerts = fired(Order(folder / "b.parquet"))
    assert found.refused == 1000 and found.spans[0].rows == 2000
    assert alerts["VigilInvalidInputs", "critical"].value == alerts["VigilInvalidInputs", "warning"].value == 1.0


def test_a_column_that_is_absent_is_one_of_empty_cells(homes):
    _, folder, columns = homes
    pa.parquet.write_table(columns.drop(["area"]), folder / "c.parquet")
    assert fired(Order(folder / "c.parquet"))[0].refused == 0  # the release has a fill for it
    pa.parquet.write_table(columns.drop(["city"]), folder / "d.parquet")
    assert fired(Order(folder / "d.parquet"))[0].refused == 3000


def test_columns_of_other_names_can_be_said_and_the_cure_is(homes):
    _, folder, columns = homes
    renamed = columns.rename_columns(["area", "city", "heating", "when", "price", "known", "unused"])
    pa.parquet.write_table(renamed, folder / "e.parquet")
    with pytest.raises(DataError, match=r"e\.parquet: has no column of times .* name it with --time"):
        run.backtest(Order(folder / "e.parquet"))
    with pytest.raises(DataError, match="column 'gone' is missing; found area, city"):
        run.backtest(Order(folder / "e.parquet", names={"time": "gone"}))
    names = {"time": "when", "label": "price", "label_time": "known"}
    assert fired(Order(folder / "e.parquet", names=names))[0].firings == fired(Order(folder / "log.sqlite"))[0].firings


def test_the_prediction_of_a_file_is_what_quality_is_measured_on(publish, tmp_path):
    made = publish("table", spec=TABLE)
    aliases.promote(made.tag, "first")
    rows = rows_of(TABLE, 1000, seed=8)
    truth = said(made, answers(made, rows))
    columns = {name: rows[:, i] for i, name in enumerate(TABLE.columns)} | {"ts": times(1000, 10), "label": truth}
    pa.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert fired(Order(tmp_path / "a.parquet"))[0].firings == ()
    pa.parquet.write_table(pa.table(columns | {"prediction": ["none"] * 1000}), tmp_path / "b.parquet")
    assert ("VigilQualityUnderFloor", "critical") in fired(Order(tmp_path / "b.parquet"))[1]


@pytest.mark.parametrize("content", [b"", b"PAR1 but torn", b"SQLite format 3\0 but torn", b"a,b\n1,2,3\n"])
def test_a_file_that_cannot_be_read_is_named(publish, tmp_path, content):
    aliases.promote(publish("table", spec=TABLE).tag, "first")
    (tmp_path / "odd").write_bytes(content)
    with pytest.raises(DataError, match="odd: "):
        run.backtest(Order(tmp_path / "odd"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file; accepted are a prediction log, Parquet and CSV"):
        run.backtest(Order(tmp_path / "nowhere"))


def test_the_log_is_only_read(dark):
    before = dark[1].read_bytes()
    run.backtest(Order(dark[1]))
    assert dark[1].read_bytes() == before


def test_the_text_the_object_and_the_page_say_what_fired(dark):
    found, alerts = fired(Order(dark[1]))
    one = alerts["VigilDataDrift", "warning"]
    text, page = outcome.as_text([found]), timeline.html([found])
    assert f"{one.alert}  warning   {outcome.clock(one.from_s)}  {outcome.clock(one.to_s)}" in text
    assert "1 alerts would have fired (production rules)" in text
    (told,) = json.loads(outcome.as_json([found]))
    assert told["firings"][0]["from_s"] == one.from_s and told["spans"][0]["rows"] == 6000
    assert outcome.clock(one.from_s) in page and "<svg" in page and "http" not in page and "<script" not in page
    quiet = dataclasses.replace(found, firings=())
    assert "no alert would have fired" in outcome.as_text([quiet]) and "no alert" in timeline.html([quiet])


@pytest.mark.parametrize("name", profile.PROFILES)
def test_the_lengths_that_are_replayed_are_those_of_the_rules(name):
    said, given = rules.PROFILES[name], profile.PROFILES[name]
    assert (said.evaluation_s, said.rate_s) == (given.drift_evaluation_s, given.rate_s)
    assert (said.urgent_s, said.patient_s) == (given.urgent_s, given.patient_s)
    assert said.windows_s == given.drift.items()
    for length in (said.evaluation_s, said.rate_s, said.quality_s, *dict(said.windows_s).values()):
        assert length % said.bucket_s == 0


def test_the_limits_that_are_replayed_are_those_of_the_rules():
    alerts = drift_rules.alerts(profile.PRODUCTION) + serving_rules.alerts(profile.PRODUCTION)
    texts = {(one.name, one.severity): one.expr for one in alerts}
    collapsed = texts[rules.COLLAPSE, "critical"]
    assert f"> {rules.COLLAPSED_SHARE}" in collapsed and f"< {rules.USUAL_SHARE}" in collapsed
    for severity, share in rules.INVALID_SHARES.items():
        assert texts[rules.INVALID, severity].endswith(f"> {share}")
    assert restless_rules.HISTORY_WINDOWS == rules.HISTORY_WINDOWS
    assert restless_rules.FEWEST_WINDOWS == rules.FEWEST_WINDOWS
    waits = {(one.name, one.severity): one.for_s for one in alerts}
    assert waits[rules.DRIFT, "warning"] == 0
    assert waits[rules.COLLAPSE, "critical"] == profile.PRODUCTION.urgent_s


def test_a_release_answers_as_the_service_does(publish):
    made = publish("table", spec=TABLE)
    rows = rows_of(TABLE, 5000, seed=3)
    assert table.answers(made.tag, rows) == pytest.approx(answers(made, rows), abs=1e-6)
