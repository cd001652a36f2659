import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from filled_log import fill, label
from tiny_release import HOMES, IMAGE, TABLE

import vigil
from monitoring.log import decoded, logfile, parquet
from monitoring.log.decoded import Selection
from monitoring.log.parquet import write_file
from monitoring.log.pseudonym import Pseudonyms
from monitoring.log.redaction import Redaction
from registry import store
from registry.errors import DataError
from registry.release import InputSpec


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def homes(publish):
    return publish("homes", spec=HOMES, classes=("no", "yes"))


def test_columns_come_by_name_decoded_with_the_last_label(homes, log, tmp_path):
    rows, outputs = fill(log, homes, ["a", "b", "c"], time_s=1_750_000_000.25)
    label(log, [("a", "yes"), ("a", "no"), ("c", "yes")])
    written = write_file(log, tmp_path / "out.parquet", Selection())
    table = pq.read_table(written.file)
    assert table.schema.names == [*decoded.FACTS, "probability_no", "probability_yes", "area", "city", "heating"]
    assert table["id"].to_pylist() == ["a", "b", "c"] and table["label"].to_pylist() == ["no", None, "yes"]
    assert [when.timestamp() for when in table["time"].to_pylist()] == [1_750_000_000.25 + i for i in range(3)]
    np.testing.assert_array_equal(table["area"].to_numpy(), rows[:, 0])
    np.testing.assert_array_equal(table["probability_yes"].to_numpy(), outputs[:, 1])
    assert table["city"].to_pylist() == [HOMES.categories["city"][int(code)] for code in rows[:, 1]]
    assert table["predicted"].to_pylist() == [("no", "yes")[k] for k in outputs.argmax(axis=1)]


def test_what_was_not_recorded_is_null_and_hashes_have_a_column(homes, log, tmp_path):
    keyed = Pseudonyms(b"0123456789abcdef")
    rows, _ = fill(log, homes, ["a", "b"])
    fill(log, homes, ["c", "d"], redaction=Redaction(HOMES, dropped=(0,), hashed=(1,), pseudonyms=keyed))
    fill(log, homes, ["e"], redaction=Redaction(HOMES, whole=True))
    table = pq.read_table(write_file(log, tmp_path / "out.parquet", Selection()).file)
    towns = [HOMES.categories["city"][int(code)] for code in rows[:, 1]]
    assert table["area"].to_pylist() == [*rows[:, 0].tolist(), None, None, None]
    assert table["city"].to_pylist() == [*towns, None, None, None]
    assert table["heating"].null_count == 1
    assert table["city_hash"].to_pylist() == [None, None, *(keyed.value("city", town) for town in towns), None]


def test_images_are_whole_with_their_shape_and_many_classes_one_column(publish, log, tmp_path):
    digits = publish("digits", spec=IMAGE, classes=tuple(f"{i:03}" for i in range(60)))
    rows, outputs = fill(log, digits, ["a", "b"])
    fill(log, digits, ["c"], redaction=Redaction(IMAGE, whole=True))
    table = pq.read_table(write_file(log, tmp_path / "out.parquet", Selection()).file)
    assert json.loads(table.schema.metadata[f"shape of {digits.tag}".encode()]) == list(IMAGE.shape)
    assert table["row"].to_pylist() == [*rows.reshape(2, -1).tolist(), None]
    np.testing.assert_array_equal(np.array(table["probabilities"].to_pylist()[:2], dtype=np.float32), outputs)


def test_a_column_with_the_name_of_a_fact_makes_way(publish, log, tmp_path):
    spec = InputSpec("float32", (2,), ("time", "prediction"))
    rows, outputs = fill(log, publish("odd", spec=spec, classes=()), ["a"])
    table = pq.read_table(write_file(log, tmp_path / "out.parquet", Selection()).file)
    assert table["input_time"].to_pylist() == rows[:, 0].tolist()
    assert table["prediction"].to_pylist() == outputs[:, 0].tolist()
    assert table["input_prediction"].to_pylist() == rows[:, 1].tolist()


