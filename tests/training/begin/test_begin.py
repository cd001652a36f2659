import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_linnerud, load_wine

import vigil
from registry import store
from registry.errors import ConfigError, DataError
from training import config, run
from training.begin import begin
from training.rows import data, split
from training.task import Order


def random():
    return np.random.default_rng(0)


def frame(load):
    return load(as_frame=True).frame


def begun(tmp_path, source, name="mine", target=""):
    """Return the settings that `vigil init` writes, after loading and dealing out with them as training does."""
    begin.write(name, Path(source), target, tmp_path)
    settings = config.load(tmp_path / f"{name}.toml")
    table = data.load(settings.data, tmp_path, settings.task)
    parts = split.checked(table, settings.split)
    assert len(parts.test) >= 5 * settings.reference.bins  # what the drift reference of the release asks for
    return settings


def csv(tmp_path, table, name="rows.csv", **how):
    table.to_csv(tmp_path / name, **{"index": False} | how)
    return tmp_path / name


def passengers(count=891):
    """Return a table like those that people have: an id, names, gaps, text, a target in the second column."""
    drawn = random()
    sex, age = drawn.choice(["male", "female"], count), drawn.integers(1, 80, count).astype(float)
    return pd.DataFrame({
        "PassengerId": range(1, count + 1), "Survived": ((sex == "female") + drawn.normal(0, 0.5, count) > 0.5) * 1,
        "Name": [f"Smith, {n}" for n in range(count)], "Sex": sex, "Age": np.where(age < 10, np.nan, age),
        "Ticket": [f"A/{n % 400}" for n in range(count)], "Port": drawn.choice(["S", "C", None], count),
        "Ship": "one",
    })  # fmt: skip


