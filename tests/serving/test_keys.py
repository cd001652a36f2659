import hashlib
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import vigil
from registry.errors import ConfigError
from serving import keys

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path, monkeypatch):
    place = tmp_path / "secret" / "keys.json"
    place.parent.mkdir()
    monkeypatch.setenv(keys.VARIABLE, str(place))
    return place


@pytest.fixture
def run(capsys, file):
    """Return a function that runs `vigil keys ...` and gives (status, stdout, stderr)."""

    def call(*words):
        status = vigil.main(["keys", *words])
        return status, *capsys.readouterr()

    return call


def made(name="shop", roles=("predict",), **more):
    return keys.make(keys.Key(name, b"", roles, **more))


def test_a_key_is_256_random_bits_and_only_its_hash_is_on_disk(run, file):
    status, out, _ = run("add", "shop", "--role", "predict")
    secret = out.strip()
    assert status == 0 and re.fullmatch(r"vigil_[A-Za-z0-9_-]{43}", secret) and len(secret) == keys.LENGTH
    held = file.read_text()
    assert secret not in held and secret[6:] not in held
    assert json.loads(held)["keys"][0]["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert len({made()[0] for _ in range(1000)}) == 1000


def test_only_the_owner_may_read_the_file_whatever_the_umask(run, file):
    old = os.umask(0)
    try:
        run("add", "shop", "--role", "predict")
        run("add", "shop", "--role", "predict")
    finally:
        os.umask(old)
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_was_added_is_what_is_read(file):
    _, key = made(roles=("label", "predict"), rate=2.5, burst=7, expires=keys.expiry("2999-12-31"))
    _, other = made("night-job", ("admin",))
    keys.add(file, key)
    keys.add(file, other)
    assert keys.read(file)[0] == (key, other)


def test_two_keys_of_one_name_live_side_by_side_and_one_can_go(run, file):
    first, second = (json.loads(run("add", "shop", "--role", "predict", "--json")[1]) for _ in range(2))
    assert first["key"] != second["key"]
    assert run("remove", "shop", "--ident", first["ident"])[1] == f"shop {first['ident']}: removed\n"
    assert [key.ident for key in keys.read(file)[0]] == [second["ident"]]


def test_remove_takes_every_key_of_a_name_and_no_other(run, file):
    for name in ("shop", "night", "shop"):
        run("add", name, "--role", "predict")
    assert len(run("remove", "shop")[1].splitlines()) == 2
    assert [key.name for key in keys.read(file)[0]] == ["night"]
    status, _, err = run("remove", "shop")
    assert status == 2 and "no key 'shop'; `vigil keys list` shows those there are" in err
    run("remove", "night")
    assert keys.read(file)[0] == ()


def test_the_list_shows_limits_and_expiry_but_no_key(run, file):
    secret = run("add", "shop", "--role", "predict", "--role", "label", "--rate", "100", "--expires", "2999-01-31")[1]
    keys.add(file, keys.Key("old", b"o" * 32, ("metrics",), expires=datetime(2026, 1, 1, tzinfo=UTC)))
    status, out, _ = run("list")
    head, shop, old = out.splitlines()
    assert status == 0 and head.split() == ["name", "ident", "roles", "rate", "created", "expires"]
    assert re.fullmatch(r"shop +\w{8} +predict,label +100/s, 200 at once +\S+Z +2999-02-01T00:00:00Z", shop)
    assert old.endswith("2026-01-01T00:00:00Z EXPIRED") and "no limit" in old
    assert secret.strip() not in out + run("list", "--json")[1]
    assert json.loads(run("list", "--json")[1])["keys"][0]["burst"] == 200


def test_a_day_is_the_last_one_on_which_a_key_works(file):
    assert keys.expiry("2027-01-31") == datetime(2027, 2, 1, tzinfo=UTC)
    assert keys.expiry("2028-02-29T18:00:00+02:00") == datetime(2028, 2, 29, 16, tzinfo=UTC)
    assert keys.expiry("2028-02-29T18:00:00") == datetime(2028, 2, 29, 18, tzinfo=UTC)
    today = datetime.now(UTC).date().isoformat()
    assert made(expires=keys.expiry(today))[1].expires > datetime.now(UTC)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--role", "predikt"), "key.roles: unknown role 'predikt'; did you mean 'predict'?"),
        (("--role", "root"), "unknown role 'root'; known: predict, label, metrics, admin"),
        (("--role", "predict", "--expires", "soon"), "expires: accepted is a day as 2027-01-31, found 'soon'"),
        (("--role", "predict", "--expires", "9999-12-31"), "expires: accepted is a day"),
        (("--role", "predict", "--expires", "2026-01-01"), "expires: 2026-01-02T00:00:00Z has passed"),
        (("--role", "predict", "--file", "/proc/keys.json"), "/proc/keys.json: cannot be written"),
    ],
)
def test_a_wrong_word_is_named_with_what_is_accepted_and_nothing_is_written(run, file, words, message):
    status, out, err = run("add", "shop", *words)
    assert (status, out) == (2, "") and message in err
    assert not file.exists()


