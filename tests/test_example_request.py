"""The line that `vigil show`, `vigil promote` and the page at / give, pasted into a shell against the real service."""

import html
import io
import json
import re
import subprocess

import numpy as np
import pytest
from tiny_release import HOMES, IMAGE, make_draft, make_files

import vigil
from registry import aliases, example, store
from registry.release import InputSpec

ODD = InputSpec("float32", (3,), ('it\'s "odd"', "größe", "$HOME"), {"größe": ("<a> & b", "'c'")})
SPECS = {"homes": HOMES, "flat": InputSpec("float32", (4,)), "odd": ODD, "photo": IMAGE}


@pytest.fixture(scope="module")
def service(place, start_ready):
    """Return a service of a table, of rows without names, of a table with odd names and of images, with its tags."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        tags = {}
        for name, spec in SPECS.items():
            files = make_files(place / f"files-{name}", spec, ("a", "b"))
            tags[name] = store.publish(make_draft(name, spec, ("a", "b")), files).tag
            aliases.promote(tags[name], "first")
    return start_ready(place, VIGIL_MODELS=",".join(SPECS)), tags


def paste(line):
    """Return what the service answers to a line in a shell."""
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", SPECS)
def test_the_line_of_show_is_answered_when_it_is_pasted(service, place, monkeypatch, capsys, name):
    running, tags = service
    monkeypatch.setenv("BENTOML_HOME", str(place))
    vigil.main(["show", tags[name]])
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("request"))
    said = paste(line.partition(" ")[2].replace("http://localhost:3000", running.url))
    assert f"{said['model']}:{said['version']}" == tags[name]
    assert said["predictions"][0]["class"] in ("a", "b")


def test_the_lines_of_the_page_are_answered_when_they_are_pasted(service):
    running, tags = service
    _, page = running.call("/")
    lines = [html.unescape(line) for line in re.findall(r"<code>([^<]*curl [^<]*)</code>", page)]
    assert all(running.url in line for line in lines)
    assert [f"{said['model']}:{said['version']}" for said in map(paste, lines)] == list(tags.values())


def test_of_each_column_the_middle_or_the_most_frequent_value_is_sent(publish):
    made = publish("homes", spec=HOMES, classes=("a", "b"))
    row = json.loads(re.search(r"-d '(.*)'", example.of(made).curl())[1])["rows"][0]
    with np.load(io.BytesIO(made.read("heldout.npz"))) as heldout:
        x = heldout["x"]
    assert row["area"] == pytest.approx(float(np.quantile(x[:, 0], 0.5, method="nearest")), rel=1e-5)
    assert row["city"] == HOMES.categories["city"][np.bincount(x[:, 1].astype(int)).argmax()]
    assert list(row) == ["area", "city", "heating"]


def test_promote_ends_with_the_line_and_what_an_image_of_ones_own_is(publish, capsys, monkeypatch):
    tag = publish().tag
    monkeypatch.setenv("VIGIL_KEYS", "keys.json")
    vigil.main(["promote", tag, "--why", "first"])
    _, _, line, about = capsys.readouterr().out.splitlines()
    assert line.strip().startswith("head -c 64 /dev/zero | curl -s http://localhost:3000/v1/models/tiny/predict ")
    assert '-H "Authorization: Bearer $KEY"' in line
    assert "64 bytes, uint8 8 x 8" in about


def test_a_host_that_is_no_address_is_not_shown(publish):
    line = example.of(publish()).curl("http://$(reboot)")
    assert "http://localhost:3000/" in line and "reboot" not in line
    assert "'https://[::1]:3000/v1/models/tiny/predict'" in example.of(publish(seed=1)).curl("https://[::1]:3000")
