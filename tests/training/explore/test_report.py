"""The data report: planted faults are found and told, sound data are left in peace, the page holds every fact."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

import vigil
from training.config import Config, Data, Explore, Split
from training.explore import facts as explore_facts
from training.explore import findings as explore_findings
from training.explore import page as explore_page
from training.explore import report as explore_report
from training.explore import small
from training.explore import write as explore_write
from training.rows import data, places, split

EXAMPLES = Path(__file__).parents[3] / "examples"
SHELL = re.compile(r"""(?:src|href|xlink:href|action|data)\s*=\s*["']([^"']*)["']|url\(([^)]*)\)|@import""")


OUTSIDE = places.Outside(str)


def write_csv(path, columns):
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n")


def explored(tmp_path, columns, text="", task="classification"):
    """Write a CSV and its TOML, explore them, and return the facts and the page."""
    write_csv(tmp_path / "rows.csv", columns)
    toml = tmp_path / "rows.toml"
    toml.write_text(f'name = "rows"\ntask = "{task}"\n[data]\nsource = "csv"\npath = "rows.csv"\ntarget = "y"\n{text}')
    done = explore_write.write(toml, tmp_path / "out.html")
    return done.facts, done.page.read_text()


def told(facts, check, word):
    """Return the findings of a check that hold a word."""
    return [f for f in facts["findings"] if f["check"] == check and word in f["found"] + f["cure"]]


def bunch_columns(bunch, **more):
    order = np.random.default_rng(0).permutation(len(bunch.target))  # some of these files are sorted by the target
    named = {f"c{i}": bunch.data[order, i] for i in range(bunch.data.shape[1])}
    return (
        named
        | {name: values[order] if len(values) == len(order) else values for name, values in more.items()}
        | {"y": bunch.target[order]}
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The facts and the page of examples/digits.toml."""
    done = explore_write.write(EXAMPLES / "digits.toml", tmp_path_factory.mktemp("digits") / "explore.html")
    return done.facts, done.page.read_text(), json.loads(done.json_file.read_text())


def test_the_writers_drift_of_the_digits_is_found_and_nothing_is_wrong_else(digits):
    facts, _, _ = digits
    assert {(f["level"], f["check"]) for f in facts["findings"]} == {("warn", "Drift"), ("note", "Labels")}
    assert "along the file" in facts["findings"][0]["found"]


def leaves(value):
    """Yield every fact below a value, as the page shows it."""
    if isinstance(value, dict):
        for one in value.values():
            yield from leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield explore_page.plain(value)


class Words(HTMLParser):
    def __init__(self):
        super().__init__()
        self.said, self.open = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes): ...

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.said.append(text)


def words_of(page):
    reader = Words()
    reader.feed(page)
    assert reader.open == []
    return " ".join(reader.said)


def test_the_json_file_holds_the_facts_and_the_page_every_one_of_them(digits):
    facts, page, read = digits
    assert read == facts
    words = words_of(page)
    missing = [fact for fact in leaves(facts) if fact not in words]
    assert missing == []


def test_the_page_of_a_table_with_categories_and_gaps_holds_every_fact(tmp_path):
    wine = load_wine()
    g = np.random.default_rng(0)
    gaps = np.where(g.random(178) < 0.1, "", wine.data[:, 0].astype(str))
    colour = np.array(["red", "white", "rose"])[g.integers(0, 3, 178)]
    text = 'missing = "fill"\ncategorical = ["colour"]\n'
    facts, page = explored(tmp_path, bunch_columns(wine, gaps=gaps, colour=colour), text)
    (column,) = (c for c in facts["columns"] if c["name"] == "gaps")
    assert column["filled"] >= (gaps == "").sum() > 0
    assert sum(rows for _, rows in next(c for c in facts["columns"] if c["name"] == "colour")["values"]) == 178
    words = words_of(page)
    assert [fact for fact in leaves(facts) if fact not in words] == []


def test_the_page_asks_nothing_of_any_address_and_runs_no_script(digits):
    _, page, _ = digits
    for found in SHELL.finditer(page):
        assert (found[1] or "").startswith(("#", "data:image/png;base64,")), found[0][:80]
    assert "<script" not in page and "http" not in page and "<link" not in page
    assert page.count("data:image/png;base64,") > 100


