import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from monitoring.metrics import ServingMetrics
from registry.errors import RequestError
from serving import keys
from serving.access import LONGEST_SEEN, LOOK_S, MOST_SEEN, OPEN, Access, Grant
from serving.buckets import SLOTS, Buckets
from serving.http import Head

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def metrics():
    return ServingMetrics(CollectorRegistry())


@pytest.fixture
def add(file):
    """Return a function that adds a key to the file and gives its secret."""

    def make(name="shop", *roles, **more):
        secret, key = keys.make(keys.Key(name, b"", roles or ("predict",), **more))
        keys.add(file, key)
        return secret

    return make


def bearer(secret, path="/v1/predict", scheme="Bearer"):
    return Head("POST", path, b"", {b"authorization": f"{scheme} {secret}".encode()})


def plain(secret):
    return Head("POST", "/v1/predict", b"", {b"x-api-key": secret.encode()})


NO_KEY = Head("POST", "/v1/predict", b"", {})


def refused(access, head, role="predict"):
    with pytest.raises(RequestError) as caught:
        access.demand(head, role)
    return caught.value


def status(access, head, role="predict"):
    try:
        access.demand(head, role)
    except RequestError as error:
        return error.status
    return 200


def counted(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels) or 0.0


def test_without_a_key_file_everyone_may_do_everything(metrics):
    access = Access(None, metrics)
    assert [status(access, head, role) for head in (NO_KEY, bearer("x")) for role in keys.ROLES] == [200] * 8


@pytest.mark.parametrize("role", keys.ROLES)
def test_a_key_opens_what_its_role_names_and_admin_opens_all(add, file, metrics, role):
    secret = add("one", role)
    access = Access(file, metrics)
    for needed in keys.ROLES:
        assert status(access, bearer(secret), needed) == (200 if needed == role or role == "admin" else 403)


@pytest.mark.parametrize("role", keys.ROLES)
def test_what_else_a_key_opens_is_told_without_a_request_of_its_rate(add, file, metrics, role):
    secret = add("one", role, rate=0.001, burst=2)
    access = Access(file, metrics)
    assert status(access, bearer(secret), role) == 200
    for needed in keys.ROLES:
        assert access.opens(bearer(secret), needed) == (role in (needed, "admin"))
    assert [status(access, bearer(secret), role) for _ in range(2)] == [200, 429]
    assert Access(None, metrics).opens(NO_KEY, role)


def test_a_key_may_come_in_either_header_and_any_case_of_bearer(add, file, metrics):
    secret = add()
    access = Access(file, metrics)
    for head in (bearer(secret), plain(secret), bearer(secret, scheme="bearer"), bearer(f" {secret} ")):
        assert access.demand(head, "predict").name == "shop"


def test_x_api_key_decides_when_both_headers_are_there(add, file, metrics):
    good, other = add("good"), add("other", "label")
    access = Access(file, metrics)
    both = Head("POST", "/", b"", {b"authorization": b"Bearer " + good.encode(), b"x-api-key": other.encode()})
    assert status(access, both) == 403
    proxied = Head("POST", "/", b"", {b"authorization": b"Basic dTpw", b"x-api-key": good.encode()})
    assert status(access, proxied) == 200


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "no_key"),
        ({b"authorization": b""}, "no_key"),
        ({b"authorization": b"Bearer"}, "no_key"),
        ({b"authorization": b"Bearer  "}, "no_key"),
        ({b"authorization": b"Basic dTpw"}, "no_key"),
        ({b"x-api-key": b""}, "no_key"),
        ({b"authorization": b"Bearer vigil_" + b"A" * 43}, "unknown_key"),
        ({b"authorization": b"Bearer \xff\x00"}, "unknown_key"),
        ({b"x-api-key": b"x" * 32_000}, "unknown_key"),
    ],
)
def test_without_a_live_key_the_answer_is_401_with_a_challenge_and_is_counted(add, file, metrics, headers, reason):
    add()
    error = refused(Access(file, metrics), Head("POST", "/", b"", headers))
    assert (error.status, error.reason) == (401, reason)
    assert error.headers == ((b"www-authenticate", b'Bearer realm="vigil"'),)
    assert counted(metrics, "vigil_access_refused_total", reason=reason) == 1


def test_near_misses_of_a_key_are_all_unknown(add, file, metrics):
    secret = add()
    access = Access(file, metrics)
    assert status(access, bearer(secret)) == 200
    near = [secret[:i] + ("A" if secret[i] != "A" else "B") + secret[i + 1 :] for i in range(len(secret))]
    near += [secret[:-1], secret + "A", secret + "=", secret.upper(), f"{secret}, {secret}", f"Bearer {secret}"]
    assert {status(access, bearer(one)) for one in near} == {401}
    assert {status(access, plain(one)) for one in near} == {401}


def test_the_hash_on_disk_is_not_a_key(add, file, metrics):
    add()
    digest = json.loads(file.read_text())["keys"][0]["sha256"]
    assert status(Access(file, metrics), bearer(digest)) == 401


