"""The clients of a gateway run: what they want, and how long they go on asking for it."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Coroutine
from random import Random

from tests.bench.gateway_load import Caller
from tests.chaos.gateway_checker import is_final
from tests.chaos.gateway_client import Client, plain, signed
from tests.chaos.gateway_history import Attempt, Operation, Purpose

KEYED, ONCE, READERS = 6, 4, 3
CONTACTS = "/v1/contacts"
LONG, _TAGS = 100, 50
"""Contacts with so many tags each, which make an answer that comes in many pieces."""
LONG_LIST = f"{CONTACTS}?limit=40&sort=name"
_PAUSE_SECONDS = (0.04, 0.16)
_RECENT = 10
"""So many signatures are sent again after each restart."""
_REPLAY_SECONDS = 8.0
_LAST_SECONDS = 25.0
_LONG_BYTES = 40_000
"""More than is gathered before it is forwarded: content that streams."""


def contact(name: str, filling: int = 0, first: str = "Chaos") -> bytes:
    """A contact to be made; its last name is how it is found again."""
    made = json.dumps({"first_name": first, "last_name": name}).encode()
    return made + b" " * filling  # JSON may end in as much space as it likes


async def fill(port: int, caller: Caller) -> None:
    """Make the contacts of long answers, first by name."""
    client, tags = Client(port), [f"{number:x<40}" for number in range(_TAGS)]
    for number in range(LONG):
        made = json.dumps({"last_name": f"Aa{number:04}", "tags": tags}).encode()
        attempt = await client.ask(plain("POST", CONTACTS, caller, made))
        deadline = attempt.ended + _LAST_SECONDS
        while not attempt.acknowledged:  # a gateway that has just begun may not know its limits yet
            if attempt.ended > deadline:
                raise RuntimeError(f"a contact of a long answer was refused: {attempt.status} {attempt.code}")
            await asyncio.sleep(_PAUSE_SECONDS[1])
            attempt = await client.ask(plain("POST", CONTACTS, caller, made))
    client.close()


class Load:
    """Clients that ask until ``stop``; then they bring what they began to its end. Ports are those of the gateways."""

    def __init__(self, seed: int, caller: Caller, ports: list[int]) -> None:
        self.operations: list[Operation] = []
        self.unanswered: list[str] = []
        """Keyed operations that got no answer although the faults were over."""
        self._seed = seed
        self._caller = caller
        self._ports = ports
        self._recent: deque[tuple[Operation, bytes]] = deque(maxlen=_RECENT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._beside: set[asyncio.Task[None]] = set()
        self._over_at = float("inf")

    def start(self) -> None:
        """Begin."""
        for number in range(KEYED):
            self._begin(self._keyed(Random(f"keyed/{self._seed}/{number}")))
        for number in range(ONCE):
            self._begin(self._once(Random(f"once/{self._seed}/{number}")))
        for number in range(READERS):
            self._begin(self._read(Random(f"read/{self._seed}/{number}")))
        self._begin(self._changed(Random(f"changed/{self._seed}")))

    def replay(self) -> None:
        """Send the latest signatures again, to every gateway, until each has been told."""
        for operation, request in list(self._recent):
            for gateway in range(len(self._ports)):
                task = asyncio.create_task(self._again(operation, request, gateway))
                self._beside.add(task)
                task.add_done_callback(self._beside.discard)

    async def stop(self) -> None:
        """Ask for nothing new, and wait for what was begun; raises what a client broke on."""
        self._over_at = time.monotonic()
        await asyncio.gather(*self._tasks)
        await asyncio.gather(*self._beside)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self._over_at

    def _operation(self, purpose: Purpose) -> Operation:
        made = Operation(f"chaos-{self._seed}-{purpose}-{len(self.operations)}", purpose, time.time())
        self.operations.append(made)
        return made

    def _clients(self) -> list[Client]:
        return [Client(port, number) for number, port in enumerate(self._ports)]

    async def _keyed(self, dice: Random) -> None:
        clients = self._clients()
        while self._goes_on:
            operation = self._operation("keyed")
            filling = _LONG_BYTES if dice.random() < 0.1 else 0
            content = contact(operation.name, filling)
            request = signed("POST", CONTACTS, self._caller, content, key=operation.name)
            if dice.random() < 0.15:  # a client that is in a hurry asks everybody at once
                operation.attempts += await asyncio.gather(*(client.ask(request) for client in clients))
            told = await self._until_told(dice, clients, operation, request)
            if not told:
                self.unanswered.append(operation.name)
            elif dice.random() < 0.5:  # the answer came, and was lost behind the last wire
                operation.attempts.append(await dice.choice(clients).ask(request))
            await _pause(dice)

    async def _until_told(self, dice: Random, clients: list[Client], operation: Operation, request: bytes) -> bool:
        while not any(each.acknowledged or _gives_up(each) for each in operation.attempts):
            if time.monotonic() > self._over_at + _LAST_SECONDS:
                return False
            operation.attempts.append(attempt := await dice.choice(clients).ask(request))
            if not attempt.acknowledged:
                await _pause(dice)
        return True

    async def _once(self, dice: Random) -> None:
        clients = self._clients()
        while self._goes_on:
            operation = self._operation("once")
            request = signed("POST", CONTACTS, self._caller, contact(operation.name))
            operation.attempts.append(await dice.choice(clients).ask(request))
            self._recent.append((operation, request))
            if dice.random() < 0.5:
                for client in clients:
                    operation.attempts.append(await client.ask(request, replay=True))
            await _pause(dice)

    async def _again(self, operation: Operation, request: bytes, gateway: int) -> None:
        client, deadline = Client(self._ports[gateway], gateway), time.monotonic() + _REPLAY_SECONDS
        try:
            while time.monotonic() < deadline:
                operation.attempts.append(attempt := await client.ask(request, replay=True))
                if attempt.acknowledged or _gives_up(attempt):
                    return
                await asyncio.sleep(_PAUSE_SECONDS[1])
        finally:
            client.close()

    async def _read(self, dice: Random) -> None:
        clients = self._clients()
        while self._goes_on:
            operation = self._operation("read")
            target = LONG_LIST if dice.random() < 0.7 else f"{CONTACTS}?limit=3"
            operation.attempts.append(await dice.choice(clients).ask(signed("GET", target, self._caller)))
            await _pause(dice)

    async def _changed(self, dice: Random) -> None:
        clients = self._clients()
        while self._goes_on:
            operation = self._operation("changed")
            filling = dice.choice((0, _LONG_BYTES))
            content, other = contact(operation.name, filling), contact(operation.name, filling, first="Evil!")
            key = operation.name if dice.random() < 0.5 else ""
            request = signed("POST", CONTACTS, self._caller, content, sent=other, key=key)
            operation.attempts.append(await dice.choice(clients).ask(request))
            await _pause(dice)


def _gives_up(attempt: Attempt) -> bool:
    return attempt.outcome == "answer" and is_final(attempt.status)


async def _pause(dice: Random) -> None:
    await asyncio.sleep(dice.uniform(*_PAUSE_SECONDS))
