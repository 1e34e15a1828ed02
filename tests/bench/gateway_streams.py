"""What ``make bench-gateway`` measures besides CPU: latency in an open loop, and streams through the gateway."""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack, asynccontextmanager

import uvloop

from cli.progress import step
from deploy.postgres import free_port
from shared.settings import Settings
from tests.bench.gateway_load import PATH, Caller, plain, signed
from tests.bench.gateway_peers import Peer
from tests.bench.gateway_system import gateway
from tests.bench.openloop import Generator
from tests.bench.report import Report

RATE, SECONDS, PAIRS = 1000.0, 5.0, 5
STREAM_BYTES = 100 * 2**20
GROWTH_BYTES = 20 * 2**20
EVENTS = 100
_PIECE = b"x" * 65_536


def measure(report: Report, settings: Settings, ours: Peer, behind: Peer, callers: tuple[Caller, Caller]) -> None:
    """Latency, then streams."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_latency(report, ours, behind, callers))
        with ExitStack() as stack:
            port = free_port()
            service = Peer(
                "a service", [sys.executable, "-m", "tests.bench.gateway_upstream", str(port)], port, os.environ
            )
            stack.callback(service.stop)
            service.ready()
            through = gateway(settings, port, GUARDIAN_MAX_BODY_BYTES=str(2 * STREAM_BYTES))
            stack.callback(through.stop)
            runner.run(_streams(report, service, through, callers[0]))


# -- latency ---------------------------------------------------------------------------------------------
async def _latency(report: Report, ours: Peer, behind: Peer, callers: tuple[Caller, Caller]) -> None:
    """p99 through the gateway beside p99 without it, in turn; every request is signed."""
    added: list[float] = []
    direct: list[float] = []
    count = int(RATE * SECONDS)
    with step(f"Latency at {RATE:,.0f} requests a second") as progress:
        for number in range(PAIRS + 1):
            requests = [signed(ours.port, callers[1]) for _ in range(count)]
            mine = await _p99(ours.port, requests)
            theirs = await _p99(behind.port, [plain(behind.port, callers[0])] * count)
            if number:  # the first pair opens connections
                added.append(1000 * (mine - theirs))
                direct.append(1000 * theirs)
            progress.update(number, PAIRS, note=f"{1000 * mine:.1f} ms beside {1000 * theirs:.1f} ms")
    report.bar(
        "added_p99", statistics.median(added), 3.0, better="lower", unit="ms", n=PAIRS * count,
        spread=(min(added), max(added)), peer="the upstream itself, ms", peer_value=statistics.median(direct),
    )  # fmt: skip


async def _p99(port: int, requests: list[bytes]) -> float:
    generator = Generator(port)
    try:
        result = await generator.run(requests.__getitem__, RATE, len(requests))
    finally:
        await generator.close()
    if result.failed:
        raise SystemExit(f"{result.failed} of {len(requests)} requests failed")
    return result.quantile(0.99)


# -- streams ---------------------------------------------------------------------------------------------
async def _streams(report: Report, service: Peer, through: Peer, caller: Caller) -> None:
    megabytes = STREAM_BYTES // 2**20
    for name, transfer in (("upload", _upload), ("download", _download)):
        await transfer(through.port, caller, 2**20)  # what the first stream of all needs stays
        with step(f"{name.capitalize()} of {megabytes} MB") as progress:
            began = time.monotonic()
            grown = await _grown(through, transfer(through.port, caller, STREAM_BYTES))
            progress.update(note=f"{megabytes / (time.monotonic() - began):,.0f} MB/s")
        report.bar(f"{name}_growth", grown / 2**20, GROWTH_BYTES / 2**20, better="lower", unit="MB", n=1)
    added = []
    for number in range(EVENTS + 5):
        times = [await _first_event(port, caller) for port in (through.port, service.port)]
        if number >= 5:
            added.append(1000 * (times[0] - times[1]))
    report.median("first_event_later", added, 2.0, better="lower", unit="ms")


async def _grown(peer: Peer, work: Awaitable[None]) -> int:
    """How much memory a process holds more while something is done."""
    before = most = peer.resident()
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait({task}, timeout=0.02)
        most = max(most, peer.resident())
    await task
    return most - before


@asynccontextmanager
async def _asked(
    port: int, head: str, caller: Caller
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        lines = [head, f"host: 127.0.0.1:{port}", f"authorization: Bearer {caller.key}"]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        yield reader, writer
    finally:
        writer.close()


async def _head(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise SystemExit(f"a stream was answered: {head.decode()}")


async def _upload(port: int, caller: Caller, size: int) -> None:
    async with _asked(port, f"POST {PATH} HTTP/1.1\r\ncontent-length: {size}", caller) as (reader, writer):
        for _ in range(size // len(_PIECE)):
            writer.write(_PIECE)
            await writer.drain()
        await _head(reader)
        if int(await reader.readexactly(len(str(size)))) != size:
            raise SystemExit("the service did not get all of the upload")


async def _download(port: int, caller: Caller, size: int) -> None:
    async with _asked(port, f"GET {PATH}?bytes={size} HTTP/1.1", caller) as (reader, _):
        await _head(reader)
        left = size
        while left:
            piece = await reader.read(65_536)
            if not piece:
                raise SystemExit("the download ended too soon")
            left -= len(piece)


async def _first_event(port: int, caller: Caller) -> float:
    began = time.perf_counter()
    async with _asked(port, f"GET {PATH}?events HTTP/1.1", caller) as (reader, _):
        await reader.readuntil(b"data: first")
        return time.perf_counter() - began
