"""Key pairs for the tests of signatures, a disk that is full, and stores that share a place."""

import resource
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry import aliases

PEM, PUBLIC = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo


@pytest.fixture
def write_pair(tmp_path):
    """Return a function that writes a key pair as openssl does, and gives the private and the public file."""

    def write(name, key=None, password=None, form=serialization.PrivateFormat.TraditionalOpenSSL):
        key = key or ec.generate_private_key(ec.SECP256R1())
        hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
        private.write_bytes(key.private_bytes(PEM, form, hidden))
        public.write_bytes(key.public_key().public_bytes(PEM, PUBLIC))
        return private, public

    return write


@pytest.fixture
def pair(write_pair):
    """Return the files of one key pair."""
    return write_pair("key")


@pytest.fixture
def small_files():
    """Return a context in which no file can grow over 1,500 bytes: writing fails as it does on a full disk."""

    @contextmanager
    def limit():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture
def shared(tmp_path):
    """Return the URL of an empty shared folder."""
    return f"file://{tmp_path}/shared"


@pytest.fixture
def at(tmp_path, monkeypatch):
    """Return a function that goes to the store of another machine."""
    return lambda name: monkeypatch.setenv("BENTOML_HOME", str(tmp_path / name))


@pytest.fixture
def promoted(publish):
    """Return a function that publishes a release and makes it the champion."""

    def make(seed, name="tiny"):
        made = publish(name, seed, created=f"2026-11-24T11:00:{seed:02d}Z")
        aliases.promote(made.tag, f"release {seed}", force=True)
        return made

    return make
