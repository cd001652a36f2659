"""Signatures: judged against the reference implementation of OpenSSF model signing, and against attacks."""

import ast
import asyncio
import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import prometheus_client
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from monitoring.metrics import ServingMetrics
from registry import aliases, release, signing, store
from registry.errors import ConfigError, ReleaseError
from serving.host import Host
from serving.settings import Settings, from_environment

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = [sys.executable, "-m", "model_signing"]


@pytest.fixture
def signed(publish, pair, monkeypatch):
    """Return a signed release; a signature by its key is demanded from here on."""
    made = publish()
    store.sign(made.tag, pair[0])
    monkeypatch.setenv(signing.VARIABLE, str(pair[1]))
    return made


def reference(*words):
    return subprocess.run([*REFERENCE, *map(str, words)], capture_output=True, text=True)


def test_a_release_that_is_not_signed_yet_is_told_as_refused_and_for_another_reason_than_what_it_is(
    publish, pair, monkeypatch
):
    made = publish()
    for key, why in ((pair[1], "is not signed; sign it: vigil sign"), ("absent.pem", "the key cannot be read")):
        monkeypatch.setenv(signing.VARIABLE, str(key))
        told, judged = aliases.refusal(made.tag)
        assert why in told and not judged


def test_the_reference_implementation_accepts_our_signature_until_a_byte_changes(signed, pair):
    words = ("verify", "key", signed.path, "--signature", signed.path / "model.sig", "--public_key", pair[1])
    good = reference(*words)
    assert good.returncode == 0, good.stderr
    (signed.path / "card.md").write_text("nicer")
    assert reference(*words).returncode != 0


def test_we_accept_the_signature_of_the_reference_implementation(publish, pair, monkeypatch):
    made = publish()
    words = ("--private_key", pair[0], "--signature", made.path / "model.sig")
    done = reference("sign", "key", made.path, *words, "--ignore-paths", made.path / "model.yaml")
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv(signing.VARIABLE, str(pair[1]))
    assert store.open_release(made.tag).digest == made.digest


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_a_signature_changes_neither_digest_nor_version_and_satisfies_the_demand(
    publish, write_pair, curve, monkeypatch
):
    private, public = write_pair("key", ec.generate_private_key(curve))
    made = publish()
    store.sign(made.tag, private)
    monkeypatch.setenv(signing.VARIABLE, str(public))
    opened = store.open_release(made.tag)
    assert (opened.tag, opened.digest, opened.manifest) == (made.tag, made.digest, made.manifest)


def test_an_unsigned_release_is_refused_where_a_signature_is_demanded_and_only_there(publish, pair, monkeypatch):
    made = publish()
    store.open_release(made.tag)
    monkeypatch.setenv(signing.VARIABLE, str(pair[1]))
    with pytest.raises(ReleaseError, match=f"{made.tag}: is not signed; sign it: vigil sign {made.tag} --key FILE"):
        store.open_release(made.tag)


def test_the_signature_of_another_key_is_refused(signed, write_pair, monkeypatch):
    monkeypatch.setenv(signing.VARIABLE, str(write_pair("other")[1]))
    with pytest.raises(ReleaseError, match="was not made with the pair of the key"):
        store.open_release(signed.tag)


def test_the_signature_of_another_release_is_refused(signed, publish):
    other = publish(seed=1)
    shutil.copy(signed.path / "model.sig", other.path / "model.sig")
    with pytest.raises(ReleaseError, match="vouches for other files: card.md, heldout.npz, manifest.json"):
        store.open_release(other.tag)


def test_a_release_that_was_altered_and_sealed_anew_is_refused(signed, tmp_path):
    files = shutil.copytree(signed.path, tmp_path / "forged")
    for name in release.NOT_IN_MANIFEST:
        (files / name).unlink()
    (files / "model.onnx").write_bytes(b"another model")
    _, version = release.seal(signed.manifest, files)
    forged = shutil.copytree(files, signed.path.parent / version)
    shutil.copy(signed.path / "model.sig", forged / "model.sig")
    release.load(forged, f"tiny:{version}").verify()  # its digests agree with one another
    with pytest.raises(ReleaseError, match=r"vouches for other files: manifest\.json, model\.onnx"):
        store.open_release(f"tiny:{version}")


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "heldout.npz", "reference.json", "card.md"])
def test_a_changed_or_missing_file_of_a_signed_release_is_refused(signed, file):
    content = (signed.path / file).read_bytes()
    (signed.path / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ReleaseError, match=file.replace(".", r"\.")):
        store.open_release(signed.tag)
    (signed.path / file).unlink()
    with pytest.raises(ReleaseError, match=file.replace(".", r"\.")):
        store.open_release(signed.tag)


def test_an_extra_file_of_a_signed_release_is_refused(signed):
    (signed.path / "extra.bin").write_bytes(b"x")
    with pytest.raises(ReleaseError, match=r"not published: extra\.bin"):
        store.open_release(signed.tag)