@pytest.mark.parametrize("word", ["'closed'", "explore.leak_score 0.99", "balanced accuracy 1.000"])
def test_a_leak_is_a_stop_that_names_the_column(tmp_path, word):
    wine = load_wine()
    facts, _ = explored(tmp_path, bunch_columns(wine, closed=wine.target * 2 + 1))
    assert [f["level"] for f in told(facts, "Leakage", word)] == ["stop"]


def test_a_constant_column_a_code_and_a_twin_are_told_by_name(tmp_path):
    cancer = load_breast_cancer()
    code = np.where(np.arange(569) % 50 == 0, -999, cancer.data[:, 0])
    more = {"flat": np.ones(569), "code": code, "twin": 3 * cancer.data[:, 3] + 1}
    facts, _ = explored(tmp_path, bunch_columns(cancer, **more))
    assert told(facts, "Columns", "never change: 'flat'")
    assert told(facts, "Columns", "'code' = -999 in 12 rows")
    assert told(facts, "Columns", "c3 = twin")
    clean, _ = explored(tmp_path, bunch_columns(cancer))
    assert [f for f in clean["findings"] if f["check"] != "Labels"] == []


def test_equal_rows_with_two_labels_are_told_by_their_lines(tmp_path):
    columns = {name: list(values) for name, values in bunch_columns(load_wine()).items()}
    for values in columns.values():
        values.append(values[4])
    columns["y"][-1] = 2 - columns["y"][4] // 2 * 2 if columns["y"][4] != 1 else 0
    facts, _ = explored(tmp_path, columns)
    assert told(facts, "Duplicates", "2 rows are equal to another row and have another label: line 6, line 180")
    assert facts["duplicates"]["contradicting"] == ["line 6", "line 180"]


def test_rows_copied_into_another_group_are_a_stop(tmp_path):
    columns = bunch_columns(load_breast_cancer(), site=np.arange(569) % 80)
    columns = {name: np.append(values, values[:40]) for name, values in columns.items()}
    columns["site"][569:] += 80
    facts, _ = explored(tmp_path, columns, 'group = "site"\n')
    assert told(facts, "Duplicates", "stand in a later part")[0]["level"] == "stop"
    assert facts["duplicates"]["pairs"]


def test_a_file_sorted_by_its_target_is_noted_and_not_taken_for_drift(tmp_path):
    wine = load_wine()
    columns = {f"c{i}": wine.data[:, i] for i in range(13)} | {"y": wine.target}
    facts, _ = explored(tmp_path, columns)
    assert told(facts, "Leakage", "the place in the file tells the target")[0]["level"] == "note"
    assert facts["drift"]["file"] is None


@pytest.mark.parametrize("prefix", ["", "patient-"])
def test_an_id_that_was_given_by_the_target_is_noted_also_as_text(tmp_path, prefix):
    columns = bunch_columns(load_breast_cancer())
    number = np.random.default_rng(0).permutation(1000)[: len(columns["y"])] + 1000 * (1 + columns["y"])
    columns["id"] = [f"{prefix}{n}" for n in number]
    facts, _ = explored(tmp_path, columns, 'id = "id"\n')
    assert told(facts, "Leakage", "the id of a row tells the target (score 1.000)")
    columns["id"] = [f"{prefix}{n}" for n in np.random.default_rng(7).permutation(len(number))]
    facts, _ = explored(tmp_path, columns, 'id = "id"\n')
    assert facts["leakage"]["order"]["id"] < 0.6 and not told(facts, "Leakage", "the id of a row")


def test_the_windows_follow_the_time_where_there_is_one(tmp_path):
    g = np.random.default_rng(0)
    day = g.permutation(1000)
    columns = {"a": g.normal(size=1000) + (day > 800), "day": day, "y": g.integers(0, 2, 1000)}
    facts, _ = explored(tmp_path, columns, 'time = "day"\n')
    (signal,) = (s for s in facts["drift"]["time"]["signals"] if s["name"] == "a")
    assert set(signal["sure"]) >= {"80%-90%", "90%-100%"}
    assert told(facts, "Drift", "along the time a (gap")


