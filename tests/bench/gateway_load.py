"""Requests for ``make bench-gateway``, and how wrk sends them."""

import json
import secrets
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from shared.signing import v1
from shared.signing.digests import content_digest
from shared.signing.keys import SharedSecret
from shared.signing.message import Message
from tests.bench.gateway_peers import WRK, Peer

CONNECTIONS = 32
PATH = "/v1/contacts"
CONTENT = json.dumps({"first_name": "Ada", "notes": "x" * 983}).encode()
"""1 KiB of JSON."""

_SCRIPT = """
local requests, at = {}, 0
local file = assert(io.open(os.getenv("REQUESTS"), "rb"))
while true do
  local size = file:read("*n")
  if size == nil then break end
  file:read(1)
  requests[#requests + 1] = file:read(size)
end
file:close()
request = function()
  at = at + 1
  if at > #requests then at = 1 end
  return requests[at]
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format('{"requests": %d, "seconds": %.6f, "failed": %d, "p50": %d, "p99": %d}\\n', summary.requests,
    summary.duration / 1e6, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Caller:
    """An API key; with a shared secret, it must sign."""

    key: str
    secret: SharedSecret | None = None


@dataclass(frozen=True)
class Round:
    """What one run of wrk saw of a proxy: answers of a CPU second of that proxy, and microseconds."""

    requests: int
    per_cpu_second: float
    p50: float
    p99: float


def plain(port: int, caller: Caller) -> bytes:
    """One request, unsigned."""
    return _request(port, caller, {})


def signed(port: int, caller: Caller) -> bytes:
    """The same request, with a signature of now that was never used before."""
    assert caller.secret is not None
    pairs = [
        (b"host", b"127.0.0.1:%d" % port), (b"content-type", b"application/json"),
        (b"content-digest", _DIGEST.encode()),
    ]  # fmt: skip
    message = Message("POST", PATH.encode(), b"", pairs, scheme="http")
    fields = v1.sign(message, caller.secret, nonce=secrets.token_urlsafe(18), created=int(time.time()))
    return _request(port, caller, {"content-digest": _DIGEST, **fields})


def verification(caller: Caller, count: int = 5_000) -> float:
    """Microseconds of CPU that verifying one such request takes, digest of its content included."""
    assert caller.secret is not None
    now, secret = int(time.time()), caller.secret
    messages = []
    for _ in range(count):
        request = signed(80, caller)
        lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        pairs = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
        messages.append(Message("POST", PATH.encode(), b"", pairs, scheme="http"))
    begun = time.process_time()
    for message in messages:
        verified = v1.verify(message, lambda _: secret, now)
        if verified.digest is not None:
            verified.digest.update(CONTENT)
            verified.digest.check()
    return (time.process_time() - begun) / count * 1e6


def _request(port: int, caller: Caller, fields: dict[str, str]) -> bytes:
    lines = [
        f"POST {PATH} HTTP/1.1", f"host: 127.0.0.1:{port}", f"authorization: Bearer {caller.key}",
        "content-type: application/json", f"content-length: {len(CONTENT)}",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + CONTENT


_DIGEST = content_digest(CONTENT)


class Wrk:
    """wrk with one thread and kept connections. ``folder`` is for its script and the requests."""

    def __init__(self, folder: Path) -> None:
        self._program = WRK.find()
        self._script, self._requests = folder / "wrk.lua", folder / "requests"
        self._script.write_text(_SCRIPT)

    def run(self, peer: Peer, requests: list[bytes], seconds: float) -> Round:
        """Send ``requests``, over and over, for ``seconds``; raises ``SystemExit`` when one is refused."""
        with self._requests.open("wb") as file:
            file.writelines(b"%d\n%b" % (len(each), each) for each in requests)
        before = peer.cpu_seconds()
        said = subprocess.run(
            [
                str(self._program.path), "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(self._script),
                f"http://127.0.0.1:{peer.port}{PATH}",
            ],
            env=self._program.environment() | {"REQUESTS": str(self._requests)},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        used = peer.cpu_seconds() - before
        seen = json.loads(said.splitlines()[-1])
        if seen["failed"] or not seen["requests"]:
            raise SystemExit(f"{peer.name}: {seen['failed']} of {seen['requests']} requests failed")
        if len(requests) > 1 and seen["requests"] + CONNECTIONS > len(requests):
            raise SystemExit(f"{peer.name}: {seen['requests']} requests need more signatures than {len(requests)}")
        return Round(seen["requests"], seen["requests"] / used, seen["p50"], seen["p99"])