def altered(said, part):
    envelope = said["dsseEnvelope"]
    if part == "payload":
        payload = base64.b64decode(envelope["payload"])
        envelope["payload"] = base64.b64encode(payload.replace(b"card.md", b"card.mb")).decode()
    elif part == "sig":
        envelope["signatures"][0]["sig"] = base64.b64encode(b"0" * 70).decode()
    elif part == "two":
        envelope["signatures"] *= 2
    else:
        said |= {"mediaType": "application/json"}
    return json.dumps(said)


@pytest.mark.parametrize("part", ["payload", "sig", "two", "type"])
def test_an_altered_signature_is_refused(signed, part):
    place = signed.path / "model.sig"
    place.write_text(altered(json.loads(place.read_bytes()), part))
    with pytest.raises(ReleaseError, match=r"model\.sig (was not made|cannot be read)"):
        store.open_release(signed.tag)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b'{"dsseEnvelope": 1}', b"null"])
def test_what_is_no_signature_is_refused_in_words(signed, content):
    (signed.path / "model.sig").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"model\.sig cannot be read"):
        store.open_release(signed.tag)


def test_a_signature_that_is_a_link_is_refused(signed, tmp_path):
    shutil.move(signed.path / "model.sig", tmp_path / "elsewhere")
    (signed.path / "model.sig").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match=r"model\.sig cannot be read"):
        store.open_release(signed.tag)


def test_an_altered_release_cannot_be_signed(publish, pair):
    made = publish()
    (made.path / "card.md").write_text("nicer")
    with pytest.raises(ReleaseError, match=r"card\.md is not the file"):
        store.sign(made.tag, pair[0])
    assert not (made.path / "model.sig").exists()


def test_a_key_with_a_password_signs_when_the_password_is_given(publish, write_pair, monkeypatch):
    private, public = write_pair("key", password=b"secret", form=serialization.PrivateFormat.PKCS8)
    made = publish()
    with pytest.raises(ConfigError, match="VIGIL_KEY_PASSWORD holds the password"):
        store.sign(made.tag, private)
    monkeypatch.setenv(signing.PASSWORD, "wrong")
    with pytest.raises(ConfigError, match="is no private key in PEM that VIGIL_KEY_PASSWORD opens"):
        store.sign(made.tag, private)
    monkeypatch.setenv(signing.PASSWORD, "secret")
    signing.verify(store.sign(made.tag, private), public)


def test_a_file_that_is_not_the_right_kind_of_key_is_named(signed, pair, write_pair, tmp_path, monkeypatch):
    form = serialization.PrivateFormat.PKCS8
    rsa_pair = write_pair("rsa", rsa.generate_private_key(public_exponent=65537, key_size=2048), form=form)
    for key, words in (
        (pair[1], "is no private key"),
        (rsa_pair[0], "no elliptic curve"),
        (tmp_path / "no", "cannot be"),
    ):
        with pytest.raises(ConfigError, match=words):
            store.sign(signed.tag, key)
    for key, words in (
        (pair[0], "is no public key"),
        (rsa_pair[1], "no elliptic curve"),
        (tmp_path / "no", "cannot be"),
    ):
        monkeypatch.setenv(signing.VARIABLE, str(key))
        with pytest.raises(ConfigError, match=words):
            store.open_release(signed.tag)


def test_without_cryptography_the_demand_says_what_to_install(signed, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"pip install 'vigil\[sign\]'"):
        store.open_release(signed.tag)


def test_an_unsigned_release_is_not_promoted_and_not_rolled_back_to(signed, publish, pair, monkeypatch):
    unsigned = publish(seed=1)
    with pytest.raises(ReleaseError, match="is not signed"):
        aliases.promote(unsigned.tag, "newer", force=True)
    monkeypatch.delenv(signing.VARIABLE)
    aliases.promote(unsigned.tag, "before signatures were demanded")
    aliases.promote(signed.tag, "signed", force=True)
    monkeypatch.setenv(signing.VARIABLE, str(pair[1]))
    with pytest.raises(ReleaseError, match="is not signed"):
        aliases.rollback("tiny", "back")
    assert aliases.read("tiny").champion.version == signed.version


def test_the_service_does_not_serve_an_unsigned_champion(publish, pair, monkeypatch):
    made = publish()
    aliases.promote(made.tag, "first")
    monkeypatch.setenv(signing.VARIABLE, str(pair[1]))

    async def reason():
        host = Host(
            "tiny", Settings(threads=1), ServingMetrics(prometheus_client.CollectorRegistry()), lambda: None, None
        )
        await host.start()
        try:
            return host.ready, host.reason
        finally:
            await host.stop()

    assert asyncio.run(reason()) == (False, f"{made.tag}: is not signed; sign it: vigil sign {made.tag} --key FILE")
    store.sign(made.tag, pair[0])
    assert asyncio.run(reason()) == (True, "live")


def test_the_service_takes_the_variable_and_loads_no_cryptography_without_it():
    assert from_environment({signing.VARIABLE: "key.pub.pem", signing.PASSWORD: "of a shell that signed"}) == Settings()
    show = "import service, sys; print([p for p in ('cryptography', 'model_signing', 'sigstore') if p in sys.modules])"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == []
