"""Exit with 0 if the service in this container takes requests, with 1 if not; the HEALTHCHECK of the image.

Settings that let no plain request in (TLS) need a check of their own: `--health-cmd`, or `--no-healthcheck`.
"""

import http.client
import os
import sys

TIMEOUT_S = 2.0


def ready(port: int) -> bool:
    """Return whether `/readyz` on this port says 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not ready(int(os.environ.get("BENTOML_PORT", "3000"))))
