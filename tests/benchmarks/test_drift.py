import json
import sys

import numpy as np
import pytest

from benchmarks import drift, peers, pictures
from benchmarks.shifts import CLEAN, FAMILIES


@pytest.fixture(scope="module")
def dealt():
    return [drift.deal(pictures.digits(), seed) for seed in range(3)]


def family(name):
    return next(found for found in FAMILIES if found.name == name)


@pytest.mark.parametrize("rows", [50, 100, 200])
def test_clean_windows_of_digits_alarm_about_as_often_as_stated(dealt, rows):
    found = np.mean([drift.false_alarms(d, rows, 300, seed) for seed, d in enumerate(dealt)])
    # 900 windows, but only three references: between those the rate varies by more than chance among windows.
    assert 0.005 < found < 0.1


@pytest.mark.parametrize(("name", "rows", "least"), [("noise_large", 50, 0.9), ("image_medium", 50, 0.9)])
def test_a_shift_of_digits_is_told(dealt, name, rows, least):
    found = drift.power(dealt[0], family(name), rows, 10, 0)
    assert found[1.0] >= least and np.mean(list(found.values())) > 0.5


def test_a_lost_class_of_digits_is_told(dealt):
    assert drift.power(dealt[0], family("knock_out"), 300, 10, 0)[1.0] >= 0.9


def test_a_window_is_the_one_that_is_counted_from_its_rows(dealt):
    data, made = pictures.digits(), dealt[0]
    order = np.random.default_rng(0).permutation(len(data.labels))
    traffic = order[round(len(order) * drift.REFERENCE_SHARE) :]
    kept, moved = np.arange(40), np.arange(40, 60)
    window = made.window(kept, moved, "image_small")
    x = np.concatenate([data.images[CLEAN][traffic[kept]], data.images["image_small"][traffic[moved]]])
    p = np.concatenate([data.answers[CLEAN][traffic[kept]], data.answers["image_small"][traffic[moved]]])
    direct = drift.drift.window_of(made.reference, drift.InputSpec("uint8", (8, 8)), x, p)
    np.testing.assert_array_equal(window.counts, direct.counts)
    np.testing.assert_allclose(window.sums, direct.sums, rtol=1e-5)
    assert window.rows == direct.rows == 60


def test_the_cost_is_measured_on_twenty_signals_with_constant_memory():
    found = drift.cost(rows=20_000)
    assert found["signals"] == 20 and found["memory_grown_mb"] < 20
    assert len(found["count_cpu_s"]) == drift.COST_RUNS and found["judge_cpu_s"] >= 0


def test_a_peer_that_is_missing_is_a_finding_and_no_error():
    table = np.random.default_rng(0).random((60, 3))
    assert "No module named 'whylogs'" in peers.ask("whylogs", sys.executable, table, table)["failed"][0]


def test_the_tables_and_the_picture_hold_what_was_found(tmp_path):
    data = json.loads(json.dumps(drift.measure_data(pictures.digits(), trials=1, deals=1)))
    peer = {"nannyml": {"false_alarms": {"50": 0.1, "100": 0.2}}}
    found = {"data": {"digits": data}, "mean_power": data["power"], "cost": {}, "peers": {"digits": peer}}
    said = drift.text(found)
    assert "knock_out" in said and "published best" in said
    drift._draw(found, tmp_path / "drift.svg")
    assert (tmp_path / "drift.svg").read_bytes().startswith(b"<?xml")


def test_a_run_that_is_cut_off_keeps_its_families_and_goes_on_to_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drift, "RESULTS", tmp_path)
    monkeypatch.setattr(drift, "cost", dict)
    monkeypatch.setattr(drift, "DEALS", 1)
    monkeypatch.setattr(drift.measure_data, "__defaults__", (1, None))
    monkeypatch.setattr(drift, "SHIFT_ROWS", (50,))
    monkeypatch.setattr(drift, "PUBLISHED", (0.4,))
    monkeypatch.setattr(pictures, "found", lambda *_: [pictures.digits()])
    power, measured = drift.power, []

    def cut_off(dealt, family, *asked):
        measured.append(family.name)
        if len(measured) == 4:
            raise KeyboardInterrupt
        return power(dealt, family, *asked)

    monkeypatch.setattr(drift, "power", cut_off)
    with pytest.raises(KeyboardInterrupt):
        drift.main(["--trials", "2"])
    (file,) = tmp_path.glob("drift-*.json")
    assert list(json.loads(file.read_text())["parts"]["digits"]["pieces"]) == measured[:3]
    drift.main(["--trials", "2", "--resume"])
    assert measured[3:] == [measured[3], *(family.name for family in FAMILIES[3:])]
    resumed = json.loads(file.read_text())
    drift.main(["--trials", "2", "--resume"])  # all is there
    assert len(measured) == 11 and "parts" not in resumed
    drift.main(["--trials", "2"])
    whole = json.loads(file.read_text())
    assert resumed["data"] == whole["data"] and "of CPU: knock_out" in capsys.readouterr().err
