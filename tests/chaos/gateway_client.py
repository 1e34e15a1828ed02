"""Requests of a gateway run as bytes, and a client that knows how far an answer came."""

import asyncio
import hashlib
import json
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field

from shared.errors import PROBLEM_JSON
from shared.signing import v1
from shared.signing.digests import content_digest
from shared.signing.message import Message
from tests.bench.gateway_load import Caller
from tests.chaos.gateway_history import Attempt

HOST = "chaos.test"
"""The same for every gateway, so that the same bytes are good at each."""
PATIENCE_SECONDS = 15.0
"""Longer than a gateway's own deadline: who gives up sees no answer."""
_LONGEST_HEAD = 1 << 20


def signed(method: str, target: str, caller: Caller, content: bytes = b"", *, sent: bytes | None = None,
           key: str = "") -> bytes:  # fmt: skip
    """A signed request of now; ``sent`` is what takes the place of the content that was signed, ``key`` makes it safe to
    send again.
    """
    assert caller.secret is not None
    path, _, query = target.partition("?")
    headers = {"host": HOST}
    if content:
        headers |= {"content-type": "application/json", "content-digest": content_digest(content)}
    if key:
        headers["idempotency-key"] = key
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    if content:
        pairs.append((b"content-length", b"%d" % len(content)))
    message = Message(method, path.encode(), query.encode(), pairs, scheme="http")
    fields = v1.sign(message, caller.secret, nonce=secrets.token_urlsafe(18), created=int(time.time()))
    return raw(method, target, {**headers, "authorization": f"Bearer {caller.key}", **fields}, content, sent=sent)


def plain(method: str, target: str, caller: Caller | None = None, content: bytes = b"") -> bytes:
    """A request that nobody signed."""
    headers = {"host": HOST}
    if caller is not None:
        headers["authorization"] = f"Bearer {caller.key}"
    if content:
        headers["content-type"] = "application/json"
    return raw(method, target, headers, content)


def raw(method: str, target: str, headers: dict[str, str], content: bytes, *, sent: bytes | None = None) -> bytes:
    """A request as it goes over the wire."""
    body = content if sent is None else sent
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class Answer:
    """What came back, as far as it came."""

    status: int
    headers: dict[str, str]
    content: bytes = b""
    whole: bool = False


@dataclass
class Client:
    """One connection to one gateway, opened when it is needed and kept while it works."""

    port: int
    gateway: int = 0
    _reader: asyncio.StreamReader | None = field(default=None, repr=False)
    _writer: asyncio.StreamWriter | None = field(default=None, repr=False)

    async def ask(self, request: bytes, *, replay: bool = False) -> Attempt:
        """Send these bytes once, and say what came of it."""
        began = time.monotonic()
        attempt = Attempt(self.gateway, began, began, "silent", replay=replay)
        found: list[Answer] = []
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if self._writer is None:
                    attempt.outcome = "refused"
                    self._reader, self._writer = await asyncio.open_connection(
                        "127.0.0.1", self.port, limit=_LONGEST_HEAD
                    )
                    attempt.outcome = "silent"
                self._writer.write(request)
                await self._read(found)
        except (OSError, EOFError, TimeoutError, ValueError, RuntimeError, asyncio.LimitOverrunError):
            self.close()
        attempt.ended = time.monotonic()
        if found:
            _note(attempt, found[0])
        if not found or not found[0].whole or found[0].headers.get("connection", "") == "close":
            self.close()
        return attempt

    async def _read(self, found: list[Answer]) -> None:
        reader = self._reader
        assert reader is not None
        first = await reader.readuntil(b"\r\n")
        # From here on an answer has begun, whether it ends or not.
        found.append(answer := Answer(int(first[9:12]), {}))
        head = (await reader.readuntil(b"\r\n\r\n") if not first.isspace() else b"").decode("latin-1")
        for line in head.splitlines():
            name, colon, value = line.partition(":")
            if colon:
                answer.headers[name.lower()] = value.strip()
        if answer.headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                answer.content += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        else:
            answer.content = await reader.readexactly(int(answer.headers["content-length"]))
        answer.whole = True

    def close(self) -> None:
        """Begin anew with the next request."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            with suppress(OSError, RuntimeError):
                writer.close()


def _note(attempt: Attempt, answer: Answer) -> None:
    headers = answer.headers
    attempt.status = answer.status
    attempt.outcome = "answer" if answer.whole else "broken"
    attempt.marked = headers.get("idempotency-replayed") == "true"
    attempt.retry_after = headers.get("retry-after", "")
    same = (answer.content, headers.get("location", "").encode(), headers.get("etag", "").encode())
    attempt.answer = hashlib.sha256(b"\0".join(same)).hexdigest()[:16]
    if not answer.whole:
        return
    try:
        content = json.loads(answer.content)
    except ValueError:
        attempt.sound, content = False, None
    if answer.status >= 400:
        is_problem = headers.get("content-type", "").startswith(PROBLEM_JSON) and isinstance(content, dict)
        agrees = is_problem and content.get("status") == answer.status
        attempt.code = str(content.get("code", "?")) if agrees else "?"