def test_rows_are_chosen_by_model_version_and_time(publish, log, tmp_path):
    one, other = publish("m", spec=TABLE, classes=("a", "b")), publish("n", seed=3, spec=TABLE, classes=("a", "b"))
    fill(log, one, [f"m{i}" for i in range(10)], time_s=100)
    fill(log, other, [f"n{i}" for i in range(10)], time_s=100)

    def ids(**chosen):
        written = write_file(log, tmp_path / "out.parquet", Selection(**chosen), force=True)
        return pq.read_table(written.file)["id"].to_pylist()

    assert ids(model="m") == [f"m{i}" for i in range(10)]
    assert ids(model="n", version=other.version, from_s=103, to_s=105) == ["n3", "n4"]
    assert ids(from_s=108) == ["m8", "m9", "n8", "n9"]
    assert ids(model="m", version=other.version) == ids(model="absent", from_s=1) == []


def test_releases_that_do_not_go_together_are_named_and_can_be_exported_apart(publish, log, tmp_path):
    text = InputSpec("float32", (1,), ("x",), {"x": ("a", "b")})
    number = InputSpec("float32", (1,), ("x",))
    made = [publish("m", seed=k, spec=spec, classes=("a", "b")) for k, spec in enumerate((text, number))]
    for k, one in enumerate(made):
        fill(log, one, [f"r{k}"])
    with pytest.raises(DataError, match="its column 'x' is .*, in another release it is .*; choose one with --version"):
        write_file(log, tmp_path / "out.parquet", Selection())
    assert not list(tmp_path.glob("*.parquet*"))
    assert write_file(log, tmp_path / "out.parquet", Selection("m", made[0].version)).rows == 1


def test_of_a_release_that_is_gone_the_facts_are_there(homes, publish, log, tmp_path):
    gone = publish("gone", spec=TABLE, classes=("a", "b"))
    fill(log, gone, ["a"])
    fill(log, homes, ["b"])
    for path in sorted((store.models() / "gone").rglob("*"), reverse=True):
        path.chmod(0o700)
        path.rmdir() if path.is_dir() else path.unlink()
    written = write_file(log, tmp_path / "out.parquet", Selection())
    assert written.undecoded == (gone.tag,) and gone.tag in written.to_text()
    table = pq.read_table(written.file)
    assert table["id"].to_pylist() == ["a", "b"] and table["area"].null_count == 1


def test_small_batches_give_the_same_rows(homes, log, tmp_path, monkeypatch):
    fill(log, homes, [f"{i}" for i in range(50)])
    whole = pq.read_table(write_file(log, tmp_path / "a.parquet", Selection()).file)
    monkeypatch.setattr(decoded, "BATCH_ROWS", 7)
    assert pq.read_table(write_file(log, tmp_path / "b.parquet", Selection()).file).equals(whole)
    monkeypatch.setattr(decoded, "BATCH_BYTES", 1)
    assert pq.read_table(write_file(log, tmp_path / "c.parquet", Selection()).file).equals(whole)


