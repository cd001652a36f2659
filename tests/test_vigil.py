"""The command line, as a user types it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tiny_release import TABLE

import vigil
from demo.stack import free_ports, get
from registry import aliases, store
from registry.release import InputSpec

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(capsys):
    """Return a function that runs a command line and gives (status, stdout, stderr)."""

    def call(*words):
        status = vigil.main(list(words))
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_an_empty_store_says_how_to_fill_it(run):
    status, out, _ = run("models")
    assert status == 0 and "vigil train examples/digits.toml" in out


def test_models_shows_every_release_with_its_alias_and_a_broken_one_as_broken(run, publish):
    one, two = publish(seed=1), publish(seed=2)
    aliases.promote(one.tag, "first")
    aliases.promote(two.tag, "second", force=True)
    (store.models() / "tiny" / "20260101-000000-0badc0de").mkdir()
    lines = {line.split()[0]: line for line in run("models")[1].splitlines()}
    assert lines[one.tag].endswith("previous") and lines[two.tag].endswith("champion")
    assert "BROKEN" in lines["tiny:20260101-000000-0badc0de"]
    status, _, said = run("models", "tiney")
    assert status == 2 and "no model 'tiney'; there is tiny" in said
    said = json.loads(run("models", "--json")[1])
    assert {one["tag"]: one["problem"] is None for one in said} == {
        one.tag: True,
        two.tag: True,
        "tiny:20260101-000000-0badc0de": False,
    }


def test_the_history_of_a_model_that_is_not_there_says_which_are(run, publish):
    assert run("history", "--model", "nope")[0] == 2
    publish()
    status, out, said = run("history", "--model", "nope", "--json")
    assert (status, out) == (2, "") and "no model 'nope'; there is tiny" in said
    status, out, _ = run("history", "--model", "tiny")
    assert status == 0 and "never promoted" in out


def test_the_table_of_models_is_aligned_and_names_metric_precision_and_what_is_not_ours(run, publish):
    homes = {"mae": {"value": 12.5, "lower": 11.0, "upper": 14.0}}
    one = publish(precision="int8"), publish("homes", spec=TABLE, classes=(), metrics=homes)
    (store.models() / "iris" / "abcdefgh").mkdir(parents=True)
    header, homes, iris, tiny = run("models")[1].splitlines()
    assert homes[header.index("metric") :].startswith("mae 12.5000 ")
    assert tiny[header.index("metric") :].split()[:3] == ["accuracy", "1.0000", "int8"]
    assert "another model in BentoML's store" in iris and "BROKEN" not in iris
    assert [tiny.startswith(one[0].tag), homes.startswith(one[1].tag)] == [True, True]


def test_an_unreadable_alias_file_does_not_hide_the_releases(run, publish):
    aliases.promote(publish().tag, "first")
    aliases.path("tiny").write_text("{")
    assert "ALIASES UNREADABLE" in run("models")[1]


def test_show_says_what_a_release_is_and_where_its_card_lies(run, publish):
    made = publish()
    said = dict(line.split(maxsplit=1) for line in run("show", made.tag)[1].splitlines())
    assert (said["release"], said["card"]) == (made.tag, str(made.path / "card.md"))
    assert said["accuracy"] == "1 (0.98 to 1)" and said["signature"] == "none"
    assert (said["parity"], said["precision"]) == ("differs by 1e-06 at most (limit 0.0001)", "fp32")
    assert json.loads(run("show", made.tag, "--json")[1])["name"] == "tiny"
    wide = publish("wide", spec=InputSpec("float32", (9,), tuple("abcdefghi")), classes=())
    assert "float32 (9,): a, b, c, d, e, f, g, h and 1 more\n" in run("show", wide.tag)[1]


def test_promote_rollback_and_history_tell_what_happened(run, publish):
    one, two = publish(seed=1), publish(seed=7, truth=1, created="2026-11-24T12:00:00Z")
    assert run("promote", one.tag, "--why", "first")[1].startswith(f"promote: nothing -> {one.version}\n")
    status, out, err = run("promote", two.tag, "--why", "second")
    assert (status, out) == (2, "") and err.startswith(f"vigil: {two.tag}: not promoted: on 300 common")
    assert "forced although on 300 common" in run("promote", two.tag, "--why", "second", "--force")[1]
    said = json.loads(run("rollback", "--why", "worse", "--json")[1])
    assert (said["action"], said["to_version"], said["why"]) == ("rollback", one.version, "worse")
    history = run("history")[1].splitlines()
    assert len(history) == 3 and history[1].endswith("(forced)") and "worse" in history[2]


def test_reasons_and_purposes_can_neither_move_the_cursor_nor_hide_a_line(run, publish):
    hostile = "fine\x1b[2A\x1b[2K\r\x9b1A\u202e\nto undo  rm -rf"
    one, two = publish(seed=1, purpose=hostile), publish(seed=2)
    for made in (one, two):
        aliases.promote(made.tag, hostile, force=True)
    aliases.rollback("tiny", hostile)
    for words, lines in ((["history"], 3), (["promote", two.tag, "--why", "again"], 1), (["show", one.tag], 0)):
        said = "".join(run(*words)[1:])
        assert all(one.isprintable() for one in said.replace("\n", "")) and "to undo  rm -rf" in said
        assert not lines or said.count("\n") == lines


def test_a_challenge_begins_shows_and_ends_on_the_command_line(run, publish):
    one, two = publish(seed=1), publish(seed=2)
    aliases.promote(one.tag, "first")
    out = run("challenge", two.tag, "--share", "25%", "--why", "promising")[1]
    assert out == f"challenge: {two.version} also answers 25 % of the requests of {one.version}\n"
    held = {line.split()[0]: line.split()[-1] for line in run("models")[1].splitlines()[1:]}
    assert held == {one.tag: "champion", two.tag: "challenger"}
    assert json.loads(run("history", "--json")[1])["challenger"]["share"] == 0.25
    out = run("promote", two.tag, "--why", "better", "--force")[1]
    assert f"\n  the challenge of {two.version} ended with it\n" in out
    run("challenge", one.tag, "--why", "again")
    said = json.loads(run("challenge", "--end", "--why", "enough", "--json")[1])
    assert (said["action"], said["to_version"]) == ("end", one.version)
    history = run("history")[1].splitlines()
    assert history[1].endswith("promising  (25 % of the requests)")
    assert history[3].endswith("again  (10 % of the requests)")
    assert history[4].endswith("enough")


def test_verify_passes_a_whole_release_and_names_the_file_of_a_damaged_one(run, publish):
    made = publish()
    assert run("verify", made.tag)[0] == 0
    (made.path / "card.md").write_text("nicer")
    status, out, err = run("verify", made.tag)
    assert (status, out) == (2, "") and "card.md is not the file that was published" in err


def test_a_release_is_signed_packed_and_unpacked_elsewhere(run, publish, tmp_path, monkeypatch):
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    public_form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, public_form))
    monkeypatch.chdir(tmp_path)
    tag = publish().tag
    assert run("sign", tag, "--key", str(private))[1].startswith(f"{tag}: signed, ")
    assert " signed" in run("models")[1].splitlines()[1]
    file = tag.replace(":", "-") + ".bentomodel"
    assert run("pack", tag)[1].startswith(f"{file}: 0.")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("VIGIL_REQUIRE_SIGNATURE", str(public))
    assert run("unpack", file)[1] == f'{tag}; to serve it: vigil promote {tag} --why "..."\n'
    assert run("verify", tag)[0] == 0
    monkeypatch.setenv("VIGIL_REQUIRE_SIGNATURE", str(private))
    assert "is no public key" in run("verify", tag)[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rollback", "--why", "x"), "no model has a champion"),
        (("promote", "tiny:20260101-000000-00000000", "--why", "x"), "not in the store"),
        (("challenge", "tiny:20260101-000000-00000000", "--why", "x"), "not in the store"),
        (("challenge", "--why", "x"), "accepted is a TAG, or --end"),
        (("challenge", "a", "--end", "--why", "x"), "--end to stop the challenge under way, not both"),
        (("challenge", "--end", "--why", "x"), "no model has a champion"),
        (("verify", "tiny"), "'tiny' is not a tag"),
        (("show", "tiny:20260101-000000-00000000"), "not in the store"),
        (("sign", "tiny:20260101-000000-00000000", "--key", "k.pem"), "not in the store"),
        (("pack", "tiny:20260101-000000-00000000"), "not in the store"),
        (("unpack", "nowhere.bentomodel"), "nowhere.bentomodel: cannot be unpacked"),
        (("models", "../.."), "'../..' is not a model name"),
        (("models", "t*"), "'t*' is not a model name"),
        (("gc", "--keep", "0"), "at least 1 of each model stays"),
        (("train", "nowhere.toml"), "nowhere.toml"),
        (("search", str(ROOT / "examples/digits.toml"), "--trials", "-1"), "--trials -1: accepted is 1 or more"),
        (("watch", "--log", str(ROOT)), "is a folder; accepted is the prediction log in it"),
        (("watch", "--state", str(ROOT)), "is a folder; accepted is a file for the monitor's counts in it"),
        (("watch", "--reports", str(ROOT / "vigil.py/x/y")), "y: no reports can be kept there, since "),
        (("labels", __file__, "--log", "nowhere/log"), "nowhere/log: there is no prediction log; name the one of"),
        (("keys", "add", "a", "--role", "label", "--file", "nowhere/k"), "nowhere/k: there is no folder nowhere; make"),
        (("keys", "remove", "a", "--file", "nowhere/k"), "nowhere/k: there is no folder nowhere; make it"),
        (("models", "sync", "nope://x"), "Protocol not known: nope"),
        (("labels", "nowhere.csv"), "nowhere.csv: no such file"),
        (("report",), "no model has a champion"),
        (("report", "tiny:20260101-000000-00000000", "--out", str(ROOT)), "is a folder; name a file with --out"),
        (("build",), "no model has a champion"),
    ],
)
def test_what_the_user_can_cure_is_one_line_and_status_2(run, words, message):
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith("vigil: ") and err.count("\n") == 1 and message in err
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("verb", ["serve", "watch"])
def test_a_taken_port_is_named_with_the_cure(run, verb):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, _, err = run(verb, "--port", port)
    assert status == 2
    assert f"127.0.0.1:{port}: Address already in use; stop what listens there or choose --port" in err


def test_labels_of_a_file_are_written_and_unknown_ids_counted(run, tmp_path):
    file = tmp_path / "truth.csv"
    file.write_text("id,label\na,1\nb,2\n")
    assert run("labels", str(file))[1] == "2 labels written, 2 of them for an id that is not in the log (yet)\n"
    assert json.loads(run("labels", str(file), "--json")[1]) == {"accepted": 2, "unknown": 2}


def test_a_reader_that_has_read_enough_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    environment = os.environ | {"BENTOML_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "vigil", "models"]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_to_a_worker_that_breaks_is_no_reader_that_has_read_enough(monkeypatch):
    def init(_options):
        """Write to a worker that died."""
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(vigil, "init", init)
    with pytest.raises(BrokenPipeError):
        vigil.main(["init", "a", "--from", "b"])


def test_the_installed_program_prints_its_help():
    program = Path(sys.executable).parent / "vigil"
    said = subprocess.run([str(program), "--help"], capture_output=True, text=True, check=True)
    assert "promote" in said.stdout and said.stderr == ""


def test_vigil_build_works_from_any_folder_and_says_what_came_of_it(publish, home, tmp_path, monkeypatch, capfd):
    made = publish()
    aliases.promote(made.tag, "first")
    monkeypatch.chdir(tmp_path)
    assert vigil.main(["build"]) == 0
    (bento,) = (home / "bentos" / "vigil").glob("*/bento.yaml")
    assert f"model_tag: {made.tag}" in bento.read_text()
    first, *after = capfd.readouterr().out.splitlines()
    tag = f"vigil:{bento.parent.name}"
    assert first.startswith(f"{tag}: ") and f" MB, and {made.tag}, " in first
    assert [line.split(": ")[1].strip() for line in after] == [
        f"bentoml serve {tag} --host 127.0.0.1", f"make image IMAGE='--bento {tag}'"
    ]  # fmt: skip


def test_a_bento_that_cannot_be_built_ends_with_one_line_and_what_bentoml_said(publish, home, capfd):
    aliases.promote(publish().tag, "first")
    (home / "bentos").parent.mkdir(exist_ok=True)
    (home / "bentos").write_text("no folder")
    assert vigil.main(["build"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "vigil: bentoml could not build it; what it said is above"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("VIGIL_KEYS", "/nonexistent/keys.json", "/nonexistent/keys.json: no such key file; `vigil keys add NAME"),
        ("VIGIL_WORKER", "2", "environment: unknown variable VIGIL_WORKER; did you mean VIGIL_WORKERS?"),
        ("VIGIL_ADMIN_ADDRESS", "192.0.2.1:9400", "VIGIL_ADMIN_ADDRESS: 192.0.2.1:9400 cannot be listened on"),
    ],
)
def test_a_service_that_could_not_start_is_refused_with_one_line_and_status_2(
    run, monkeypatch, variable, value, message
):
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(os, "execv", _started)
    status, _, err = run("serve", "--port", str(free_ports(1)[0]))
    assert status == 2 and err.startswith(f"vigil: {message}") and err.count("\n") == 1


def test_a_model_that_the_store_does_not_hold_is_refused_with_those_it_does(run, publish, monkeypatch):
    monkeypatch.setattr(os, "execv", _started)
    words = ("serve", "--port", str(free_ports(1)[0]), "--model")
    with pytest.raises(RuntimeError, match="started"):  # an empty store may be filled later
        run(*words, "churn")
    for name in ("churn", "digits"):
        aliases.promote(publish(name).tag, "first")
    assert run(*words, "chrun")[::2] == (
        2, "vigil: --model: no model 'chrun'; did you mean 'churn'? there are churn, digits\n",
    )  # fmt: skip
    assert run(*words, "digits,other")[2] == "vigil: --model: no model 'other'; there are churn, digits\n"
    with pytest.raises(RuntimeError, match="started"):
        run(*words, "digits,churn")


def test_a_promotion_that_gives_the_store_a_further_model_with_a_champion_says_what_services_need(run, publish):
    first, better, other = publish("tiny"), publish("tiny", seed=1), publish("holes")
    assert run("promote", first.tag, "--why", "first")[2] == ""
    assert run("promote", better.tag, "--why", "better", "--force")[2] == ""
    status, out, err = run("promote", other.tag, "--why", "first of another", "--json")
    assert status == 0 and json.loads(out)["to_version"] == other.version
    assert err.startswith("vigil: 2 models have a champion now; ") and err.count("\n") == 1
    assert "VIGIL_MODELS=holes,tiny" in err
    assert run("rollback", "--model", "tiny", "--why", "back")[2] == ""


def test_several_champions_of_which_none_is_named_are_refused_before_a_service_starts(run, publish, monkeypatch):
    monkeypatch.setattr(os, "execv", _started)
    words = ("serve", "--port", str(free_ports(1)[0]))
    for name in ("churn", "digits"):
        aliases.promote(publish(name).tag, "first")
    assert run(*words)[::2] == (
        2,
        "vigil: 2 models have a champion or follow a place, none is named: set VIGIL_MODELS=churn,digits, or one of "
        "them (vigil serve: --model churn,digits)\n",
    )
    monkeypatch.setenv("VIGIL_MODELS", "digits")
    with pytest.raises(RuntimeError, match="started"):
        run(*words)


def _started(*_):
    raise RuntimeError("started")


def test_vigil_serve_serves_the_champion(publish, home, eventually, start_service):
    made = publish()
    aliases.promote(made.tag, "first")
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "vigil", "serve", "--port", str(port)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        eventually("readiness", lambda: get(port, "/readyz")[0] == 200, 60)
        assert json.loads(get(port, "/v1/model")[1])["version"] == made.version
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    "words",
    [
        ("train", "EXAMPLE", "--run-folder", "file/run"),
        ("train", "EXAMPLE", "--find-rate", "--run-folder", "file/run"),
        ("crossval", "EXAMPLE", "--run-folder", "file/run"),
        ("explore", "EXAMPLE", "--out", "file/page.html"),
        ("explore", "EXAMPLE", "--out", "folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_and_is_no_bug(run, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    example = tmp_path / "tiny.toml"
    example.write_text('name = "tiny"\n[data]\nsource = "breast_cancer"\n')
    status, out, err = run(*(word.replace("EXAMPLE", str(example)) for word in words))
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"vigil: {words[-1].split('/')[0]}")
    assert "cannot be used: " in err and "name another place" in err


def test_a_store_that_is_no_folder_is_named(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file" / "home"))
    status, out, err = run("promote", "tiny:20260101-000000-00000000", "--why", "x")
    assert (status, out, err.count("\n")) == (2, "", 1) and "Not a directory" in err


def test_an_error_of_the_system_that_is_a_bug_keeps_its_traceback(monkeypatch):
    def gc(_options):
        """Look where nothing is."""
        raise FileNotFoundError(2, "No such file or directory", "x")

    monkeypatch.setattr(vigil.verbs, "gc", gc)
    with pytest.raises(FileNotFoundError):
        vigil.main(["gc"])


def test_an_interrupted_verb_ends_with_one_line(monkeypatch, capsys):
    def init(_options):
        """Wait for ever."""
        raise KeyboardInterrupt

    monkeypatch.setattr(vigil, "init", init)
    assert vigil.main(["init", "a", "--from", "b"]) == 130
    assert capsys.readouterr().err == "vigil: interrupted\n"
