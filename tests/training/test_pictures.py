from xml.etree import ElementTree

import pytest

from training import pictures

HISTORY = [{"train_loss": 1 / (1 + i), "validation_loss": 2 / (1 + i)} for i in range(9)]
SVG = {
    "curve": lambda: pictures.curve(HISTORY, 4),
    "one epoch": lambda: pictures.curve(HISTORY[:1], 0),
    "confusion": lambda: pictures.confusion([[5, 1], [0, 7]], ["<cat>", "dog & co"]),
    "many classes": lambda: pictures.confusion([[0] * 60] * 60, [str(c) for c in range(60)]),
    "reliability": lambda: pictures.reliability([{"confidence": 0.9, "accuracy": 0.8, "rows": 10}]),
    "no bins": lambda: pictures.reliability([]),
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
    assert [len(line) for line in lines] == [9, 9]
    heights = [float(point.split(",")[1]) for point in lines[0]]
    assert heights == sorted(heights)  # y grows downwards


def test_the_confusion_picture_shows_each_count_but_zero():
    texts = [e.text for e in ElementTree.fromstring(SVG["confusion"]()) if e.tag == "text"]
    assert {"5", "1", "7", "<cat>", "dog & co"} <= set(texts)
    assert "0" not in texts