def test_a_regression_is_explored_too(tmp_path):
    diabetes = load_diabetes()
    facts, page = explored(tmp_path, bunch_columns(diabetes, paid=diabetes.target * 7), task="regression")
    assert told(facts, "Leakage", "'paid' (R2 1.000)")[0]["level"] == "stop"
    assert sum(sum(rows) for rows in facts["target"]["rows"].values()) == 442
    words = words_of(page)
    assert [fact for fact in leaves(facts) if fact not in words] == []


def test_marked_images_and_near_copies_are_found_and_drawn(tmp_path):
    table = data.load(Data("digits"), tmp_path)
    x = np.minimum(np.repeat(table.x[..., None].astype(np.int64) * 15, 3, axis=3), 255).astype(np.uint8)
    x = np.concatenate([x[:600], np.minimum(x[:40].astype(np.int64) + 9, 255).astype(np.uint8)])
    key = data.row_keys(x)
    y = np.append(table.y[:600], table.y[:40])
    x[:, 0, 0, 1] = y * 25
    given = np.arange(640) >= 600
    marked = data.Table(x, y, (), table.classes, key, key, "0" * 64, given_test=given)
    config = Config("marked", explore=Explore())
    look = explore_report.examine(
        config, marked, split.checked(marked, Split()), places.Outside(lambda row: f"row {row}"), print
    )
    facts = explore_facts.facts(look, explore_findings.findings(look))
    assert told(facts, "Leakage", "value at (0, 0, 1) of the image")[0]["level"] == "stop"
    assert facts["duplicates"]["near_copies"] == 40
    assert facts["images"]["channels"] == 3
    words = words_of(explore_page.html(look, facts))
    assert [fact for fact in leaves(facts) if fact not in words] == []


def test_rows_without_any_fault_give_findings_no_more_often_than_stated():
    found = []
    for seed in range(40):
        g = np.random.default_rng(seed)
        x = g.normal(size=(700, 12)).astype(np.float32)
        y = (x[:, 0] - x[:, 1] + 0.5 * g.normal(size=700) > 0).astype(np.int64)
        key = data.row_keys(x)
        table = data.Table(x, y, tuple(f"c{i}" for i in range(12)), ("no", "yes"), key, key, "")
        look = explore_report.examine(Config("x"), table, split.checked(table, Split()), OUTSIDE, print)
        found += [finding for finding in explore_findings.findings(look) if finding.check != "Labels"]
    assert len(found) <= 3  # two questions of drift at 1 % each: 0.8 expected, above 3 with probability 0.01


def test_the_verb_prints_the_findings_and_exits_with_0_although_training_would_stop(tmp_path, capsys):
    wine = load_wine()
    write_csv(tmp_path / "rows.csv", bunch_columns(wine, closed=wine.target))
    toml = tmp_path / "rows.toml"
    toml.write_text('name = "rows"\n[data]\nsource = "csv"\npath = "rows.csv"\ntarget = "y"\n')
    page = tmp_path / "page.html"
    assert vigil.main(["explore", str(toml), "--out", str(page)]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("rows: 178 rows (") and "stop  Leakage: one column alone" in out and str(page) in out
    assert vigil.main(["explore", str(toml), "--out", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(page.with_suffix(".json").read_text())


def test_rows_of_an_image_folder_are_told_by_their_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = data.load(Data("digits"), tmp_path)
    for row in range(400):
        name = tmp_path / "photos" / table.classes[table.y[row]] / f"{row:03}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(small.png(table.x[row] * 15))
    wrong = tmp_path / "photos" / "3" / "zzz.png"  # a zero among the threes
    wrong.write_bytes(small.png(table.x[0] * 15 + 3))
    (tmp_path / "photos" / "5" / "broken.png").write_bytes(b"not an image")
    toml = tmp_path / "photos.toml"
    toml.write_text('name = "photos"\n[data]\nsource = "images"\ncorrupt = "skip"\n')
    out = tmp_path / "out.html"
    facts = explore_write.write(toml, out, {"data.path": str(tmp_path / "photos")}).facts
    assert facts["labels"]["listed"][0]["row"] == "3/zzz.png"
    assert told(facts, "Data", "5/broken.png")
    assert facts["drift"]["file"] is None and not told(facts, "Leakage", "place in the file")
