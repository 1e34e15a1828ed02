"""As much of Kafka's protocol as it takes to know that a broker answers."""

import random
import socket
import struct
import time
from collections.abc import Callable

from deploy.kafka.jars import KafkaError
from deploy.postgres.server import is_free

_API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""Size, key and version of the request, correlation id, no client id."""
_BELOW_EPHEMERAL_PORTS = range(20_000, 32_000)


def answers(port: int) -> bool:
    """Whether a broker on this port of 127.0.0.1 answers a request (it listens some time before it does)."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(_API_VERSIONS)
            reply = connection.recv(10, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(reply) == 10 and struct.unpack(">ih", reply[4:]) == (1, 0)


def wait_until_answering(port: int, *, gone: Callable[[], bool], timeout: float) -> None:
    """Wait for a broker; raises ``KafkaError`` when ``gone()`` or when it takes too long."""
    deadline = time.monotonic() + timeout
    while not answers(port):
        if gone():
            raise KafkaError("the Kafka broker stopped while starting")
        if time.monotonic() > deadline:
            raise KafkaError(f"the Kafka broker did not answer within {timeout:.0f} s")
        time.sleep(0.05)


def choose_port() -> int:
    """A free port that the system gives to no outgoing connection.

    Otherwise a client that tries again and again to reach a broker that is down would one day be given
    that very port, be connected to itself, and keep the broker from coming back.
    """
    for _ in range(100):
        port = random.choice(_BELOW_EPHEMERAL_PORTS)  # noqa: S311 (a port is no secret)
        if is_free(port):
            return port
    raise KafkaError(f"no port of {_BELOW_EPHEMERAL_PORTS} is free")
