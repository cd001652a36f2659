"""The real service with a regression: columns of text, an empty cell, late numbers as labels, the model card."""

import time

import numpy as np
import onnxruntime
import pytest
from prometheus_client import CollectorRegistry
from tiny_release import HOMES, make_draft, make_files

import vigil
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import watch
from registry import aliases, store

NAMED = [
    {"area": 52.5, "city": "Oslo", "heating": "wood"},
    {"heating": "gas", "area": None, "city": "Rome"},
    {"city": "Bern"},
]
PLACED = [[52.5, "Oslo", "wood"], [None, "Rome", "gas"], [None, "Bern", None]]
ROWS = np.array([[52.5, 1, 1], [80, 2, 0], [80, 0, 1]], dtype=np.float32)
PAGE = b"<!doctype html><title>Model card: homes</title>\n"


@pytest.fixture(autouse=True)
def same_store(place, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(place))


@pytest.fixture(scope="module")
def live(place, start_service, eventually):
    """A service of a regression, and its release."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        files = make_files(place / "files", HOMES, (), seed=3)  # its first weight is 2
        (files / "card.html").write_bytes(PAGE)
        made = store.publish(make_draft("homes", HOMES, ()), files)
        aliases.promote(made.tag, "first")
    service = start_service(place)
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    return service, made


def predictions(answer):
    return [one["prediction"] for one in answer[1]["predictions"]]


def test_rows_with_text_and_empty_cells_get_the_answers_of_onnx_runtime(live):
    service, made = live
    session = onnxruntime.InferenceSession(made.read("model.onnx"), providers=["CPUExecutionProvider"])
    expected = session.run(["prediction"], {"input": ROWS})[0][:, 0]
    for route, rows in (("/v1/predict", NAMED), ("/v1/predict", PLACED), ("/predict", NAMED)):
        np.testing.assert_allclose(predictions(service.call(route, {"rows": rows})), expected, rtol=1e-6)


def test_a_city_the_model_does_not_know_is_refused_by_row_and_counted(live):
    service, _ = live
    status, said = service.call("/v1/predict", {"rows": [NAMED[0], NAMED[1] | {"city": "Paris"}]})
    assert status == 422
    assert said["error"] == "rows[1]['city']: must be one of Bern, Oslo, Rome, found 'Paris'"
    assert service.metric("vigil_input_invalid_rows_total", reason="unknown_category") == 1


def test_numbers_so_large_that_the_answer_overflows_are_refused_not_answered_with_null(live):
    service, _ = live
    status, said = service.call("/v1/predict", {"rows": [NAMED[0], NAMED[0] | {"area": 3e38}]})
    assert status == 422
    assert said["error"] == "rows[1]: holds numbers so extreme that the model's answer is not finite"
    assert service.metric("vigil_input_invalid_rows_total", reason="no_answer") == 1


def test_the_model_says_what_its_columns_hold(live):
    service, made = live
    said = service.call("/v1/model")[1]
    assert said["row"]["categories"]["city"] == ["Bern", "Oslo", "Rome"]
    assert said["row"]["fills"] == {"area": 80.0, "heating": "wood"}
    assert (said["version"], said["task"], said["tolerance"]) == (made.version, "regression", 2.5)


def test_each_row_is_counted_in_its_signals_and_in_no_class(live):
    service, made = live
    romans = service.metric("vigil_signal_bin_total", signal="city", bin="02")
    service.call("/v1/predict", {"rows": NAMED})
    assert service.metric("vigil_signal_bin_total", signal="city", bin="02") == romans + 1
    rows = service.metric("vigil_input_rows_total", version=made.version)
    for signal in ("area", "city", "prediction"):
        assert service.metric("vigil_signal_bin_total", signal=signal) == rows
    assert "vigil_predictions_total{" not in service.scrape()


def test_labels_sent_and_read_from_a_file_give_the_share_within_the_tolerance(live, tmp_path, eventually):
    service, made = live
    ids = [f"home-{i}" for i in range(30)]
    answers = predictions(service.call("/v1/predict", {"rows": NAMED * 10, "ids": ids}))
    far = [2.4 if i % 5 else 2.6 for i in range(30)]  # every fifth is out of tolerance
    truth = [answer + gap for answer, gap in zip(answers, far, strict=True)]
    sent = [{"id": ident, "label": label} for ident, label in zip(ids[:10], truth[:10], strict=True)]
    assert service.call("/v1/labels", {"labels": sent}) == (200, {"accepted": 10, "unknown": 0})
    settings = watch.WatchSettings(store.home() / "log.sqlite")
    metrics, now_s = MonitorMetrics(CollectorRegistry()), time.time()

    def measured(what):
        watch.measure(settings, metrics, now_s)
        named = {"model": "homes", "version": made.version, "metric": "within_tolerance"}
        return metrics.registry.get_sample_value(f"vigil_quality_{what}", named)

    eventually("the rows on the log", lambda: measured("rows") == 10)
    file = tmp_path / "truth.csv"
    lines = [f"{ident},{label}" for ident, label in zip(ids[10:], truth[10:], strict=True)]
    file.write_text("id,label\n" + "\n".join(lines))
    assert vigil.main(["labels", str(file)]) == 0
    assert (measured("rows"), measured("value"), measured("floor")) == (30, 0.8, 0.9)


def test_a_label_that_is_no_number_is_refused_by_field_and_by_line(live, tmp_path, capsys, eventually):
    service, _ = live
    service.call("/v1/predict", {"rows": NAMED[:1], "ids": ["dear"]})
    status, said = service.call("/v1/labels", {"labels": [{"id": "dear", "label": "a lot"}]})
    assert (status, said["error"]) == (422, "labels[0]: label must be a finite number, found a string")
    file = tmp_path / "truth.csv"
    file.write_text("id,label\ndear,1\ndear,a lot\n")
    eventually("the row on the log and the refusal", lambda: vigil.main(["labels", str(file)]) == 2)
    assert f"{file}:3: label 'a lot' is not a finite number, and homes is a regression" in capsys.readouterr().err


def test_the_card_of_the_live_release_is_shown_as_it_was_published(live):
    service, made = live
    assert service.call("/v1/models/homes/card") == (200, PAGE.decode())
    for path, headers in (("?format=md", {}), ("", {"Accept": "text/markdown"})):
        status, text = service.call(f"/v1/models/homes/card{path}", headers=headers)
        assert (status, text.encode()) == (200, made.read("card.md"))


def test_the_page_of_the_card_may_fetch_and_run_nothing(live):
    service, _ = live
    headers = service.headers("/v1/models/homes/card")
    assert headers["Content-Security-Policy"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_card_of_another_model_is_not_found_and_its_name_is_no_label(live):
    service, _ = live
    status, said = service.call("/v1/models/other/card")
    assert (status, said["error"]) == (404, "models: 'other' is not served here; served: homes")
    assert service.call("/v1/models/homes/card?format=pdf")[0] == 422
    assert service.call("/v1/models/homes/card", {}, method="POST")[0] == 405
    text = service.scrape()
    assert 'route="/v1/models/{name}/card"' in text and "other/card" not in text
