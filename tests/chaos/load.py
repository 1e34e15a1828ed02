"""Clients that write through the gateway and keep what they were told, whatever happens behind it.

Each operation carries an id of its own as its ``X-Request-Id``, which every event it causes carries on. A keyed
POST is tried again with its key until it is answered, as a good client does; anything else that gets no clear
answer stays *unknown*: it happened wholly or not at all.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import httpx

from shared.ids import new_id
from tests.chaos.history import Outcome, Write

CLIENTS = 8
TIMEOUT_SECONDS = 12.0
KEYED_SECONDS = 30.0
_HOT = 3
"""Contacts of each organisation that everybody changes all the time: order within a key is shown on them."""
_KNOWN = 400


@dataclass
class Organization:
    """One organisation and what the load knows of its records."""

    id: UUID
    api_key: str
    stages: Sequence[str] = ()
    hot: list[str] = field(default_factory=list)
    contacts: deque[str] = field(default_factory=lambda: deque(maxlen=_KNOWN))
    deals: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=_KNOWN))
    """(id, stage) of deals nobody is changing right now."""

    def key(self, record: str) -> str:
        return f"{self.id}/{record}"


@dataclass(frozen=True)
class Told:
    """What a client was told of one operation."""

    outcome: Outcome
    records: tuple[dict[str, Any], ...] = ()


class Load:
    """``run`` it until ``stop``; ``writes`` holds every operation that is over.

    It hurries and dawdles so that some ``events`` are made in ``seconds``, whatever is down meanwhile.
    """

    def __init__(
        self, base_url: str, seed: int, organizations: Sequence[Organization], *, events: int, seconds: float
    ) -> None:
        self.writes: list[Write] = []
        self.acknowledged: list[tuple[float, int]] = []
        """When writes were acknowledged, and how many events each made."""
        self._organizations = organizations
        self._seed = seed
        self._rate = events / seconds
        self._began = 0.0
        self._numbers = iter(range(10**9))
        self._enough = asyncio.Event()
        limits = httpx.Limits(max_connections=4 * CLIENTS, max_keepalive_connections=4 * CLIENTS)
        self._http = httpx.AsyncClient(base_url=base_url, timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False)

    @property
    def events(self) -> int:
        """How many events were acknowledged so far."""
        return sum(count for _, count in self.acknowledged)

    def acknowledged_between(self, first: float, last: float) -> int:
        """Writes acknowledged in that stretch of ``time.monotonic()``."""
        return sum(first <= at < last for at, _ in self.acknowledged)

    def stop(self) -> None:
        """Begin nothing new."""
        self._enough.set()

    async def close(self) -> None:
        await self._http.aclose()

    async def prepare(self) -> None:
        """Stages, hot contacts and first deals of every organisation; before any fault."""
        for organization in self._organizations:
            headers = {"Authorization": f"Bearer {organization.api_key}"}
            listed = await self._http.get("/v1/pipelines", headers=headers)
            listed.raise_for_status()
            pipeline = next(each for each in listed.json()["data"] if each["is_default"])
            organization.stages = [stage["id"] for stage in pipeline["stages"]]
            await self._create_contacts(organization, Random(0), _HOT)
            organization.hot = [organization.contacts.pop() for _ in range(_HOT)]
            await self._create_deals(organization, Random(0), 10)

    async def run(self) -> None:
        """All clients until ``stop``; what they have begun is finished."""
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(Random(f"{self._seed}/client/{number}")))

    async def _client(self, dice: Random) -> None:
        operations: Sequence[tuple[float, Callable[[Organization, Random], Awaitable[None]]]] = (
            (30, self._change_hot), (12, self._create_contact), (8, self._change_contact), (12, self._move_deal),
            (4, self._delete_and_restore), (6, self._refused), (3, self._api_key),
            (8, lambda o, d: self._create_contacts(o, d, d.randint(10, 120))), (8, self._change_contacts),
            (4, lambda o, d: self._create_deals(o, d, d.randint(5, 40))), (5, self._move_deals),
        )  # fmt: skip
        weights = [weight for weight, _ in operations]
        while not self._enough.is_set():
            _, operation = dice.choices(operations, weights)[0]
            await operation(dice.choice(self._organizations), dice)
            await asyncio.sleep(dice.uniform(0.5, 1.5) * self._pause)

    @property
    def _pause(self) -> float:
        """Between two operations of a client, each of which makes some ten events."""
        behind = self.events < self._rate * (time.monotonic() - self._began)
        return CLIENTS * 10 / self._rate * (0.4 if behind else 1.6)

    # Operations. Each makes one write, whose events are known beforehand.

    async def _change_hot(self, organization: Organization, dice: Random) -> None:
        contact = dice.choice(organization.hot)
        body = {"phone": str(dice.randrange(10**9)), "tags": ["hot", f"t{dice.randrange(10**6)}"]}
        await self._do(organization, "change hot contact", "PATCH", f"/v1/contacts/{contact}", body)

    async def _create_contact(self, organization: Organization, dice: Random) -> None:
        keyed = dice.random() < 0.6
        what = "create contact" + (" with key" if keyed else "")
        told = await self._do(organization, what, "POST", "/v1/contacts", _contact(dice), keyed=keyed)
        organization.contacts += [each["id"] for each in told.records]

    async def _change_contact(self, organization: Organization, dice: Random) -> None:
        if organization.contacts:
            contact = dice.choice(organization.contacts)
            body = {"job_title": f"job {dice.randrange(10**9)}"}
            await self._do(organization, "change contact", "PATCH", f"/v1/contacts/{contact}", body)

    async def _create_contacts(self, organization: Organization, dice: Random, count: int) -> None:
        body = {"items": [_contact(dice) for _ in range(count)]}
        told = await self._do(organization, "create contacts", "POST", "/v1/contacts/bulk", body, count, keyed=True)
        organization.contacts += [each["id"] for each in told.records]

    async def _change_contacts(self, organization: Organization, dice: Random) -> None:
        wanted = min(dice.randint(10, 80), len(organization.contacts))
        chosen = dice.sample(list(organization.contacts), wanted)
        items = [{"id": each, "job_title": f"job {dice.randrange(10**9)}"} for each in chosen]
        if items:
            await self._do(organization, "change contacts", "PATCH", "/v1/contacts/bulk", {"items": items}, len(items))

    async def _create_deals(self, organization: Organization, dice: Random, count: int) -> None:
        body = {"items": [{"name": f"Deal {dice.randrange(10**6)}", "amount_minor": n} for n in range(count)]}
        told = await self._do(organization, "create deals", "POST", "/v1/deals/bulk", body, count, keyed=True)
        organization.deals += [(each["id"], each["stage_id"]) for each in told.records]

    async def _move_deal(self, organization: Organization, dice: Random) -> None:
        for deal, body in self._take_deals(organization, dice, 1):
            told = await self._do(organization, "move deal", "PATCH", f"/v1/deals/{deal}", body)
            organization.deals += [(each["id"], each["stage_id"]) for each in told.records]

    async def _move_deals(self, organization: Organization, dice: Random) -> None:
        items = [{"id": deal, **body} for deal, body in self._take_deals(organization, dice, dice.randint(3, 30))]
        if items:
            told = await self._do(organization, "move deals", "PATCH", "/v1/deals/bulk", {"items": items}, len(items))
            organization.deals += [(each["id"], each["stage_id"]) for each in told.records]

    def _take_deals(self, organization: Organization, dice: Random, count: int) -> list[tuple[str, dict[str, str]]]:
        """Deals that are nobody else's until they are put back; a move is one event only from where they stand."""
        taken = [organization.deals.popleft() for _ in range(min(count, len(organization.deals)))]
        return [
            (deal, {"stage_id": dice.choice([each for each in organization.stages if each != stage])})
            for deal, stage in taken
        ]

    async def _delete_and_restore(self, organization: Organization, dice: Random) -> None:
        if len(organization.contacts) < 10:
            return
        contact = organization.contacts.popleft()
        told = await self._do(organization, "delete contact", "DELETE", f"/v1/contacts/{contact}", None)
        if told.outcome == "acknowledged" and dice.random() < 0.5:
            path = f"/v1/contacts/{contact}/restore"
            told = await self._do(organization, "restore contact", "POST", path, None, keyed=True)
            organization.contacts += [each["id"] for each in told.records]

    async def _refused(self, organization: Organization, dice: Random) -> None:
        """What must not leave a trace: a stale change, a bulk whose last item is wrong."""
        if dice.random() < 0.5 or not organization.contacts:
            path, stale = f"/v1/contacts/{dice.choice(organization.hot)}", {"If-Match": '"0"'}
            body: dict[str, Any] = {"job_title": f"job {dice.randrange(10**9)}"}
            await self._do(organization, "change contact, stale", "PATCH", path, body, headers=stale)
            return
        chosen = [dice.choice(organization.contacts), str(new_id())]
        body = {"items": [{"id": each, "job_title": f"job {dice.randrange(10**9)}"} for each in chosen]}
        await self._do(organization, "change contacts, one unknown", "PATCH", "/v1/contacts/bulk", body, 2)

    async def _api_key(self, organization: Organization, dice: Random) -> None:
        body = {"name": f"Key {dice.randrange(10**6)}", "scopes": ["contacts:read"]}
        await self._do(organization, "create API key", "POST", "/v1/api-keys", body, keyed=True)

    # How an operation is done, and what its client knows afterwards.

    async def _do(
        self, organization: Organization, what: str, method: str, path: str, body: Any, events: int = 1,
        *, keyed: bool = False, headers: Mapping[str, str] | None = None,
    ) -> Told:  # fmt: skip
        write = f"chaos-{self._seed}-{next(self._numbers)}"
        sent = {"Authorization": f"Bearer {organization.api_key}", "X-Request-Id": write, **(headers or {})}
        if keyed:
            sent["Idempotency-Key"] = write
        deadline = time.monotonic() + (KEYED_SECONDS if keyed else 0)
        doubt = False
        while True:
            told = await self._ask(method, path, body, sent)
            if told.outcome != "unknown" or time.monotonic() >= deadline:
                break
            doubt = True
            await asyncio.sleep(0.5)
        if doubt and told.outcome == "failed":
            told = Told("unknown")  # an earlier attempt may be under way still
        if told.outcome == "acknowledged":
            self.acknowledged.append((time.monotonic(), events))
        versions = tuple((organization.key(each["id"]), each["version"]) for each in told.records if _has_row(path))
        self.writes.append(Write(write, organization.id, told.outcome, events, versions, what))
        return told

    async def _ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Told:
        try:
            answer = await self._http.request(method, path, json=body, headers=headers)
        except httpx.TransportError:
            return Told("unknown")
        if answer.is_success:
            if not answer.content:
                return Told("acknowledged")
            said = answer.json()
            return Told("acknowledged", tuple(said.get("data", [said])))
        in_progress = answer.status_code == 409 and answer.json()["code"] == "idempotency_in_progress"
        # The gateway asks again where that is safe: who is told that nothing is there may have deleted it himself.
        gone = answer.status_code == 404 and method == "DELETE"
        return Told("unknown" if answer.status_code >= 500 or in_progress or gone else "failed")


def _has_row(path: str) -> bool:
    """Whether the path is of records whose rows are compared."""
    return path.startswith(("/v1/contacts", "/v1/deals"))


def _contact(dice: Random) -> dict[str, Any]:
    number = dice.randrange(10**9)
    return {"first_name": f"Contact {number}", "email": f"contact{number}@example.com", "tags": ["chaos"]}
