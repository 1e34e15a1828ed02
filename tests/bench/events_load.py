"""What the event bench drains: contact events of 200 organisations with a Zipf spread."""

import random
from collections.abc import Iterator
from uuid import UUID

from services.crm.events import ContactCreated, ContactUpdated
from shared import clock
from shared.events import Event
from shared.events.envelope import CloudEvent
from shared.events.registry import declaration_of
from shared.ids import new_id

ORGANIZATIONS = 200
_UPDATES = 1 / 3
_FIRST = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Katherine", "Tony")
_LAST = ("Lovelace", "Hopper", "Turing", "Dijkstra", "Liskov", "Knuth", "Johnson", "Hoare")
_TITLES = ("Head of procurement", "Chief engineer", "Account manager", "Founder", "Controller")


class Organizations:
    """200 organisations; each keeps getting new contacts, and changes of those it has."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self._ids = [new_id() for _ in range(ORGANIZATIONS)]
        self._weights = [1 / rank for rank in range(1, ORGANIZATIONS + 1)]
        self._contacts: dict[UUID, list[tuple[UUID, int]]] = {each: [] for each in self._ids}

    def events(self, count: int) -> Iterator[CloudEvent]:
        """``count`` events as the CRM would publish them, about 430 bytes of payload each."""
        for organization in self._random.choices(self._ids, self._weights, k=count):
            contacts = self._contacts[organization]
            if contacts and self._random.random() < _UPDATES:
                at = self._random.randrange(len(contacts))
                contact, version = contacts[at][0], contacts[at][1] + 1
                contacts[at] = contact, version
                yield self._event(organization, contact, version, self._change())
            else:
                contact = new_id()
                contacts.append((contact, 1))
                yield self._event(organization, contact, 1, self._contact(contact))

    def _event(self, organization: UUID, contact: UUID, version: int, payload: Event) -> CloudEvent:
        declaration = declaration_of(type(payload))
        trace = f"{self._random.getrandbits(128):032x}-{self._random.getrandbits(64):016x}"
        return CloudEvent(
            id=new_id(), source="/guardian/crm", type=declaration.type, subject=contact, time=clock.now(),
            dataschema=declaration.dataschema, organization_id=organization,
            partitionkey=f"{organization}/{contact}", sequence=version, data=payload.model_dump(mode="json"),
            traceparent=f"00-{trace}-00", correlationid=str(new_id()), authtype="api_key", authid=str(organization),
        )  # fmt: skip

    def _contact(self, contact: UUID) -> ContactCreated:
        first, last, number = self._random.choice(_FIRST), self._random.choice(_LAST), self._random.randrange(10**6)
        now = clock.now()
        snapshot = {
            "id": contact, "owner_id": new_id(), "tags": ["import", "newsletter"],
            "custom_fields": {"segment": "enterprise", "employees": number % 5000}, "version": 1,
            "created_at": now, "updated_at": now, "first_name": first, "last_name": last,
            "email": f"{first}.{last}.{number}@example.com".lower(), "phone": f"+44 20 {number:08d}",
            "job_title": self._random.choice(_TITLES), "company_id": new_id(),
        }  # fmt: skip
        return ContactCreated.model_validate({"contact": snapshot})

    def _change(self) -> ContactUpdated:
        number = self._random.randrange(10**6)
        return ContactUpdated.model_validate({"changes": {
            "phone": {"before": f"+44 20 {number:08d}", "after": f"+44 161 {number:07d}"},
            "job_title": {"before": self._random.choice(_TITLES), "after": self._random.choice(_TITLES)},
            "tags": {"before": ["import", "newsletter"], "after": ["import", "customer", "vip"]},
            "owner_id": {"before": str(new_id()), "after": str(new_id())},
        }})  # fmt: skip
