"""The OpenAPI document against the real service: schemathesis, and raw bytes on every route."""

import http.client
import json
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from tiny_release import DIGITS, HOMES, make_draft, make_files

from registry import aliases, store
from serving import openapi
from serving.routes import Route

METHODS = {"get", "post"}
ROW = [80.0, "Oslo", "gas"]
HEADERS = st.dictionaries(
    st.sampled_from(["Content-Type", "Inference-Header-Content-Length", "X-Request-Timeout", "X-Request-Id", "Accept"]),
    st.sampled_from(
        ["application/json", "application/octet-stream", "application/x-npy", "application/json; charset=utf-16",
         "0", "2", "17", "-1", "1e3", "0.001", "99999999999999999999", "\xe9", "text/plain", "multipart/form-data"]
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def live(tmp_path_factory, start_service, eventually):
    """A service of a regression with text columns and of a classifier of images."""
    home = tmp_path_factory.mktemp("openapi-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        for draft, files in (
            (make_draft("homes", HOMES, ()), make_files(home / "homes", HOMES, ())),
            (make_draft("digits"), make_files(home / "digits")),
        ):
            aliases.promote(store.publish(draft, files).tag, "first")
    services = {
        "homes": start_service(home, VIGIL_MODELS="homes"),
        "both": start_service(home, VIGIL_MODELS="homes,digits"),
    }
    for name, service in services.items():
        eventually(f"{name} ready", lambda service=service: service.call("/readyz")[0] == 200)
    return services


def document_of(service):
    status, said = service.call("/openapi.json")
    assert status == 200
    return said


def operations(document):
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            yield path, method, item[method]


@pytest.mark.parametrize("name", ["homes", "both"])
def test_the_document_is_openapi_and_says_what_every_answer_looks_like(live, name):
    document = document_of(live[name])
    assert not list(OPENAPI_31_VALIDATOR.iter_errors(document))
    for path, _, operation in operations(document):
        for kind, said in operation["responses"]["200"]["content"].items():
            assert said.get("schema") or kind in ("application/octet-stream", "application/x-npy"), path
        assert operation["summary"]
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)


def test_the_document_tells_the_columns_and_classes_of_what_is_live(live):
    found = document_of(live["both"])["components"]["schemas"]
    by_name = found["homes.rows"]["properties"]["rows"]["oneOf"][1]["items"]
    assert list(by_name["properties"]) == ["area", "city", "heating"] and by_name["required"] == ["city"]
    assert by_name["properties"]["city"] == {"enum": ["Bern", "Oslo", "Rome"]}
    one = found["digits.answer"]["properties"]["predictions"]["items"]["properties"]
    assert one["class"] == {"enum": list(DIGITS)}


class Read(HTMLParser):
    """What a page says, where it leads, and what a browser would fetch of itself."""

    def __init__(self, page):
        super().__init__()
        self.text, self.links, self.fetched = "", [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        said = dict(attrs)
        self.links += [said["href"]] if tag == "a" else []
        self.fetched += [tag] if tag in ("script", "link", "img", "iframe", "object") or "src" in said else []

    def handle_data(self, data):
        self.text += data


def test_the_start_page_names_the_models_and_leads_to_all_else_and_loads_nothing(live):
    service = live["both"]
    _, page = service.call("/")
    read = Read(page)
    for name in ("homes", "digits"):
        assert name in read.text and service.call(f"/v1/models/{name}")[1]["version"] in read.text
    assert "float32, 3: area, city, heating" in read.text and "uint8, 8 x 8" in read.text
    assert read.fetched == [] and "url(" not in page and "@import" not in page
    assert {"openapi.json", "readyz", "metrics", "v1/models"} <= set(read.links)
    for link in read.links:
        assert service.call(f"/{link}")[0] == 200, link
    assert "default-src 'none'" in service.headers("/")["content-security-policy"]


def test_both_addresses_of_the_document_give_the_same(live):
    assert live["homes"].call("/docs.json")[1] == document_of(live["homes"])


@pytest.mark.parametrize("name", ["homes", "both"])
def test_schemathesis_finds_no_server_error_and_nothing_that_is_not_in_the_document(live, name, tmp_path):
    # Left out: whether what fits the schema is accepted, which test_schemas.py holds against the codecs; of binary
    # bodies, and of as many ids as rows, a schema cannot tell.
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    options = ["--seed", "1", "--max-examples", "5", "--checks", "all", "--no-color", "--phases", "coverage,fuzzing"]
    address = f"{live[name].url}/openapi.json"
    options += ["--exclude-checks", "positive_data_acceptance", "--generation-database", "none"]
    done = subprocess.run([*command, address, *options], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Tested: " in done.stdout


def test_no_bytes_on_any_route_make_a_server_error(live):
    service = live["both"]
    address = urllib.parse.urlparse(service.url).netloc
    paths = [(method.upper(), path) for path, method, _ in operations(document_of(service))]
    version = service.call("/v1/models/homes")[1]["version"]

    @settings(max_examples=400, suppress_health_check=list(HealthCheck))
    @given(
        st.sampled_from(paths),
        st.sampled_from(["homes", "digits", "%2e", "é".encode().decode("latin-1")]),
        HEADERS,
        near(),
    )
    def ask(route, name, headers, body):
        method, path = route
        path = path.replace("{name}", urllib.parse.quote(name)).replace("{version}", version)
        connection = http.client.HTTPConnection(address, timeout=20)
        try:
            connection.request(method, path, body, headers)
            status = connection.getresponse().status
        finally:
            connection.close()
        assert status < 500, (method, path, headers, body)

    ask()
    assert service.call("/readyz")[0] == 200


def near():
    """Draw raw bytes, or a good body of some route with bytes of it changed, cut or repeated."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3], "data": [80, 1, 0]}
    good = [
        json.dumps({"rows": [ROW], "ids": ["a"]}).encode(),
        json.dumps({"labels": [{"id": "a", "label": 1.5}]}).encode(),
        json.dumps({"inputs": [tensor]}).encode(),
        np.array([[80, 1, 0]], np.float32).tobytes(),
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }"
        + b" " * 58
        + b"\n"
        + bytes(12),
    ]

    @st.composite
    def changed(draw):
        body = bytearray(draw(st.sampled_from(good)))
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(body)))
            body[at : at + draw(st.integers(0, 3))] = draw(
                st.binary(max_size=3) | st.sampled_from([b"[" * 5000, b"1e999", b"NaN"])
            )
        return bytes(body)

    return st.binary(max_size=200) | changed()


def test_with_keys_every_guarded_route_names_the_key_and_what_is_answered_without_it():
    table = [Route("POST", "/v1/predict", "predict"), Route("GET", "/livez", "open", livez)]
    guarded, free = (operation for _, _, operation in operations(openapi.document(table, [], keyed=True)))
    assert (
        guarded["security"] == [{"bearer": []}, {"header": []}] and {"401", "403", "429"} <= guarded["responses"].keys()
    )
    assert free["security"] == [] and not {"401", "403", "404", "429"} & free["responses"].keys()
    assert free["summary"] == "Say so."
    assert not list(OPENAPI_31_VALIDATOR.iter_errors(openapi.document(table, [], keyed=True)))


def test_the_document_is_made_again_only_when_a_release_or_a_route_is_another(publish, monkeypatch):
    first, second = publish(), publish(seed=1, classes=DIGITS[::-1])
    table, made = [Route("GET", "/v1/model", "predict", livez)], []
    whole = openapi.document
    monkeypatch.setattr(openapi, "document", lambda *of: made.append(of) or whole(*of))
    kept = openapi.Document(keyed=True)
    for releases in ([], [first], [second], [first, second], [first]):
        expected = whole(table, releases, True)
        assert [json.loads(kept.content(table, releases)) for _ in range(3)] == [expected] * 3
    assert len(made) == 5
    table.append(Route("GET", "/livez", "open", livez))
    assert "/livez" in json.loads(kept.content(table, [first]))["paths"]


async def livez(_, __):
    """Say so.

    At length.
    """
