"""``make bench-gateway``: what a request costs in the gateway, beside the proxies people use.

All proxies stand in front of one nginx that answers ``return 200``, with one worker each and no access log, and get
the same POST of 1 KiB of JSON from wrk (one thread, 32 kept connections), one after the other, round after round. What
counts is requests per CPU second of the proxy's own process. Ours runs the full path: edge guard, API key, the v1
signature with its nonce (each request is signed anew), limits out of a lease, usage, internal identity, trace, headers.
Then an open loop of 1,000 requests a second says what the gateway adds to p99, and a service of our own what it takes
to pass 100 MB either way and the first byte of an event stream. ``PROFILE=1`` says where each microsecond goes.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cli.progress import step
from deploy.debian import ProgramError
from shared.settings import Settings
from tests.bench.events_system import durable_postgres
from tests.bench.gateway_load import Caller, Round, Wrk, plain, signed, verification
from tests.bench.gateway_peers import Peer, caddy, fastapi, nginx, upstream
from tests.bench.gateway_profile import profile
from tests.bench.gateway_streams import measure
from tests.bench.gateway_system import gateway, prepared
from tests.bench.report import Report

_MOST_SIGNED = 15_000
"""A second: more requests than any round sends."""
Make = Callable[[], list[bytes]]


class Contender:
    """A proxy and the requests it gets; ``rounds`` is what was seen of it."""

    def __init__(self, name: str, peer: Peer, make: Make) -> None:
        self.name = name
        self.peer = peer
        self.make = make
        self.rounds: list[Round] = []

    def ratios(self, other: "Contender") -> list[float]:
        """Its answers of a CPU second beside the other's, round by round."""
        return [
            mine.per_cpu_second / theirs.per_cpu_second
            for mine, theirs in zip(self.rounds, other.rounds, strict=True)
        ]  # fmt: skip


def _contenders(ours: Peer, peers: list[Peer], callers: tuple[Caller, Caller], seconds: float) -> list[Contender]:
    free, signing = callers
    count = int(_MOST_SIGNED * seconds)
    made = [
        Contender("guardian, signed", ours, lambda: [signed(ours.port, signing) for _ in range(count)]),
        Contender("guardian", ours, lambda: [plain(ours.port, free)]),
    ]
    return made + [Contender(peer.name, peer, lambda port=peer.port: [plain(port, free)]) for peer in peers]  # type: ignore[misc]


def _rounds(wrk: Wrk, contenders: list[Contender], count: int, seconds: float) -> None:
    for number in range(count + 1):
        order = contenders if number % 2 == 0 else contenders[::-1]
        for each in order:
            seen = wrk.run(each.peer, each.make(), seconds if number else 1.0)
            if number:
                each.rounds.append(seen)
                _say(
                    f"round {number} {each.name:>18}: {seen.per_cpu_second:>8,.0f} requests a CPU second, "
                    f"p50 {seen.p50 / 1000:.2f} ms, p99 {seen.p99 / 1000:.2f} ms"
                )  # fmt: skip


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _report(report: Report, contenders: list[Contender]) -> None:
    by_name = {each.name: each for each in contenders}
    for mine, peer, bar in (
        ("guardian, signed", "caddy", 1.0), ("guardian", "caddy", 1.3), ("guardian, signed", "nginx", 0.12),
        ("guardian, signed", "fastapi+aiohttp", 2.5), ("guardian, signed", "fastapi+httpx", 25.0),
    ):  # fmt: skip
        if peer not in by_name:
            continue
        ratios = by_name[mine].ratios(by_name[peer])
        name = f"{'signed' if 'signed' in mine else 'unsigned'}_times_{peer.replace('+', '_')}"
        report.bar(
            name, statistics.median(ratios), bar, better="higher", unit="x requests per CPU second", n=len(ratios),
            spread=(min(ratios), max(ratios)), peer=peer,
            peer_value=statistics.median(each.per_cpu_second for each in by_name[peer].rounds),
        )  # fmt: skip


def _options() -> Any:
    parser = argparse.ArgumentParser(prog="make bench-gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of every proxy (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="each takes (%(default)s)")
    parser.add_argument("--only", default="", help="these peers alone: caddy,nginx,aiohttp,httpx")
    parser.add_argument("--no-streams", action="store_true", help="leave out latency and streams")
    return parser.parse_args()


def _peers(stack: ExitStack, folder: Path, target: int, only: str) -> list[Peer]:
    makers: dict[str, Callable[[], Peer]] = {
        "caddy": lambda: caddy(folder / "caddy", target),
        "nginx": lambda: nginx(folder / "nginx", target),
        "aiohttp": lambda: fastapi("aiohttp", target),
        "httpx": lambda: fastapi("httpx", target),
    }
    wanted = only.split(",") if only else list(makers)
    peers = []
    for name in wanted:
        if name in makers:
            peers.append(makers[name]())
            stack.callback(peers[-1].stop)
    return peers


def _measure(options: Any, report: Report, folder: Path, settings: Settings) -> None:
    with ExitStack() as stack:
        behind = upstream(folder / "upstream")
        stack.callback(behind.stop)
        with step("Making API keys"):
            callers = prepared(settings)
        report.median(
            "verify_1_kib", [verification(callers[1]) for _ in range(5)], 40, better="lower", unit="µs of CPU"
        )
        if os.environ.get("PROFILE"):
            asyncio.run(profile(settings, callers))
        ours = gateway(settings, behind.port)
        stack.callback(ours.stop)
        peers = _peers(stack, folder, behind.port, options.only)
        contenders = _contenders(ours, peers, callers, options.seconds)
        _rounds(Wrk(folder), contenders, options.rounds, options.seconds)
        _report(report, contenders)
        if not options.no_streams:
            measure(report, settings, ours, behind, callers)


def main() -> int:
    """Measure and report; 1 when a bar does not hold."""
    options = _options()
    report = Report("gateway")
    with tempfile.TemporaryDirectory(prefix="guardian-bench-gateway-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            with durable_postgres(folder) as (settings, _pid):
                _measure(options, report, folder, settings)
        except ProgramError as error:
            sys.exit(f"{error}\n{error.log}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
