"""``python -m deploy.alive``: ends with 0 when the process of this container answers; a container's health check."""

import http.client
import os
import sys


def main() -> int:
    """Ask ``/livez`` on ``GUARDIAN_PORT`` of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("GUARDIAN_PORT", "8080")), timeout=2)
    try:
        connection.request("GET", "/livez")
        return 0 if connection.getresponse().status == http.HTTPStatus.OK else 1
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