@pytest.mark.parametrize(
    ("load", "task"),
    [
        (load_iris, "classification"), (load_wine, "classification"), (load_breast_cancer, "classification"),
        (load_digits, "classification"), (load_diabetes, "regression"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_tables_of_scikit_learn_are_understood(tmp_path, load, task, kind):
    path = tmp_path / f"rows.{kind}"
    frame(load).to_csv(path, index=False) if kind == "csv" else frame(load).to_parquet(path)
    found = begun(tmp_path, path)
    assert (found.task, found.data.source, found.data.target, found.data.path) == (task, kind, "target", path.name)
    assert found.data.missing == "stop"


def test_ids_names_gaps_text_and_constants_are_recognised(tmp_path):
    found = begun(tmp_path, csv(tmp_path, passengers())).data
    assert (found.target, found.id, found.missing) == ("Survived", "PassengerId", "fill")
    assert found.drop == ("Name", "Ticket", "Ship")
    assert found.categorical == found.slices == ("Sex", "Port")


def test_a_byte_order_mark_semicolons_dates_and_a_nameless_index_are_recognised(tmp_path):
    table = passengers().assign(when=pd.date_range("2024-01-01", periods=891)).drop(columns="PassengerId")
    found = begun(tmp_path, csv(tmp_path, table, index=True, sep=";", encoding="utf-8-sig")).data
    assert (found.id, found.time, found.target) == ("unnamed_1", "when", "Survived")


@pytest.mark.parametrize(("form", "written"), [("DD.MM.YYYY", "%d.%m.%Y"), ("DD/MM/YYYY", "%d/%m/%Y"),
                                               ("MM/DD/YYYY", "%m/%d/%Y %H:%M")])  # fmt: skip
def test_dates_as_people_write_them_are_the_time(tmp_path, form, written):
    days = pd.date_range("2024-01-01", periods=891)
    path = csv(tmp_path, passengers().assign(when=days.strftime(written)))
    found = begun(tmp_path, path)
    assert found.data.time == "when"
    assert f"when: dates as {form}\n" in (tmp_path / "mine.toml").read_text()
    assert data.load(found.data, tmp_path, found.task).time.tolist() == [day.timestamp() for day in days]


def test_dates_that_may_be_day_or_month_first_are_not_guessed_and_the_file_says_so(tmp_path):
    days = [f"{1 + n % 12:02}/{1 + n // 12 % 12:02}/2025" for n in range(891)]
    found = begun(tmp_path, csv(tmp_path, passengers().assign(when=days))).data
    assert found.time == "" and "when" in found.drop
    text = (tmp_path / "mine.toml").read_text().replace("\n# ", " ")
    assert "when: dates as DD/MM/YYYY or MM/DD/YYYY, such as 01/01/2025, and none tells which: write them as" in text


def test_numbers_with_a_decimal_comma_are_no_ids_and_the_file_says_what_to_do(tmp_path):
    path = csv(tmp_path, frame(load_diabetes).round({"target": 1}), sep=";", decimal=",")
    with pytest.raises(DataError, match=r"target holds numbers with a decimal comma, such as 151,0; write a point"):
        begin.write("mine", path, folder=tmp_path)
    found = begun(tmp_path, csv(tmp_path, passengers(), sep=";", decimal=",")).data
    assert (found.id, found.drop) == ("PassengerId", ("Name", "Age", "Ticket", "Ship"))
    assert "Age: numbers with a decimal comma, such as " in (tmp_path / "mine.toml").read_text().replace("\n# ", " ")


def test_rows_of_one_patient_are_kept_together(tmp_path):
    table = frame(load_diabetes).assign(patient_id=random().integers(0, 150, 442))
    assert begun(tmp_path, csv(tmp_path, table)).data.group == "patient_id"
    assert begun(tmp_path, csv(tmp_path, frame(load_diabetes)), "other").data.group == ""
    assert '# group = "..."' in (tmp_path / "other.toml").read_text()


def test_every_choice_has_its_reason_above_it(tmp_path):
    begin.write("mine", csv(tmp_path, passengers()), folder=tmp_path)
    gaps = passengers().isna().sum()
    text = (tmp_path / "mine.toml").read_text().replace("\n# ", " ")
    for reason in (
        "CSV, separated by comma: 891 rows, 8 columns\nsource",
        "PassengerId: counts up\nid",
        "Name: another value in every row; Ticket: 400 different texts in 891 rows, too many for categories; "
        "Ship: always one\ndrop",
        "text, each value a category. Sex: 2 different; Port: 2 different\ncategorical",
        f"empty cells: Age {gaps.Age}, Port {gaps.Port}; the median or most frequent value goes in\nmissing",
        "Survived holds 2 different whole numbers: classes\ntask",
        "guessed, by its name; --target COLUMN chooses another: PassengerId, Name",
    ):
        assert reason in text


def test_the_target_may_be_named_and_decides_between_classes_and_a_number(tmp_path):
    path = csv(tmp_path, passengers())
    assert begun(tmp_path, path, "sex", "Sex").task == "classification"
    age = begun(tmp_path, path, "age", "Age")
    assert (age.task, age.data.target) == ("regression", "Age")
    with pytest.raises(DataError, match=r"no column 'Agee' \(--target\); found PassengerId"):
        begin.write("wrong", path, "Agee", tmp_path)
    with pytest.raises(DataError, match="Name holds 891 different texts in 891 rows; name another column"):
        begin.write("wrong", path, "Name", tmp_path)
    with pytest.raises(DataError, match="Ship holds 1 different values; there is nothing to tell apart"):
        begin.write("wrong", path, "Ship", tmp_path)


def test_a_column_that_is_the_answer_in_other_words_is_dropped_and_said(tmp_path):
    table = frame(load_wine)
    table["answer"] = table["target"].map({0: "zero", 1: "one", 2: "two"})
    found = begun(tmp_path, csv(tmp_path, table))
    assert found.data.drop == ("answer",)
    assert (found.data.categorical, found.data.slices) == ((), ())
    assert "answer: alone gives the target away (1.000)" in (tmp_path / "mine.toml").read_text()


def test_an_only_column_that_gives_the_answer_is_kept_and_said(tmp_path):
    x = random().normal(size=3000)
    found = begun(tmp_path, csv(tmp_path, pd.DataFrame({"x": x, "y": (x > 0) * 1})))
    assert (found.data.drop, found.explore.leakage) == ((), "allow")


def test_an_image_folder_of_many_sizes_is_brought_to_one_and_broken_images_are_counted(tmp_path):
    root = tmp_path / "photos"
    drawn = random()
    for n in range(120):
        (root / f"class{n % 2}").mkdir(parents=True, exist_ok=True)
        array = drawn.integers(0, 256, (40 + n % 3, 50, 3), dtype=np.uint8)
        Image.fromarray(array).save(root / f"class{n % 2}" / f"{n}.png")
    (root / "class0" / "bad.png").write_bytes(b"junk")
    found = begun(tmp_path, root)
    assert (found.data.source, found.data.side_pixels, found.data.corrupt) == ("images", 40, "skip")
    assert (found.augment.flip_share, found.model.kind) == (0.5, "resnet")


def test_grey_images_are_not_mirrored_and_a_test_folder_is_the_test(tmp_path):
    root, bunch = tmp_path / "digits", load_digits()
    for n, (image, label) in enumerate(zip(bunch.images[:500], bunch.target[:500], strict=True)):
        path = root / ("test" if n % 5 == 0 else "train") / str(label) / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(path)
    (root / "train" / "0" / "copy.png").write_bytes((root / "test" / "0" / "0.png").read_bytes())
    found = begun(tmp_path, root)
    assert (found.augment.flip_share, found.model.kind, found.data.side_pixels) == (0.0, "cnn", 0)
    assert (found.split.train, found.explore.duplicates) == (0.8, "drop")
    assert found.purpose == "Say what an image shows."


@pytest.mark.parametrize(
    ("labels", "task", "purpose"),
    [
        ("classes", "classification", "Say which class a row belongs to."),
        ("numbers", "regression", "Predict a number."),
    ],
)
def test_an_npz_is_judged_by_the_type_of_y(tmp_path, labels, task, purpose):
    drawn = random()
    y = drawn.integers(0, 3, 400) if labels == "classes" else drawn.normal(size=400)
    np.savez(tmp_path / "rows.npz", x=drawn.normal(size=(400, 5)), y=y)
    found = begun(tmp_path, tmp_path / "rows.npz")
    assert (found.task, found.purpose) == (task, purpose)


def test_nothing_is_written_over_and_nothing_is_left_after_a_refusal(tmp_path):
    path = csv(tmp_path, frame(load_iris))
    begin.write("mine", path, folder=tmp_path)
    before = (tmp_path / "mine.toml").read_bytes()
    with pytest.raises(ConfigError, match=r"mine.toml: is there already; remove it, or choose another name"):
        begin.write("mine", path, folder=tmp_path)
    assert (tmp_path / "mine.toml").read_bytes() == before
    with pytest.raises(DataError, match="train rows of 20; at least 20 are needed"):
        begin.write("small", csv(tmp_path, frame(load_linnerud)), folder=tmp_path)
    assert not (tmp_path / "small.toml").exists()


@pytest.mark.parametrize(
    ("name", "source", "target", "message"),
    [
        ("My Model", "rows.csv", "", "'My Model' is no name; accepted are"),
        ("mine", "nowhere.csv", "", "nowhere.csv: no such file or folder; --from takes"),
        ("mine", "rows.xlsx", "", "rows.xlsx: of an unknown kind; accepted are .csv"),
        ("mine", "rows.npz", "y", "--target names a column of a table"),
    ],
)
def test_what_cannot_be_begun_says_why(tmp_path, name, source, target, message):
    (tmp_path / "rows.xlsx").write_bytes(b"")
    np.savez(tmp_path / "rows.npz", x=np.zeros((4, 2)), y=np.arange(4))
    with pytest.raises((ConfigError, DataError)) as caught:
        begin.write(name, tmp_path / source, target, tmp_path)
    assert message in str(caught.value)


def test_column_names_with_quotes_and_signs_survive(tmp_path):
    table = frame(load_iris).rename(columns={"target": 'the "kind" \\ of é', "sepal width (cm)": "a # b"})
    table["a\tb"] = "same"
    found = begun(tmp_path, csv(tmp_path, table), target='the "kind" \\ of é')
    assert found.data.target == 'the "kind" \\ of é'
    assert found.data.drop == ("a\tb",)


def test_vigil_init_prints_what_it_chose_and_what_comes_next(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far").mkdir()
    csv(tmp_path / "far", passengers())
    assert vigil.main(["init", "mine", "--from", "far/rows.csv"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("wrote mine.toml: CSV, separated by comma, 891 rows, 8 columns\n")
    assert "next: read it, then vigil train mine.toml" in said
    assert tomllib.loads(Path("mine.toml").read_text())["data"]["path"] == "far/rows.csv"
    assert vigil.main(["init", "mine", "--from", "far/rows.csv"]) == 2
    assert vigil.main(["init", "other", "--from", "far/rows.csv", "--target", "Sex", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["data.target"] == "Sex"


def test_what_is_begun_trains_at_once_also_on_other_rows_and_the_card_names_those(tmp_path):
    path = csv(tmp_path, passengers(400), "january.csv")
    begin.write("mine", path, folder=tmp_path)
    later = path.rename(tmp_path / "february.csv")
    order = Order(tmp_path / "mine.toml", tmp_path / "run", overrides=config.overrides(str(later), ()))
    outcome = run.carry_out(order, lambda _: None)
    assert outcome.metrics["balanced_accuracy"]["value"] > 0.7
    card = store.open_release(outcome.tag).read("card.md").decode()
    assert "Predict Survived." in card
    assert "february.csv" in card
    assert "january" not in card