def test_show_prints_the_newest_rows_by_name(homes, log, capsys):
    rows, _ = fill(log, homes, [f"r{i}" for i in range(20)])
    label(log, [("r19", "yes")])
    assert vigil.main(["log", "show", "--log", str(log), "--rows", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["rows"]
    assert [row["id"] for row in said] == ["r18", "r19"] and [row["label"] for row in said] == [None, "yes"]
    assert said[1]["city"] == HOMES.categories["city"][int(rows[19, 1])]
    assert vigil.main(["log", "show", "--log", str(log), "--rows", "1"]) == 0
    text = capsys.readouterr().out
    assert "r19" in text and "label yes" in text and f"area {rows[19, 0]:.6g}, city " in text
    assert vigil.main(["log", "show", "--log", str(log), "--model", homes.name, "--since", "1m"]) == 0
    assert capsys.readouterr().out == "no rows\n"


def test_show_prints_no_id_or_label_that_moves_the_cursor(homes, log, capsys):
    fill(log, homes, ["a\x1b[2K\r\u202e"])
    label(log, [("a\x1b[2K\r\u202e", "yes\n\x9b1A")])
    assert vigil.main(["log", "show", "--log", str(log)]) == 0
    text = capsys.readouterr().out
    assert "a?[2K ?" in text and "label yes ?1A" in text and text.count("\n") == 2
    assert all(one.isprintable() for one in text.replace("\n", ""))


def test_show_says_which_models_and_versions_the_log_has_where_it_has_none_of_the_one_asked_for(homes, log, capsys):
    logfile.connect(log).close()
    assert vigil.main(["log", "show", "--log", str(log), "--model", "home"]) == 0  # of an empty log nothing is wrong
    fill(log, homes, ["r1"])
    capsys.readouterr()
    assert vigil.main(["log", "show", "--log", str(log), "--model", "home"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and f"holds no row of model 'home'; there is {homes.name}" in said.err
    assert vigil.main(["log", "show", "--log", str(log), "--model", homes.name, "--version", "v"]) == 2
    assert f"no row of version 'v' of {homes.name}; there is {homes.version}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "accepted is one of FILE.parquet and --to URL"),
        (["a.parquet", "--to", "file:///x"], "accepted is one of FILE.parquet and --to URL"),
        (["--to", "file:///x", "--force"], "--force replaces a FILE.parquet; --to URL adds what is new"),
        (["a.parquet", "--this-hour"], "FILE.parquet gets all rows at once; with --to alone go --this-hour"),
        (["a.parquet", "--every", "1h"], "FILE.parquet gets all rows at once; with --to alone go --this-hour"),
        (["--to", "file:///x", "--model", "m"], "--to writes all that is new"),
        (["a.parquet", "--version", "v"], "--version needs --model"),
        (["a.parquet", "--log", "no.sqlite"], "no.sqlite: there is no prediction log"),
        (["no/a.parquet"], "no/a.parquet: cannot be written"),
        (["x.csv"], "x.csv: must end in .parquet"),
        (["log.sqlite"], "log.sqlite: must end in .parquet"),
        (["there.parquet"], "there.parquet: is there already; choose another name, or replace it with --force"),
        (["--to", "nowhere://x"], "nowhere://x: Protocol not known"),
    ],
)
def test_an_export_that_cannot_be_is_refused_with_the_cure(homes, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fill(store.home() / "log.sqlite", homes, ["a"])
    mine = [tmp_path / name for name in ("there.parquet", "x.csv", "log.sqlite")]
    for file in mine:
        file.write_text("mine")
    assert vigil.main(["log", "export", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [file.read_text() for file in mine] == ["mine"] * 3


def test_an_export_replaces_a_file_when_it_is_told_to(homes, tmp_path, capsys):
    fill(store.home() / "log.sqlite", homes, ["a"])
    file = tmp_path / "there.parquet"
    file.write_text("mine")
    assert vigil.main(["log", "export", str(file), "--force"]) == 0
    assert pq.read_table(file)["id"].to_pylist() == ["a"]


@pytest.mark.proof
def test_memory_does_not_grow_with_the_rows_that_are_exported(publish, log, tmp_path):
    spec = InputSpec("float32", (64, 64))
    images = publish("images", spec=spec, classes=("a", "b"))
    peaks = {}
    for rows in (8_000, 12_000):
        fill(log, images, [f"{rows}-{i}" for i in range(rows)], step_s=1e-4)
        code = (
            "import sys; from pathlib import Path; from monitoring.log.parquet import write_file;"
            "from monitoring.log.decoded import Selection;"
            "write_file(Path(sys.argv[1]), Path(sys.argv[2]), Selection(), force=True);"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        command = [sys.executable, "-c", code, str(log), str(tmp_path / "out.parquet")]
        root = str(Path(parquet.__file__).parents[2])
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        peaks[rows] = int(done.stdout) / 1024
    size_mb = log.stat().st_size / 1e6
    print(f"export of {size_mb:.0f} MB: {peaks[12_000]:.0f} MiB at most, of two fifths of it {peaks[8_000]:.0f} MiB")
    assert peaks[12_000] < peaks[8_000] + 60