def test_a_known_key_without_the_role_is_told_what_it_lacks(add, file, metrics):
    error = refused(Access(file, metrics), bearer(add("shop", "predict", "label")), "metrics")
    assert error.status == 403 and error.headers == ()
    assert str(error) == "access: the key of 'shop' has the role predict, label; this needs metrics"
    assert counted(metrics, "vigil_access_refused_total", reason="role") == 1


def test_open_routes_need_no_key(add, file, metrics):
    add()
    access = Access(file, metrics)
    assert access.demand(NO_KEY, OPEN) and access.demand(bearer("wrong"), OPEN)


def test_a_key_stops_working_when_it_expires_without_any_change_of_the_file(add, file, metrics, eventually):
    secret = add(expires=datetime.now(UTC) + timedelta(seconds=1.5))
    access = Access(file, metrics)
    assert status(access, bearer(secret)) == 200
    eventually("the expiry", lambda: status(access, bearer(secret)) == 401)
    assert refused(access, bearer(secret)).reason == "expired"
    assert datetime.now(UTC) >= keys.read(file)[0][0].expires


def test_keys_rotate_without_a_restart_and_without_a_moment_without_a_key(add, file, metrics, eventually):
    old = add()
    access = Access(file, metrics)
    new = add()
    eventually("the new key", lambda: status(access, bearer(new)) == 200)
    assert status(access, bearer(old)) == 200
    keys.remove(file, "shop", keys.digest_of(old.encode()).hex()[:8])
    eventually("the end of the old key", lambda: status(access, bearer(old)) == 401)
    assert status(access, bearer(new)) == 200
    assert counted(metrics, "vigil_keys") == 1


@pytest.mark.parametrize("harm", ["broken", "gone", "writable", "empty"])
def test_a_broken_file_keeps_the_last_good_keys_and_is_logged_and_counted_once(
    add, file, metrics, eventually, caplog, harm
):
    secret = add()
    access = Access(file, metrics)
    good = file.read_bytes()
    if harm == "gone":
        file.unlink()
    elif harm == "writable":
        file.chmod(0o666)
    else:
        file.write_bytes(b"" if harm == "empty" else good[:-20])
    failures = lambda: counted(metrics, "vigil_key_file_failures_total")  # noqa: E731
    eventually("the failure", lambda: status(access, bearer(secret)) == 200 and failures())
    deadline = time.monotonic() + 2.5 * LOOK_S
    while time.monotonic() < deadline:
        assert status(access, bearer(secret)) == 200
    assert failures() == 1
    assert [record.message for record in caplog.records].count("key_file_refused") == 1
    file.unlink(missing_ok=True)
    file.write_bytes(good)
    file.chmod(0o600)
    other = add("other")
    eventually("the mended file", lambda: status(access, bearer(other)) == 200)


def test_a_start_without_a_readable_file_lets_nobody_in_until_there_is_one(add, file, metrics, eventually):
    access = Access(file, metrics)
    assert status(access, NO_KEY) == status(access, bearer("vigil_" + "A" * 43)) == 401
    secret = add()
    eventually("the first key", lambda: status(access, bearer(secret)) == 200)


def test_no_key_is_ever_logged(add, file, metrics, caplog):
    secret = add(rate=1.0, burst=1)
    access = Access(file, metrics)
    said = [str(refused(access, head)) for head in (bearer(secret + "x"), plain(secret[:-1]))]
    assert status(access, bearer(secret)) == 200
    said += [str(refused(access, bearer(secret))), str(refused(access, bearer(secret), "admin"))]
    assert secret[6:20] not in caplog.text + "".join(said)


def test_a_burst_is_let_through_and_then_the_pace(add, file, metrics):
    """The bounds hold for any speed of this machine: burst, and burst + rate x the seconds it took."""
    secret, rate, burst = add(rate=200.0, burst=50), 200.0, 50
    access, head = Access(file, metrics), bearer(secret)
    access.demand(head, "predict")
    begun, accepted, waits = time.monotonic(), 1, []
    while time.monotonic() < begun + 1.0:
        try:
            access.demand(head, "predict")
            accepted += 1
        except RequestError as error:
            assert (error.status, error.reason) == (429, "rate")
            waits.append(error.retry_s)
    took = time.monotonic() - begun
    assert burst <= accepted <= burst + rate * took + 1
    assert waits and all(0 < wait <= 1 / rate + 1e-6 for wait in waits)
    assert counted(metrics, "vigil_access_refused_total", reason="rate") == len(waits)


def test_a_refused_role_takes_nothing_from_the_bucket_and_keys_do_not_share_one(add, file, metrics):
    one, two = add("one", rate=0.001, burst=1), add("one", rate=0.001, burst=1)
    access = Access(file, metrics)
    assert [status(access, bearer(one), "admin") for _ in range(3)] == [403] * 3
    assert [status(access, bearer(one)), status(access, bearer(one)), status(access, bearer(two))] == [200, 429, 200]