def test_without_a_key_file_the_verbs_say_how_to_name_one(run, monkeypatch):
    assert "no such key file; `vigil keys add NAME --role predict` makes one" in run("list")[2]
    monkeypatch.delenv(keys.VARIABLE)
    assert "no key file: set VIGIL_KEYS=FILE" in run("list")[2]


GOOD = {"name": "shop", "sha256": "ab" * 32, "roles": ["predict"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a key file"),
        (b"[" * 100_000, "not a key file"),
        (b"\xff\xfe", "not a key file"),
        (b"[]", 'accepted is {"keys": [...]}'),
        ({"keys": {}}, 'accepted is {"keys": [...]}'),
        ({"keys": [], "key": []}, 'accepted is {"keys": [...]}'),
        ({"keys": [3]}, "keys[0]: must be an object"),
        ({"keys": [GOOD, GOOD | {"role": "x"}]}, "keys[1]: unknown field 'role'; did you mean 'roles'?"),
        ({"keys": [GOOD | {"name": "a b"}]}, "keys[0].name: accepted are"),
        ({"keys": [GOOD | {"sha256": "AB" * 32}]}, "keys[0].sha256: must be 64 hexadecimal digits"),
        ({"keys": [GOOD | {"roles": []}]}, "keys[0].roles: must be a list"),
        ({"keys": [GOOD | {"roles": "admin"}]}, "keys[0].roles: must be a list"),
        ({"keys": [GOOD | {"roles": [["admin"]]}]}, "keys[0].roles: unknown role"),
        ({"keys": [GOOD | {"rate": -1}]}, "keys[0].rate: accepted are"),
        ({"keys": [GOOD | {"rate": True}]}, "keys[0].rate: accepted are"),
        ({"keys": [GOOD | {"rate": float("nan")}]}, "keys[0].rate: accepted are"),
        ({"keys": [GOOD | {"burst": 0}]}, "keys[0].burst: accepted are"),
        ({"keys": [GOOD | {"burst": 1.5}]}, "keys[0].burst: accepted are"),
        ({"keys": [GOOD | {"expires": "soon"}]}, "keys[0].expires: accepted is a time"),
        ({"keys": [GOOD | {"expires": 5}]}, "keys[0].expires: accepted is a time"),
        ({"keys": [GOOD, GOOD]}, "holds the same key twice"),
    ],
)
def test_a_broken_file_is_refused_by_key_and_field(content, message, tmp_path):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(ConfigError) as caught:
        keys.parse(raw, tmp_path / "keys.json")
    assert message in str(caught.value)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused(file, mode):
    keys.add(file, made()[1])
    file.chmod(mode)
    with pytest.raises(ConfigError, match="others may write to it"):
        keys.read(file)


def test_a_secret_mounted_for_reading_by_a_group_is_accepted(file):
    keys.add(file, made()[1])
    file.chmod(0o440)
    assert len(keys.read(file)[0]) == 1


def test_a_file_larger_than_the_limit_is_refused(file):
    keys.add(file, made()[1])
    with open(file, "ab") as stream:
        stream.truncate(keys.MOST_BYTES + 1)
    with pytest.raises(ConfigError, match="larger than"):
        keys.read(file)


def test_a_link_to_the_file_stays_a_link(file, tmp_path):
    link = tmp_path / "link.json"
    keys.add(file, made()[1])
    link.symlink_to(file)
    keys.add(link, made("other")[1])
    assert link.is_symlink() and [key.name for key in keys.read(file)[0]] == ["shop", "other"]


def test_keys_that_are_added_at_the_same_time_are_all_kept(file):
    code = (
        "import sys; from pathlib import Path; from serving import keys\n"
        "for i in range(10):\n"
        "    keys.add(Path(sys.argv[1]), keys.make(keys.Key(f'{sys.argv[2]}-{i}', b'', ('predict',)))[1])"
    )
    several = [subprocess.Popen([sys.executable, "-c", code, str(file), name], cwd=ROOT) for name in "abc"]
    assert [one.wait(60) for one in several] == [0, 0, 0]
    assert sorted(key.name for key in keys.read(file)[0]) == sorted(f"{n}-{i}" for n in "abc" for i in range(10))


def test_a_reader_never_sees_a_part_of_the_file(file):
    keys.add(file, made("first")[1])
    code = (
        "import sys; from pathlib import Path; from serving import keys\n"
        "for i in range(100):\n"
        "    keys.add(Path(sys.argv[1]), keys.make(keys.Key(f'k{i}', b'', ('predict',)))[1])"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=ROOT)
    seen, deadline = set(), time.monotonic() + 60
    while writer.poll() is None and time.monotonic() < deadline:
        seen.add(len(keys.read(file)[0]))
    assert writer.wait(1) == 0 and len(keys.read(file)[0]) == 101
    assert len(seen) > 1


def test_the_stamp_changes_with_every_rewrite(file):
    assert keys.stamp(file) is None
    stamps = set()
    for _ in range(5):
        keys.add(file, made()[1])
        assert keys.read(file)[1] == keys.stamp(file)
        stamps.add(keys.stamp(file))
    assert len(stamps) == 5


def test_an_expiry_in_the_far_future_is_kept_to_the_second(file):
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(days=4000)
    keys.add(file, made(expires=moment)[1])
    assert keys.read(file)[0][0].expires == moment
