import asyncio
from collections.abc import Awaitable, Callable, Sequence

from shared.db import Database, Session
from shared.events import CloudEvent, Consumer, Job, Relay, Worker, wakeups
from shared.events.deadletters import redrive
from shared.events.postgres import PostgresBus
from shared.ids import new_id
from tests.shared.events.support import TOPIC, count, effects, publish_all, record, until

ProcessFactory = Callable[..., Awaitable[Database]]


async def test_an_event_goes_from_one_service_to_another(process: ProcessFactory) -> None:
    alpha, beta = await process("alpha"), await process("beta")
    sender, receiver = PostgresBus(alpha), PostgresBus(beta)
    publisher = Worker(alpha, bus=sender, relay=Relay(alpha, sender))
    consumer = Consumer(beta, receiver, "beta.test", ["guardian.alpha.events"], record)
    subscriber = Worker(beta, bus=receiver, consumers=[consumer])
    await publisher.start()
    await subscriber.start()
    organization, entity = new_id(), new_id()
    for n in range(5):
        await publish_all(alpha, organization, entity, [n])

    async def done() -> bool:
        return await count(beta) == 5

    await until(done)
    assert await effects(beta) == {f"{organization}/{entity}": [0, 1, 2, 3, 4]}

    async def quiet() -> bool:
        status = await subscriber.status()
        return status.ready and status.consumers[0].lag == 0

    await until(quiet)
    sending = await publisher.status()
    assert (sending.service, sending.ready, sending.relay_active, sending.oldest_unsent_seconds) == (
        "alpha",
        True,
        True,
        0.0,
    )
    (state,) = (await subscriber.status()).consumers
    assert (state.group, state.state, state.dead_letters, state.last_error) == ("beta.test", "running", 0, None)
    await publisher.stop()
    await subscriber.stop()
    assert not [
        task
        for task in asyncio.all_tasks()
        if task.get_name().startswith(("alpha:", "beta:", "bus-beats", "events-post"))
    ]
    assert wakeups.Post.opened == {}


async def test_a_part_that_fails_is_started_again(process: ProcessFactory) -> None:
    database, runs = await process("alpha"), 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("first time")

    worker = Worker(database, bus=PostgresBus(database), jobs=[Job("sweep", 0.01, work)])
    await worker.start()
    await until(lambda: runs >= 3)
    state = (await worker.status()).tasks["job:sweep"]
    assert (state.state, state.restarts) == ("running", 1)
    assert "first time" in (state.last_error or "")
    await worker.stop()


async def test_a_job_runs_in_one_worker_at_a_time(process: ProcessFactory) -> None:
    databases, ran = [await process("alpha"), await process("alpha")], [0, 0]

    def job(index: int) -> Job:
        async def work() -> None:
            ran[index] += 1

        return Job("sweep", 0.01, work)

    workers = [Worker(each, bus=PostgresBus(each), jobs=[job(n)]) for n, each in enumerate(databases)]
    for each in workers:
        await each.start()
    await until(lambda: sum(ran) > 5)
    assert 0 in ran
    active = ran.index(0) ^ 1
    await workers[active].stop()
    await until(lambda: ran[active ^ 1] > 0)
    await workers[active ^ 1].stop()


async def test_stopping_finishes_the_batch_in_hand(process: ProcessFactory) -> None:
    database = await process("beta")
    begun, finish = asyncio.Event(), asyncio.Event()

    async def slow(session: Session, events: Sequence[CloudEvent]) -> None:
        begun.set()
        await finish.wait()
        await record(session, events)

    bus = PostgresBus(database)
    worker = Worker(
        database, bus=bus, relay=Relay(database, bus), consumers=[Consumer(database, bus, "beta.test", [TOPIC], slow)]
    )
    await worker.start()
    await publish_all(database, new_id(), new_id(), [1])
    await asyncio.wait_for(begun.wait(), 5)
    stopping = asyncio.create_task(worker.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    finish.set()
    await stopping
    assert await count(database) == 1
    assert await database.pool.fetchval("SELECT sum(position) FROM bus.cursor") == 1
    assert await count(database, "bus.member") == 0


async def test_a_stuck_handler_does_not_hold_up_the_stop(process: ProcessFactory) -> None:
    database, begun = await process("beta"), asyncio.Event()

    async def stuck(session: Session, events: Sequence[CloudEvent]) -> None:
        begun.set()
        await asyncio.Event().wait()

    bus = PostgresBus(database)
    worker = Worker(
        database, bus=bus, relay=Relay(database, bus), consumers=[Consumer(database, bus, "beta.test", [TOPIC], stuck)]
    )
    await worker.start()
    await publish_all(database, new_id(), new_id(), [1])
    await asyncio.wait_for(begun.wait(), 5)
    await asyncio.wait_for(worker.stop(timeout=0.1), 5)
    assert await count(database, "inbox") == 0


async def test_a_redrive_that_was_asked_for_happens(process: ProcessFactory) -> None:
    database, cured = await process("beta"), False

    async def handler(session: Session, events: Sequence[CloudEvent]) -> None:
        if not cured:
            raise ValueError("poison")
        await record(session, events)

    bus = PostgresBus(database)
    worker = Worker(
        database,
        bus=bus,
        relay=Relay(database, bus),
        consumers=[Consumer(database, bus, "beta.test", [TOPIC], handler)],
    )
    await worker.start()
    organization, entity = new_id(), new_id()
    await publish_all(database, organization, entity, [0, 1])

    async def dead() -> bool:
        return (await worker.status()).consumers[0].dead_letters == 2

    await until(dead)
    cured = True
    assert await redrive(database, "beta.test") == 2

    async def done() -> bool:
        return await count(database) == 2

    await until(done, 3.0)  # woken; without the hint it would look in five seconds
    assert await effects(database) == {f"{organization}/{entity}": [0, 1]}
    await worker.stop()


async def test_the_worker_outlives_its_connections(process: ProcessFactory) -> None:
    database, killer = await process("beta"), await process("beta")
    bus = PostgresBus(database)
    worker = Worker(
        database, bus=bus, relay=Relay(database, bus), consumers=[Consumer(database, bus, "beta.test", [TOPIC], record)]
    )
    await worker.start()
    organization, entity = new_id(), new_id()
    for n in range(6):
        await publish_all(killer, organization, entity, [n])
        await killer.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE usename = current_user AND pid <> pg_backend_pid() AND datname = current_database()"
        )

    async def done() -> bool:
        return await count(killer) == 6

    await until(done, 20.0)
    assert await effects(killer) == {f"{organization}/{entity}": list(range(6))}

    async def ready() -> bool:
        return worker.ready

    await until(ready, 20.0)
    await worker.stop()
