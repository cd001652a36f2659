import re
from pathlib import Path

import pytest

from registry.errors import ConfigError
from serving import settings


def test_left_out_variables_keep_their_defaults(home):
    made = settings.from_environment({"PATH": "/bin"})
    assert made == settings.Settings()
    assert made.log_path == home / "vigil" / "log.sqlite"


def test_every_kind_of_variable_is_read():
    said = {"VIGIL_MODELS": "m, n", "VIGIL_PROVIDERS": "cuda, cpu", "VIGIL_RECORD": "false", "VIGIL_POLL_S": "0.5"}
    made = settings.from_environment(said | {"VIGIL_MAX_BATCH_ROWS": "32"})
    assert (made.models, made.providers, made.record, made.poll_s) == (("m", "n"), ("cuda", "cpu"), False, 0.5)
    assert made.max_batch_rows == 32


def test_no_variable_that_another_room_reads_keeps_the_service_from_starting():
    root, known = (
        Path(__file__).resolve().parents[2],
        {f"VIGIL_{name.upper()}" for name in settings.Settings.__annotations__},
    )
    rooms = [
        path for room in ("registry", "monitoring", "oncall", "drill", "demo") for path in (root / room).rglob("*.py")
    ]
    read = {name for path in [root / "vigil.py", *rooms] for name in re.findall(r'"(VIGIL_[A-Z_]+)"', path.read_text())}
    for composed in (root / "deploy").glob("compose*.yaml"):
        read |= set(re.findall(r"\$\{(VIGIL_[A-Z_]+)", composed.read_text()))
    assert {"VIGIL_RELEASES", "VIGIL_REPORTS", "VIGIL_PROMETHEUS", "VIGIL_TOOLS_IMAGE"} <= read
    assert settings.from_environment(dict.fromkeys(read - known, "x")) == settings.Settings()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:9400", ("127.0.0.1", 9400)),
        ("[::1]:1", ("::1", 1)),
        ("admin.local:65535", ("admin.local", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(text, address):
    assert settings.from_environment({"VIGIL_ADMIN_ADDRESS": text}).admin_address == address


def test_the_key_file_is_named_by_its_path(tmp_path):
    assert settings.Settings().keys_path is None
    assert settings.from_environment({"VIGIL_KEYS": str(tmp_path / "keys.json")}).keys_path == tmp_path / "keys.json"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("VIGIL_MODLE", "m", "unknown variable VIGIL_MODLE; did you mean VIGIL_MODELS?"),
        ("VIGIL_RECORD", "maybe", "VIGIL_RECORD must be true or false, got 'maybe'"),
        ("VIGIL_POLL_S", "fast", "VIGIL_POLL_S must be a number above 0, got 'fast'"),
        ("VIGIL_MAX_BATCH_ROWS", "-1", "VIGIL_MAX_BATCH_ROWS must be a whole number above 0, got '-1'"),
        ("VIGIL_WORKERS", "0", "VIGIL_WORKERS must be a whole number above 0, got '0'"),
        ("VIGIL_TIMEOUT_S", "nan", "VIGIL_TIMEOUT_S must be a number above 0, got 'nan'"),
        ("VIGIL_DRAIN_S", "inf", "VIGIL_DRAIN_S must be a number, 0 or more, got 'inf'"),
        ("VIGIL_MAX_CONNECTIONS", "0", "VIGIL_MAX_CONNECTIONS must be a whole number above 0, got '0'"),
        ("VIGIL_LANE", "slow", "VIGIL_LANE must be one of auto, fast, asgi, got 'slow'"),
        ("VIGIL_MODELS", "a,a", "VIGIL_MODELS must list different model names"),
        ("VIGIL_MODELS", "../a", "VIGIL_MODELS must list different model names"),
        ("VIGIL_PROVIDERS", "gpu", "VIGIL_PROVIDERS must list some of cpu, cuda, tensorrt, got 'gpu'"),
        ("VIGIL_PROVIDERS", " ", "VIGIL_PROVIDERS must list some of"),
        ("VIGIL_ADMIN_ADDRESS", "9400", "VIGIL_ADMIN_ADDRESS must be HOST:PORT, as 127.0.0.1:9400, got '9400'"),
        ("VIGIL_ADMIN_ADDRESS", ":9400", "VIGIL_ADMIN_ADDRESS must be HOST:PORT"),
        ("VIGIL_ADMIN_ADDRESS", "localhost:0", "VIGIL_ADMIN_ADDRESS must be HOST:PORT"),
        ("VIGIL_ADMIN_ADDRESS", "localhost:65536", "VIGIL_ADMIN_ADDRESS must be HOST:PORT"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_accepted(variable, value, message):
    with pytest.raises(ConfigError) as caught:
        settings.from_environment({variable: value})
    assert message in str(caught.value)
