"""Raw bytes to the front door of a running platform, what is answered, and what has become of it behind the door."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import orjson

from shared.ids import new_id
from tests.e2e.platform import RunningPlatform

LINE = b"POST /v1/contacts HTTP/1.1\r\n"
FIELDS = b"Host: a\r\nAuthorization: Bearer KEY\r\nContent-Type: application/json\r\n"
"""``KEY`` stands for the organisation's API key, here and in whatever is said through a door."""
POST = LINE + FIELDS
GET = b"GET /v1/contacts?limit=200 HTTP/1.1\r\n" + FIELDS
BODY = b'{"first_name":"smuggled"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CLOSE = b"Connection: close\r\n"
WHOLE = POST + LENGTH + b"\r\n" + BODY
"""A good request. Behind what must be refused it is the one that somebody wants to smuggle."""
END = b"0\r\n\r\n"

_PATIENCE_SECONDS = 15.0
_SCOPES = ("contacts:read", "contacts:write")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True)
class Answer:
    """One HTTP/1.1 answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and code of a problem, which it must be in every respect."""
        problem = self.json
        assert self.headers["content-type"] == "application/problem+json"
        assert problem["status"] == self.status
        assert problem["type"] == f"urn:guardian:problem:{problem['code']}"
        assert problem["request_id"] == self.headers["x-request-id"]
        return self.status, problem["code"]

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"

    @classmethod
    def cut_from(cls, data: bytes) -> tuple[Answer, bytes] | None:
        """The first answer in ``data`` and what follows it; None while it is not complete."""
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            return None
        status, *lines = head.decode("latin-1").split("\r\n")
        assert status.startswith("HTTP/1.1 "), status
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        number = int(status.split()[1])
        if headers.get("transfer-encoding") == "chunked":
            return cls._of_chunks(number, headers, rest)
        length = 0 if number < 200 else int(headers.get("content-length", "0"))
        return None if len(rest) < length else (cls(number, headers, rest[:length]), rest[length:])

    @classmethod
    def _of_chunks(cls, status: int, headers: dict[str, str], rest: bytes) -> tuple[Answer, bytes] | None:
        body = b""
        while True:
            size, found, behind = rest.partition(b"\r\n")
            length = int(size, 16) if found else 0
            if not found or len(behind) < length + 2:
                return None
            body, rest = body + behind[:length], behind[length + 2 :]
            if not length:
                return cls(status, headers, body), rest


class Wire:
    """One connection. ``KEY`` in what is sent becomes the key."""

    def __init__(self, port: int, key: bytes, source: str = "") -> None:
        self._socket = socket.create_connection(
            ("127.0.0.1", port), timeout=_PATIENCE_SECONDS, source_address=(source, 0) if source else None
        )
        self._key = key
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send it all; who closes in the middle has answered already."""
        with suppress(ConnectionError):
            self._socket.sendall(data.replace(b"KEY", self._key))

    def answer(self) -> Answer:
        """The next answer; fails when none comes."""
        while (found := Answer.cut_from(self._read)) is None:
            piece = self._piece()
            assert piece, f"closed after {self._read!r}"
            self._read += piece
        answer, self._read = found
        return answer

    def rest(self) -> list[Answer]:
        """All answers until the other side closes; fails when it does not, or leaves one unfinished."""
        while piece := self._piece():
            self._read += piece
        answers = []
        while found := Answer.cut_from(self._read):
            answer, self._read = found
            answers.append(answer)
        assert self._read == b"", "what ends a connection is an answer"
        return answers

    def _piece(self) -> bytes:
        try:
            return self._socket.recv(65_536)
        except ConnectionError:
            return b""
        except TimeoutError:
            raise AssertionError(f"neither closed nor answered after {self._read[-500:]!r}") from None


class Door:
    """The front door of a platform, and an organisation of its own behind it.

    ``made`` are the contacts it had when somebody looked last, by first name.
    """

    def __init__(self, platform: RunningPlatform) -> None:
        self.platform = platform
        self.made: list[str] = []
        name = f"edge-{new_id().hex[-12:]}"
        person = {"organization": name, "data_region": "eu", "name": name, "email": f"{name}@example.com"}
        with platform.anonymous() as client:
            signed_up = client.post("/v1/sign-up", json={**person, "password": new_id().hex}).raise_for_status().json()
            self.user, self.organization = signed_up["user"]["id"], signed_up["organization"]["id"]
            keys = [
                client.post("/v1/api-keys", json={"name": "edge", "scopes": scopes}).raise_for_status().json()["key"]
                for scopes in (_SCOPES, ())
            ]
        self.key, self.weak_key = (key.encode() for key in keys)
        self._client = platform.anonymous()
        self._client.headers["Authorization"] = f"Bearer {self.key.decode()}"

    def close(self) -> None:
        self._client.close()

    def connect(self, source: str = "") -> Wire:
        return Wire(self.platform.port, self.key, source)

    def say(self, data: bytes, key: bytes | None = None) -> list[Answer]:
        """Everything that is answered on a connection of its own, which the platform must close."""
        with Wire(self.platform.port, self.key if key is None else key) as wire:
            wire.send(data)
            return wire.rest()

    def ask(self, data: bytes, key: bytes | None = None) -> Answer:
        """The one answer to a request that asks for the connection to be closed, or makes it close."""
        (answer,) = self.say(data, key)
        return answer

    def names(self) -> list[str]:
        """The contacts there are, by first name."""
        page = self._client.get("/v1/contacts", params={"limit": 200, "sort": "created_at"}).raise_for_status().json()
        assert not page["has_more"]
        return [contact["first_name"] for contact in page["data"]]

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Fails when a contact is made in the block, or was made since somebody looked last."""
        before = self.made
        try:
            yield
        finally:
            self.made = self.names()  # one row that fails shall not fail all that follow
        assert self.made == before

    def makes(self, *names: str) -> None:
        """Fails unless these contacts, and no others, were made since somebody looked last."""
        self.made, before = self.names(), self.made
        assert self.made == [*before, *names]
