from xml.etree import ElementTree

import numpy as np
import pytest

from training.pages import pictures

HISTORY = [{"train_loss": 1 / (1 + i), "validation_loss": 2 / (1 + i), "rate": 0.01 * i} for i in range(9)]
BIN = {"bin": 13, "confidence": 0.9, "accuracy": 0.8, "rows": 10, "lower": 0.5, "upper": 0.95}
POINTS = [{"recall": i / 9, "precision": 1 - i / 12, "false_alarms": (i / 9) ** 2} for i in range(10)]
SLICE = {"value": 0.9, "lower": 0.85, "upper": 0.95}
TRUTH = np.linspace(-3, 3, 50)
SVG = {
    "curve": lambda: pictures.curve(HISTORY, 4),
    "one epoch": lambda: pictures.curve(HISTORY[:1], 0),
    "confusion": lambda: pictures.confusion([[5, 1], [0, 7]], ["<cat>", "dog & co"]),
    "many classes": lambda: pictures.confusion([[0] * 60] * 60, [str(c) for c in range(60)]),
    "reliability": lambda: pictures.reliability([BIN], 1 / 15),
    "no bins": lambda: pictures.reliability([], 1 / 15),
    "precision and recall": lambda: pictures.operating_points(POINTS, [("0.5", 0.2, 0.8)], True),
    "roc": lambda: pictures.operating_points(POINTS, [("0.5", 0.2, 0.8), ("0.3", 0.9, 1.0)], False),
    "predicted": lambda: pictures.predicted(TRUTH, TRUTH**2),
    "residuals": lambda: pictures.residuals(TRUTH, 0.5),
    "no error": lambda: pictures.residuals(np.zeros(9), 0.0),
    "slices": lambda: pictures.intervals([("north & <east>", SLICE, True), ("n" * 60, SLICE, False)], 0.92, "accuracy"),
}


@pytest.mark.parametrize("name", SVG)
def test_a_picture_is_xml_and_stays_inside_its_frame(name):
    root = ElementTree.fromstring(SVG[name]())
    width, height = float(root.get("width")), float(root.get("height"))
    assert root.get("aria-label")
    for element in root.iter():
        for horizontal, vertical in (("x", "y"), ("cx", "cy")):
            if element.get(horizontal) is not None:
                assert 0 <= float(element.get(horizontal)) <= width
                assert 0 <= float(element.get(vertical)) <= height
        for point in (element.get("points") or "").split():
            x, y = (float(part) for part in point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height


def test_the_curve_has_a_point_per_epoch_and_falls_with_the_loss():
    lines = [e.get("points").split() for e in ElementTree.fromstring(SVG["curve"]()) if e.tag == "polyline"]
    rate, training, validation = (line for line in lines if len(line) == 9)
    heights = [[float(point.split(",")[1]) for point in line] for line in (rate, training, validation)]
    assert heights[0] == sorted(heights[0], reverse=True)  # y grows downwards, and the rate rises
    assert heights[1] == sorted(heights[1])
    assert heights[2] == sorted(heights[2])


def test_the_confusion_picture_shows_each_count_but_zero():
    texts = [e.text for e in ElementTree.fromstring(SVG["confusion"]()) if e.tag == "text"]
    assert {"5", "1", "7", "<cat>", "dog & co"} <= set(texts)
    assert "0" not in texts


def test_a_bin_shows_its_interval_and_its_rows():
    page = SVG["reliability"]()
    assert "10 rows, confidence 0.900, accuracy 0.800" in page
    (bar,) = [e for e in ElementTree.fromstring(page) if e.tag == "rect"]
    (whisker,) = [e for e in ElementTree.fromstring(page) if e.tag == "polyline" and e.find("title") is not None]
    (dot,) = [e for e in ElementTree.fromstring(page) if e.tag == "circle"]
    low, high = (float(point.split(",")[1]) for point in whisker.get("points").split())
    assert high < float(dot.get("cy")) < low
    assert float(bar.get("height")) > 0


def test_a_slice_that_differs_has_another_colour_than_the_others():
    dots = [e.get("fill") for e in ElementTree.fromstring(SVG["slices"]()) if e.tag == "circle"]
    assert dots == [pictures.ORANGE, pictures.BLUE]


def test_the_histogram_of_errors_holds_every_row():
    bars = [e for e in ElementTree.fromstring(SVG["residuals"]()) if e.tag == "rect"]
    rows = [int(e.find("title").text.split(": ")[1].split()[0]) for e in bars]
    assert sum(rows) == 50
