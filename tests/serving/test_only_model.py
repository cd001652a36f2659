"""A service that was told no model stays with its own, whatever else gets a champion; always the real service."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_release import IMAGE, rows_of

from registry import aliases, followed
from registry.errors import AliasError
from serving import chosen
from serving.settings import from_environment

BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
ROOT = Path(__file__).resolve().parents[2]


def count_of(service, event):
    return service.log.read_text().count(f'"event": "{event}"')


def workers(service):
    pid = service.process.pid
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def answers(service):
    """Return the statuses of twelve predictions, each by a connection of its own."""
    return [service.call("/v1/predict", BODY)[0] for _ in range(12)]


def kill_all(service, eventually):
    old, up = workers(service), count_of(service, "worker_up")
    for worker in old:
        os.kill(worker, signal.SIGKILL)
    eventually("new workers", lambda: count_of(service, "worker_up") == up + len(old), 60)


def roll(service, eventually):
    """Roll the workers; return how many of the old ones are left."""
    done = count_of(service, "rolled")
    service.process.send_signal(signal.SIGHUP)
    eventually("the end of the roll", lambda: count_of(service, "rolled") > done, 180)
    told = [json.loads(line) for line in service.log.read_text().splitlines() if '"event": "rolled"' in line]
    return told[-1]["old_left"]


@pytest.fixture
def impatient(tmp_path):
    """Return what makes the parent of a service give a new worker of a roll a short time to be ready."""
    (tmp_path / "impatient.py").write_text(
        "from serving import supervisor\nsupervisor.START_S = 45.0\nfrom service import Vigil\n"
    )
    return {"target": "impatient:Vigil", "PYTHONPATH": f"{tmp_path}:{ROOT}"}


def test_the_first_champion_is_taken_for_good_and_a_roll_that_cannot_load_it_keeps_the_old_worker(
    home, publish, start_service, impatient, eventually
):
    service = start_service(home, **impatient)
    assert service.call("/readyz")[0] == 503
    assert roll(service, eventually) == 0  # with nothing to lose, a new worker need not be ready
    made = publish()
    aliases.promote(made.tag, "first")
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    aliases.promote(publish("other").tag, "first of another model")
    kill_all(service, eventually)
    assert answers(service) == [200] * 12 and service.call("/v1/model")[1]["model"] == "tiny"
    old = workers(service)
    (made.path / "model.onnx").write_bytes(b"damaged")
    assert roll(service, eventually) == 1
    assert answers(service) == [200] * 12
    eventually("the end of the new one", lambda: workers(service) == old)
    assert count_of(service, "waits_to_be_ready") == count_of(service, "new_worker_not_ready") == 1


def test_a_service_is_not_started_where_several_models_have_a_champion_and_none_is_named(home, publish):
    for name in ("holes", "steel"):
        aliases.promote(publish(name).tag, "first")
    command = [sys.executable, "-m", "bentoml", "serve", "service:Vigil", "--port", "0"]
    environment = os.environ | {"BENTOML_HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 1
    assert (
        "vigil: 2 models have a champion or follow a place, none is named: set VIGIL_MODELS=holes,steel" in done.stderr
    )


def test_all_workers_follow_the_model_that_was_alone_first_however_many_come(publish, tmp_path):
    with pytest.raises(AliasError, match="no model has a champion"):
        chosen.only_model(tmp_path)
    aliases.promote(publish("steel").tag, "first")
    assert chosen.only_model(tmp_path) == "steel"
    aliases.promote(publish("holes").tag, "first")
    assert chosen.only_model(tmp_path) == "steel"
    with pytest.raises(AliasError, match="2 models"):
        chosen.only_model(None)


def test_no_model_is_guessed_at_the_start_while_another_one_comes_over(home, publish):
    aliases.promote(publish("steel").tag, "first")
    assert chosen.at_start(from_environment({})) == "steel"
    followed.begin("holes", "s3://releases/production")
    with pytest.raises(
        AliasError, match="2 models have a champion or follow a place, none is named: set VIGIL_MODELS=holes,steel"
    ):
        chosen.at_start(from_environment({}))
    assert chosen.at_start(from_environment({"VIGIL_MODELS": "steel"})) == ""