def test_a_reload_does_not_fill_the_buckets(add, file, metrics, eventually):
    secret = add(rate=0.001, burst=1)
    access = Access(file, metrics)
    assert [status(access, bearer(secret)), status(access, bearer(secret))] == [200, 429]
    other = add("other")
    eventually("the reload", lambda: status(access, bearer(other)) == 200)
    assert status(access, bearer(secret)) == 429


def test_workers_share_the_bucket_of_a_key(add, file, metrics, tmp_path):
    one, two = add("one", rate=0.001, burst=3), add("two", rate=0.001, burst=1)
    first, second = (Access(file, metrics, tmp_path) for _ in range(2))
    said = [status(access, bearer(one)) for access in (first, second, first, second, first)]
    assert said == [200, 200, 200, 429, 429]
    assert [status(second, bearer(two)), status(Access(file, metrics, tmp_path), bearer(two))] == [200, 429]


def test_processes_that_flood_at_once_get_one_burst_and_one_pace(add, file, tmp_path):
    secret, rate, burst = add(rate=500.0, burst=1000), 500.0, 1000
    begun = time.monotonic()
    flood = [
        subprocess.Popen([sys.executable, "-c", FLOOD, str(file), secret, str(tmp_path)], cwd=ROOT, stdout=-1)
        for _ in range(3)
    ]
    accepted = sum(int(one.communicate(timeout=60)[0]) for one in flood)
    most = burst + rate * (time.monotonic() - begun)
    assert burst <= accepted <= 1.02 * most + 3


def test_more_keys_than_slots_still_find_a_bucket():
    found = Buckets(None).of(i.to_bytes(32, "little") for i in range(1, SLOTS + 10))
    for i, cell in enumerate(found.values()):
        cell[0] = i
    assert len({cell[0] for cell in found.values()}) == SLOTS


FLOOD = """
import sys, time
from pathlib import Path
from prometheus_client import CollectorRegistry
from monitoring.metrics import ServingMetrics
from registry.errors import RequestError
from serving.access import Access
from serving.http import Head
access = Access(Path(sys.argv[1]), ServingMetrics(CollectorRegistry()), Path(sys.argv[3]))
head = Head("POST", "/", b"", {b"x-api-key": sys.argv[2].encode()})
accepted, end = 0, time.monotonic() + 1
while time.monotonic() < end:
    try:
        access.demand(head, "predict")
        accepted += 1
    except RequestError:
        pass
print(accepted)
"""


@given(
    rate=st.integers(1, 1000),
    burst=st.integers(1, 20),
    steps=st.lists(st.fractions(0, 1, max_denominator=997), max_size=60),
)
def test_the_bucket_agrees_with_one_of_exact_fractions(rate, burst, steps):
    """Oracle: tokens that drip at `rate` into a bucket of `burst`, in exact arithmetic."""
    spacing = Fraction(1, rate)
    grant = Grant("a", b"", frozenset(), float(spacing), float((burst - 1) * spacing) + 1e-9, [0.0])
    now, tokens = Fraction(1000), Fraction(burst)
    for step in steps:
        now, tokens = now + step, min(Fraction(burst), tokens + step * rate)
        wait_s = grant.take(float(now))
        if tokens >= 1:
            assert wait_s == 0
            tokens -= 1
        elif float((1 - tokens) * spacing) > 1e-8:
            assert wait_s == pytest.approx(float((1 - tokens) * spacing), abs=1e-8)
        elif wait_s == 0:  # closer to a whole token than floating point tells: either is right
            tokens -= 1


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.proof)])
def test_any_number_of_unknown_keys_leaves_nothing_behind(add, file, metrics, count):
    secret = add()
    access = Access(file, metrics)
    memory = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # noqa: E731

    def spray(begin, end):
        for i in range(begin, end):
            try:
                access.demand(Head("POST", "/", b"", {b"authorization": b"Bearer vigil_%043d" % i}), "predict")
            except RequestError:
                continue
            pytest.fail("an unknown key was let in")

    spray(0, 10_000)
    before = memory()
    spray(10_000, count)
    assert memory() - before < 2e6
    assert counted(metrics, "vigil_access_refused_total", reason="unknown_key") == count
    assert status(access, bearer(secret)) == 200


def test_one_key_in_a_million_spellings_is_remembered_in_a_bounded_number(add, file, metrics):
    secret = add()
    access = Access(file, metrics)
    spelt = ["".join(c.upper() if i >> k & 1 else c for k, c in enumerate("bearer")) for i in range(64)]
    for i in range(3 * MOST_SEEN):
        assert access.demand(bearer(" " * (i // 64) + secret, scheme=spelt[i % 64]), "predict").name == "shop"
    held = [sent for seen in (access._bearers, access._plain) for sent in seen]
    assert len(held) <= MOST_SEEN and max(map(len, held)) <= LONGEST_SEEN
