"""One process of ``make bench-limiter``: ``ours`` or ``peer``, told what to do on standard input, a line of JSON each.

Both run the same tasks in the same loop: draw a key, ask whether it may, note the answer and how long it took. Where
nothing was awaited, a task lets the others go on after a few calls (what the peer awaits does that anyway).
"""

import asyncio
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from operator import attrgetter
from random import Random
from time import perf_counter_ns
from typing import Any
from uuid import UUID

import uvloop
from limits import parse
from limits.aio.strategies import FixedWindowRateLimiter
from limits.storage import storage_from_string

from shared import logs
from shared.db import Database, database
from shared.ids import NIL
from shared.limits.client import Limits
from shared.limits.decision import Decision
from shared.limits.policies import Caller, Operation
from shared.settings import Settings
from tests.bench.limiter_load import FINE, FINE_SHIFT, Histogram, draws, hot_keys

OPERATION = Operation("GET", "/v1/contacts")
_DRAWN = 1 << 18
_BURST = 8
"""Calls that a task makes before it lets the next one go on: as requests that have arrived together do."""
_QUICK = 20_000
"""Nanoseconds within which no database answers."""


def key_id(key: int) -> str:
    """The id of an API key."""
    return str(UUID(int=NIL.int + key + 1))


class Contender(ABC):
    """Who is asked: ``ask`` is called with the ``arguments`` of a key, and the others read its answer."""

    ask: Callable[..., Awaitable[Any]]
    arguments: list[tuple[Any, ...]]
    allowed: Callable[[Any], bool]
    is_at_once: bool
    """Whether an answer may come without letting other tasks go on."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.calls: list[tuple[int, int]] = []
        """When calls for leases were answered, and how long that took, in nanoseconds."""
        self.fallbacks = 0
        """How many decisions were made without the database for want of its answer."""

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def stop(self) -> None: ...

    @abstractmethod
    def renew(self) -> None:
        """The keys have called once, and call again."""

    @staticmethod
    @abstractmethod
    def used_up(answer: Any) -> bool:
        """Whether it was refused because the quota is known to be used up."""

    @staticmethod
    @abstractmethod
    def asked(answer: Any) -> bool:
        """Whether somebody outside the process was asked."""


class Ours(Contender):
    """The lease client of a gateway process."""

    allowed = attrgetter("allowed")
    is_at_once = True

    async def start(self) -> None:
        """Connect as the gateway does, with a look at each statement that is sent."""
        settings = Settings()
        logs.configure(settings)
        prepare = database._prepare

        async def prepare_and_watch(connection: Any) -> None:
            await prepare(connection)
            connection.add_query_logger(self._sent)

        database._prepare = prepare_and_watch
        self._database = Database.for_service(settings, "gateway")
        await self._database.open()
        self._limits = Limits(self._database, schema="ratelimit", default_plan=settings.default_plan)
        await self._limits.start()
        self.ask = self._limits.check
        self._organization = UUID(self.options["organization"])
        self._key_ids = [key_id(key) for key in range(self.options["keys"])]
        self.renew()

    def renew(self) -> None:
        """Each request makes a caller of its own, from the credential that is kept."""
        self.arguments = [(Caller(self._organization, key), OPERATION) for key in self._key_ids]

    def _sent(self, record: Any) -> None:
        if "check_rate_limit" in record.query:
            self.calls.append((perf_counter_ns(), int(record.elapsed * 1e9)))

    async def stop(self) -> None:
        """Settle all leases."""
        self.fallbacks = self._limits.fallbacks
        await self._limits.stop()
        await self._database.close()

    @staticmethod
    def used_up(answer: Decision) -> bool:
        """Whether the database said so, now or before."""
        return not answer.unavailable

    @staticmethod
    def asked(answer: Decision) -> bool:
        """Whether one of the policies waited for the database."""
        return any(verdict.source in {"database", "fallback"} for verdict in answer.verdicts)


class Peer(Contender):
    """The library ``limits`` as its documentation has it: a fixed window on async Redis, one command a decision.

    The fastest of its clients (redis-py, with hiredis), over the fastest way to reach Redis (a Unix socket).
    """

    allowed = bool
    is_at_once = False

    async def start(self) -> None:
        """Connect."""
        options = self.options
        self._storage: Any = storage_from_string(
            f"async+redis+unix://{options['socket']}", implementation="redispy", key_prefix=options["organization"]
        )
        self.ask = FixedWindowRateLimiter(self._storage).hit
        item = parse(f"{options['quota']}/{options['window']}")
        self.arguments = [(item, key_id(key)) for key in range(options["keys"])]

    def renew(self) -> None:
        """It remembers nobody."""

    async def stop(self) -> None:
        """Disconnect."""
        await self._storage.bridge.get_connection().aclose()

    @staticmethod
    def used_up(answer: bool) -> bool:
        """The only reason."""
        return not answer

    @staticmethod
    def asked(answer: bool) -> bool:
        """Every time."""
        return True


class Worker:
    """Asks on behalf of keys. Whatever is counted by key is counted from the first call to the last."""

    def __init__(self, contender: Contender, options: dict[str, Any]) -> None:
        self._contender = contender
        self._options = options
        self._keys: int = options["keys"]
        self._hot = hot_keys(self._keys)
        self._admitted = [0] * self._keys
        self._refused = [0] * self._keys
        self._drawn = draws(self._keys, options["skew"], _DRAWN, options["seed"])
        self._asking: object = None

    async def touch(self) -> dict[str, Any]:
        """Ask once for every key."""
        keys = list(range(self._keys))
        Random(self._options["seed"]).shuffle(keys)
        await self._all(iter(keys), sys.maxsize)
        self._contender.renew()
        return {}

    async def run(self, start: int, end: int) -> dict[str, Any]:
        """Ask as the spread has it: until ``start`` to get warm, from then until ``end`` to be measured."""
        keys = cycle(self._drawn)
        await self._all(keys, start)
        refused = sum(self._refused)
        span = await self._all(keys, end)
        return {
            "hot_times": [span.hot.fine, span.hot.coarse],
            "other_times": [span.others.fine, span.others.coarse],
            "hot_waited": span.hot_waited,
            "refused": sum(self._refused) - refused,
            "calls": [taken for moment, taken in self._contender.calls if start <= moment < end],
            "refused_keys": [key for key, count in enumerate(self._refused) if count],
        }

    async def close(self, keys: list[int], end: int) -> dict[str, Any]:
        """Ask until ``end`` for keys that were refused somewhere, so that what is held of them is spent."""
        if keys:
            await self._all(cycle(keys), end)
        return {}

    async def stop(self) -> dict[str, Any]:
        """Settle, and say what was counted."""
        await self._contender.stop()
        return {"admitted": self._admitted, "refused": self._refused, "fallbacks": self._contender.fallbacks}

    async def _all(self, keys: Iterator[int], end: int) -> "Span":
        span = Span()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._options["tasks"]):
                group.create_task(self._ask(keys, end, span))
        return span

    async def _ask(self, keys: Iterator[int], end: int, span: "Span") -> None:
        """One task. What is done about a call is as little as possible: it is counted as if the limiter took it."""
        contender, me, hot = self._contender, object(), self._hot
        ask, arguments, allowed, admitted = contender.ask, contender.arguments, contender.allowed, self._admitted
        for turn, key in zip(cycle(range(_BURST)), keys, strict=False):
            self._asking = me
            begun = perf_counter_ns()
            answer = await ask(*arguments[key])
            done = perf_counter_ns()
            if allowed(answer):
                admitted[key] += 1
            elif contender.used_up(answer):
                self._refused[key] += 1
            if done >= end:
                return
            spent, times = done - begun, span.hot if key < hot else span.others
            if spent < FINE:
                times.fine[spent >> FINE_SHIFT] += 1
            else:
                times.add(spent)
            # Where another task asked meanwhile, this one was not answered at once.
            if key < hot and (self._asking is not me or (spent > _QUICK and contender.asked(answer))):
                span.hot_waited += 1
            if not turn and contender.is_at_once:
                await asyncio.sleep(0)


class Span:
    """What is measured of calls: their times, and how many for hot keys waited for somebody outside the process."""

    def __init__(self) -> None:
        self.hot = Histogram()
        self.others = Histogram()
        self.hot_waited = 0


async def _serve(role: str, options: dict[str, Any]) -> None:
    contender = {"ours": Ours, "peer": Peer}[role](options)
    await contender.start()
    worker = Worker(contender, options)
    commands: dict[str, Callable[..., Awaitable[Any]]]
    commands = {"touch": worker.touch, "run": worker.run, "close": worker.close, "stop": worker.stop}
    _say({})
    while line := await asyncio.to_thread(sys.stdin.readline):
        command: dict[str, Any] = json.loads(line)
        _say(await commands[command.pop("do")](**command))


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], json.loads(sys.argv[2])))
