"""A broker that is killed and comes back, and a member that sleeps through its session."""

import asyncio
import contextlib
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from deploy.kafka import Broker
from shared.events import CloudEvent, Fenced, Subscription
from shared.events.bus import BusAway
from shared.events.kafka import KafkaBus
from shared.ids import new_id
from shared.settings import Settings
from tests.shared.events.harness import take
from tests.shared.events.support import TOPIC, make_event, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
ROOT = Path(__file__).parents[3]
OUTAGE_SECONDS = 2.0
MEMBER = """
import asyncio, sys
from shared.events import Fenced
from shared.events.kafka import KafkaBus
from shared.settings import Settings

async def main():
    bus = KafkaBus(Settings(environment="test", kafka_bootstrap_servers=sys.argv[1], kafka_prefix=sys.argv[2]), "beta")
    await bus.start()
    member = await bus.subscribe("beta.a", ["guardian.beta.events"])
    print("joined", flush=True)
    held = []
    while len(held) < 10:
        held = await member.fetch(100, 1.0)
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    try:
        await member.commit(held)
        print("committed", flush=True)
    except Fenced:
        print("fenced", flush=True)
    came = 0
    while came < 5:
        batch = await member.fetch(100, 1.0)
        try:
            await member.commit(batch)
            came += len(batch)
        except Fenced:
            pass
    print("came", came, flush=True)
    await bus.stop()

asyncio.run(main())
"""


@pytest.fixture
def broker(kafka_servers: str, tmp_path: Path) -> Iterator[Broker]:
    """One of this test's own, to be killed; ``kafka_servers`` shows that one can be had."""
    made = Broker(tmp_path / "kafka")
    made.start()
    yield made
    made.kill()


def bus_on(servers: str, prefix: str = "guardian", beat_seconds: float = 0.3) -> KafkaBus:
    settings = Settings(environment="test", kafka_bootstrap_servers=servers, kafka_prefix=prefix)
    return KafkaBus(settings, "beta", beat_seconds=beat_seconds)


class Log:
    """What members were handed, in the order of first appearance, and what was sent."""

    def __init__(self) -> None:
        self.keys = [(new_id(), new_id()) for _ in range(40)]
        self.sent = 0
        self.seen: dict[str, list[int]] = {f"{o}/{e}": [] for o, e in self.keys}
        self.known: set[UUID] = set()
        self.stopping = False

    def next(self) -> list[CloudEvent]:
        self.sent += 1
        return [make_event(self.sent - 1, organization=o, entity=e) for o, e in self.keys]

    async def send(self, bus: KafkaBus) -> None:
        """As a relay does: the same batch again until it is appended."""
        while not self.stopping:
            batch = [event for _ in range(5) for event in self.next()]
            while True:
                with contextlib.suppress(BusAway):
                    await bus.append(TOPIC, batch)
                    break
                await asyncio.sleep(0.1)

    async def receive(self, member: Subscription) -> None:
        while not self.complete:
            batch = await member.fetch(500, 0.2)
            for each in batch:
                assert each.event is not None
                if each.event.id not in self.known:
                    self.known.add(each.event.id)
                    self.seen[each.key].append(each.event.sequence)
            with contextlib.suppress(Fenced, BusAway):
                await member.commit(batch)

    @property
    def complete(self) -> bool:
        return self.stopping and all(len(found) == self.sent for found in self.seen.values())


async def test_a_killed_broker_loses_nothing_and_turns_nothing_round(broker: Broker) -> None:
    sending, one, two = (bus_on(broker.bootstrap_servers) for _ in range(3))
    for bus in (sending, one, two):
        await bus.start()
    log = Log()
    members = [await bus.subscribe("beta.a", [TOPIC]) for bus in (one, two)]
    sender = asyncio.create_task(log.send(sending))
    receivers = [asyncio.create_task(log.receive(member)) for member in members]
    await until(lambda: len(log.known) > 2000, 30)
    broker.kill()
    began = time.monotonic()
    with pytest.raises(BusAway, match="cannot be reached"):
        await two.lag("beta.a")
    assert time.monotonic() - began < 5
    with pytest.raises(BusAway):
        await one.check([TOPIC])
    await asyncio.sleep(OUTAGE_SECONDS)
    given_up = members[0]._consumer
    members[0]._known_at = float("-inf")  # as after a minute: this one throws its connections away, the other waits
    await until(lambda: members[0]._consumer is not given_up)
    await asyncio.to_thread(broker.start)
    await one.check([TOPIC])
    before = len(log.known)
    await until(lambda: len(log.known) > before + 2000, 30)
    log.stopping = True
    await asyncio.wait_for(asyncio.gather(sender, *receivers), 60)
    assert log.seen == {f"{o}/{e}": list(range(log.sent)) for o, e in log.keys}
    for bus in (sending, one, two):
        await bus.stop()


async def said(process: Process, line: str, seconds: float = 30) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(seconds):
        assert (await process.stdout.readline()).decode().strip() == line


async def test_a_member_that_sleeps_through_its_session_is_fenced_and_comes_back(
    kafka_servers: str, kafka_prefix: str
) -> None:
    bus = bus_on(kafka_servers, kafka_prefix)
    await bus.start()
    arguments = (sys.executable, "-c", MEMBER, kafka_servers, kafka_prefix)
    sleeper = await asyncio.create_subprocess_exec(*arguments, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    try:
        assert sleeper.stdin is not None
        await said(sleeper, "joined")
        await bus.append(TOPIC, [make_event(n) for n in range(10)])
        await said(sleeper, "held")
        sleeper.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        heir = await bus.subscribe("beta.a", [TOPIC])
        assert len(await take(heir, 10, seconds=12)) == 10
        assert time.monotonic() - began < bus.features.takeover_seconds + 1
        sleeper.send_signal(signal.SIGCONT)
        sleeper.stdin.write(b"\n")
        await said(sleeper, "fenced")
        await heir.close()
        await bus.append(TOPIC, [make_event(n) for n in range(5)])
        await said(sleeper, "came 5")
        assert await asyncio.wait_for(sleeper.wait(), 10) == 0
        assert await bus.lag("beta.a") == {}
    finally:
        with contextlib.suppress(ProcessLookupError):
            sleeper.kill()
        await bus.stop()
