"""Which member of a group has which partitions: the seats of the members, except while a mover is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from shared.events.partition import PARTITIONS

_MOVER = b"mover"


class Assignor:
    """Partition p of a topic belongs to member p modulo their number, in the order of their ids.

    A mover (see ``shared.events.kafka.mover``) gets all partitions of its topics, so that nobody else
    reads or commits while it moves the group.
    """

    name = "guardian"

    def __init__(self, *, mover: bool = False, assigned: Callable[[], None] = lambda: None) -> None:
        self._mover = mover
        self._assigned = assigned

    def metadata(self, topics: Iterable[str]) -> Any:
        """What this member tells the one that assigns."""
        return ConsumerProtocolMemberMetadata(0, sorted(topics), _MOVER if self._mover else b"")

    def assign(self, _cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """Give every partition to one member."""
        seats: dict[str, list[str]] = {}
        movers: dict[str, list[str]] = {}
        for member in sorted(members):
            for topic in members[member].subscription:
                (movers if members[member].user_data == _MOVER else seats).setdefault(topic, []).append(member)
        shares: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in sorted({*seats, *movers}):
            owners = movers[topic][:1] if topic in movers else seats[topic]
            for seat, owner in enumerate(owners[:PARTITIONS]):
                shares[owner].append((topic, list(range(seat, PARTITIONS, min(len(owners), PARTITIONS)))))
        return {member: ConsumerProtocolMemberAssignment(0, share, b"") for member, share in shares.items()}

    def on_assignment(self, _assignment: Any) -> None:
        """Called by aiokafka when a new generation begins for this member."""
        self._assigned()
