"""Latency in an open loop, and streams, for ``make bench-gateway``."""

from typing import Any


async def measure_latency(*_: Any) -> None: ...
async def measure_streams(*_: Any) -> None: ...
