"""TLS in front of the service: the options of `vigil serve`, and what they mean to `bentoml serve`.

Nothing older than TLS 1.2 is spoken, which is Python's own floor.
"""

import argparse
import os
from pathlib import Path

from registry.errors import ConfigError

CERT_REQUIRED = "2"  # ssl.CERT_REQUIRED, as bentoml wants it: a client without a certificate is refused


def arguments(certfile: str, keyfile: str, client_ca: str) -> list[str]:
    """Return what `bentoml serve` takes for TLS, [] without a certificate; with `client_ca` clients must show one.

    Raises ConfigError for a file that cannot be read or a part that is missing.
    """
    if bool(certfile) != bool(keyfile) or (client_ca and not certfile):
        raise ConfigError("--certfile and --keyfile belong together, and --client-ca needs both")
    for file in filter(None, (certfile, keyfile, client_ca)):
        if not os.access(file, os.R_OK):
            raise ConfigError(f"{file}: cannot be read; accepted is a PEM file")
    if not certfile:
        return []
    own = ["--ssl-certfile", str(Path(certfile).absolute()), "--ssl-keyfile", str(Path(keyfile).absolute())]
    demanded = ["--ssl-cert-reqs", CERT_REQUIRED, "--ssl-ca-certs", str(Path(client_ca).absolute())]
    return own + (demanded if client_ca else [])


def add_options(verb: argparse.ArgumentParser) -> None:
    """Add the options whose values `arguments` takes."""
    verb.add_argument("--certfile", default="", metavar="PEM", help="the certificate: answers over TLS")
    verb.add_argument("--keyfile", default="", metavar="PEM", help="its private key")
    verb.add_argument("--client-ca", default="", metavar="PEM", help="the authority that must have certified a client")
