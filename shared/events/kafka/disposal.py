"""How a consumer is got rid of, whatever state it is in."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer

from shared.events.kafka.cluster import CALL_SECONDS

_disposals: set[asyncio.Task[None]] = set()


async def dispose(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and close, for a few seconds at most, whatever state the consumer is in."""
    task = asyncio.create_task(_dispose(consumer))
    _disposals.add(task)
    task.add_done_callback(_disposals.discard)
    await asyncio.shield(task)  # it goes on when we are cancelled


async def _dispose(consumer: AIOKafkaConsumer) -> None:
    # A task of its own: aiokafka lets the cancellation of its own tasks out, which is none of ours.
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.wait([stopping], timeout=CALL_SECONDS)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    coordinator, fetcher = consumer._coordinator, consumer._fetcher  # noqa: SLF001
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task")
    tasks = [stopping, *(getattr(coordinator, name, None) for name in names)]
    if fetcher is not None:
        tasks += [fetcher._fetch_task, *fetcher._pending_tasks]  # noqa: SLF001
    for task in filter(None, tasks):
        task.cancel()
    await asyncio.gather(*filter(None, tasks), return_exceptions=True)
    await consumer._client.close()  # noqa: SLF001
