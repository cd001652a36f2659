"""TLS in front of the real service, with certificates demanded of its clients."""

import contextlib
import datetime
import http.client
import ipaddress
import json
import socket
import ssl
import struct
import urllib.parse

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tiny_release import IMAGE, make_draft, make_files, rows_of

from registry import aliases, store
from registry.errors import ConfigError
from serving import tls

ROWS = rows_of(IMAGE, 3, seed=3)
PROTOCOL_VERSION = 70  # the alert of RFC 8446, section 6.2: the version the peer offered is not spoken here
# What an authority's certificate says its key is for (RFC 5280, section 4.2.1.3).
SIGNS = x509.KeyUsage(
    key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


class Authority:
    """A certificate authority of its own, and what it signed, as PEM files in `folder`."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"the authority {folder.name}")])
        own = self._certificate(self._name, self._key, [(x509.BasicConstraints(True, None), True), (SIGNS, True)])
        self.ca = self._write("ca.pem", own.public_bytes(serialization.Encoding.PEM))

    def issue(self, name, days=1):
        """Return the files of a certificate for 127.0.0.1 and of its private key; days: < 0 has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        made = self._certificate(subject, key, [(address, False)], days)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            self._write(f"{name}.pem", made.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{name}.key", pem),
        )

    def _certificate(self, subject, key, extensions, days=1):
        now = datetime.datetime.now(datetime.UTC)
        identifiers = [
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days))
        )
        for extension, critical in [*extensions, *identifiers]:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name, content):
        path = self.folder / name
        path.write_bytes(content)
        return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


def client(authority, files=None):
    """Return what a client trusts and shows; files: of its certificate and key."""
    context = ssl.create_default_context(cafile=authority.ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python does on its own from 3.13
    if files:
        context.load_cert_chain(*files)
    return context


@pytest.fixture(scope="module")
def live(tmp_path_factory, authority, start_service, eventually):
    """A service behind TLS that demands a certificate, spoken to by a client that has one."""
    place = tmp_path_factory.mktemp("tls-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        aliases.promote(store.publish(make_draft(), make_files(place / "files")).tag, "first")
    certificate, key = authority.issue("service")
    arguments = tls.arguments(certificate, key, authority.ca)
    service = start_service(place, arguments=arguments, tls=client(authority, authority.issue("client")))
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    return service


def ask(service, context):
    """Return the status that a client with `context` gets for three rows; the error's class if the service hangs up."""
    connection = http.client.HTTPSConnection(urllib.parse.urlparse(service.url).netloc, timeout=10, context=context)
    try:
        body = json.dumps({"rows": ROWS.tolist()})
        connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    except (ssl.SSLError, ConnectionError) as error:
        return type(error)
    finally:
        connection.close()


def test_a_client_with_a_certificate_of_the_authority_gets_answers(live):
    assert ask(live, live.tls) == 200
    status, said = live.call("/v1/predict", {"rows": ROWS.tolist()})
    assert status == 200 and len(said["predictions"]) == 3
    assert live.metric("vigil_lane_info", lane="fast") == 1


def test_one_connection_carries_many_requests(live):
    connection = http.client.HTTPSConnection(urllib.parse.urlparse(live.url).netloc, timeout=10, context=live.tls)
    body = json.dumps({"rows": ROWS.tolist()})
    for _ in range(50):
        connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200 and len(json.loads(answer.read())["predictions"]) == 3
    connection.close()


def test_a_client_without_a_certificate_is_refused(live, authority):
    assert issubclass(ask(live, client(authority)), (ssl.SSLError, ConnectionError))


def test_a_certificate_of_another_authority_or_an_expired_one_is_refused(live, authority, tmp_path):
    stranger = Authority(tmp_path / "other").issue("client")
    for files in (stranger, authority.issue("late", days=-1)):
        assert issubclass(ask(live, client(authority, files)), (ssl.SSLError, ConnectionError))


def test_plain_http_gets_no_answer(live):
    port = urllib.parse.urlparse(live.url).port
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        raw.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP/1.1 200" not in raw.recv(1000)


@pytest.mark.parametrize("version", [(3, 1), (3, 2), (3, 3)], ids=["TLS 1.0", "TLS 1.1", "TLS 1.2"])
def test_nothing_older_than_tls_1_2_is_spoken(live, version):
    """The hello is made by hand: a client's library may refuse old versions before the service can."""
    with socket.create_connection(("127.0.0.1", urllib.parse.urlparse(live.url).port), timeout=10) as raw:
        raw.sendall(hello(version))
        answer = raw.recv(7)
    if version == (3, 3):  # the same hello but for its version goes on with the server's
        assert answer[0] == 22 and answer[5] == 2
    else:  # hung up, with or without an alert
        assert answer == b"" or (answer[0] == 21 and answer[6] == PROTOCOL_VERSION)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("x.pem", "", ""), "--certfile and --keyfile belong together"),
        (("", "x.key", ""), "--certfile and --keyfile belong together"),
        (("", "", "ca.pem"), "--client-ca needs both"),
        (("/no/x.pem", "/no/x.key", ""), "/no/x.pem: cannot be read; accepted is a PEM file"),
    ],
)
def test_a_missing_part_of_tls_is_named(files, message):
    with pytest.raises(ConfigError, match=message):
        tls.arguments(*files)


def test_without_a_certificate_nothing_is_asked_of_bentoml_and_without_an_authority_no_client(authority):
    assert tls.arguments("", "", "") == []
    certificate, key = authority.issue("plain")
    assert tls.arguments(certificate, key, "") == ["--ssl-certfile", certificate, "--ssl-keyfile", key]


def hello(version):
    """Return a ClientHello that offers `version` at most, with ciphers old and new (RFC 5246, section 7.4.1.2)."""
    ciphers = struct.pack("!6H", 0xC02B, 0xC023, 0xC009, 0xC00A, 0x002F, 0x0035)
    groups = struct.pack("!HHHH", 10, 4, 2, 23)
    formats = struct.pack("!HHBB", 11, 2, 1, 0)
    signatures = struct.pack("!HHHHH", 13, 6, 4, 0x0403, 0x0203)
    extensions = groups + formats + signatures
    body = bytes(version) + bytes(range(32)) + b"\0" + struct.pack("!H", len(ciphers)) + ciphers + b"\1\0"
    body += struct.pack("!H", len(extensions)) + extensions
    handshake = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack("!H", len(handshake)) + handshake
