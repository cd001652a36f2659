"""Signatures: who vouches for the bytes of a release. Made and checked in the OpenSSF model-signing format.

`model.sig` is a Sigstore bundle: a DSSE envelope around an in-toto statement that lists the SHA-256 of
the manifest and of every file, signed with an elliptic curve key. `model_signing verify key` accepts
it. It lies beside the manifest, so signing changes no digest and no version. Only `cryptography` is
needed, and only imported when a signature is made or demanded.
https://github.com/sigstore/model-transparency, https://github.com/secure-systems-lab/dsse
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import ConfigError, ReleaseError
from registry.release import BENTOML_FILE, MANIFEST, SIGNATURE, Release, open_plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

VARIABLE = "VIGIL_REQUIRE_SIGNATURE"  # the file of a public key; releases it does not vouch for are refused
PASSWORD = "VIGIL_KEY_PASSWORD"
MOST_BYTES = 1_000_000
PAYLOAD = "application/vnd.in-toto+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}


def demand(release: Release) -> None:
    """Raise ReleaseError unless the key that `VIGIL_REQUIRE_SIGNATURE` names vouches for `release`; unset: nothing."""
    if key := os.environ.get(VARIABLE):
        verify(release, Path(key))


def bundle(release: Release, key: Path) -> bytes:
    """Return the signature of `release`, whose files were verified, by the private key in the PEM file `key`."""
    secret = _private_key(key)
    payload = json.dumps(_statement(release), sort_keys=True).encode()
    signed = secret.sign(_envelope_bytes(payload), _algorithm(secret.public_key()))
    said = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": _fingerprint(secret.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
        },
    }
    return json.dumps(said).encode()


def verify(release: Release, key: Path) -> None:
    """Raise ReleaseError unless `model.sig` was made with the pair of the public key in the PEM file `key`.

    It must list exactly the manifest and the files that the manifest names, by their digests.
    """
    public = _public_key(key)
    signed, payload = _envelope(release)
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signed, _envelope_bytes(payload), _algorithm(public))
    except InvalidSignature as error:
        wanted = f"the key {key} (sha256 {_fingerprint(public)[:12]}...)"
        raise ReleaseError(f"{release.tag}: {SIGNATURE} was not made with the pair of {wanted}") from error
    _demand_same_files(release, payload)


def _envelope(release: Release) -> tuple[bytes, bytes]:
    """Return the signature and the payload it is over; raises ReleaseError if there is none to be read."""
    if not os.path.lexists(release.path / SIGNATURE):
        raise ReleaseError(f"{release.tag}: is not signed; sign it: vigil sign {release.tag} --key FILE")
    with open_plain(release.path / SIGNATURE, release.tag) as file:
        content = file.read(MOST_BYTES)
    try:
        said = json.loads(content)
        envelope = said["dsseEnvelope"]
        if said["mediaType"] != BUNDLE or envelope["payloadType"] != PAYLOAD:
            raise ValueError(f"accepted is {BUNDLE}")
        (signed,) = (base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"])
        return signed, base64.b64decode(envelope["payload"], validate=True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ReleaseError(f"{release.tag}: {SIGNATURE} cannot be read: {error}") from error


def _demand_same_files(release: Release, payload: bytes) -> None:
    said, expected = json.loads(payload), _statement(release)
    if said.get("_type") != STATEMENT or said.get("predicateType") != PREDICATE:
        raise ReleaseError(f"{release.tag}: {SIGNATURE} vouches for something else than the files of a model")
    if _files(said) != _files(expected):
        differ = sorted({name for name, _ in _files(said) ^ _files(expected)})
        raise ReleaseError(f"{release.tag}: {SIGNATURE} vouches for other files: {', '.join(differ)}")


def _files(statement: dict[str, Any]) -> set[tuple[str, str]]:
    return {(one["name"], one["digest"]) for one in statement["predicate"]["resources"] if one["algorithm"] == "sha256"}


def _statement(release: Release) -> dict[str, Any]:
    digests = {MANIFEST: release.digest} | {name: entry.sha256 for name, entry in release.manifest.files.items()}
    resources = [{"name": name, "digest": digests[name], "algorithm": "sha256"} for name in sorted(digests)]
    whole = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources)).hexdigest()
    left_out = [BENTOML_FILE, SIGNATURE]
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": left_out}
    return {
        "_type": STATEMENT,
        "subject": [{"name": release.tag, "digest": {"sha256": whole}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": serialization, "resources": resources},
    }


def _envelope_bytes(payload: bytes) -> bytes:
    # The pre-authentication encoding of DSSE: lengths keep type and payload apart.
    return f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)} ".encode() + payload


def _private_key(key: Path) -> Any:
    password = os.environ.get(PASSWORD)
    try:
        loaded = _pem_reader().load_pem_private_key(_pem(key), password.encode() if password else None)
    except TypeError as error:
        raise ConfigError(f"{key}: {error}; {PASSWORD} holds the password of an encrypted key") from error
    except ValueError as error:
        raise ConfigError(f"{key}: is no private key in PEM that {PASSWORD} opens: {error}") from error
    return _on_a_curve(key, loaded)


def _public_key(key: Path) -> Any:
    try:
        loaded = _pem_reader().load_pem_public_key(_pem(key))
    except ValueError as error:
        raise ConfigError(f"{key}: is no public key in PEM: {error}") from error
    return _on_a_curve(key, loaded)


def _pem_reader() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise ConfigError("signatures need the package cryptography: pip install 'vigil[sign]'") from error
    return serialization


def _on_a_curve(key: Path, loaded: Any) -> Any:
    curve = getattr(getattr(loaded, "curve", None), "name", "no elliptic curve")
    if curve not in HASHES:
        raise ConfigError(f"{key}: {curve}; accepted are keys on {', '.join(HASHES)}")
    return loaded


def _pem(key: Path) -> bytes:
    try:
        return key.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: the key cannot be read: {error.strerror}") from error


def _algorithm(public: "ec.EllipticCurvePublicKey") -> "ec.ECDSA":
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, HASHES[public.curve.name])())


def _fingerprint(public: "ec.EllipticCurvePublicKey") -> str:
    from cryptography.hazmat.primitives import serialization

    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()
