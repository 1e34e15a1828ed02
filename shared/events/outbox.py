"""Publishing: an event becomes a row of the service's outbox in the transaction that made it true.

There is no other way to publish. Events are buffered on the session and inserted by one statement just
before the commit; the relay hears of them after it.
"""

from uuid import UUID

from shared import clock
from shared.auth import Principal
from shared.db import Session
from shared.events import metrics
from shared.events.envelope import MAX_EVENT_BYTES, CloudEvent
from shared.events.partition import partition_of
from shared.events.registry import Event, declaration_of
from shared.events.tracing import innermost
from shared.events.wakeups import wake
from shared.ids import NIL, new_id
from shared.logs import current_traceparent

_BUFFER = "events.outbox"
_AUTHTYPES = {
    "user": "app_user",
    "api_key": "api_key",
    "service": "service_account",
    "system": "system",
    "anonymous": "unauthenticated",
}
_INSERT = """
INSERT INTO outbox (id, organization_id, type, key, partition, envelope)
SELECT id, organization_id, type, key, partition, envelope::json
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int[], $6::text[])
  WITH ORDINALITY AS e (id, organization_id, type, key, partition, envelope, nth)
ORDER BY nth
"""


def outbox_signal(service: str) -> str:
    """The name of the hint that a service's outbox has events."""
    return f"outbox:{service}"


def publish(
    session: Session,
    payload: Event,
    *,
    subject: UUID,
    sequence: int,
    principal: Principal,
    organization_id: UUID | None = None,
    cause: CloudEvent | None = None,
    dataregion: str | None = None,
) -> CloudEvent:
    """Publish a fact with the session's transaction.

    ``subject`` is the entity, ``sequence`` its version, read or written while its row is locked.
    ``organization_id`` is needed only where the session has none (sign-up). ``cause`` is the event a
    handler reacts to: correlation, causation and trace go on from it. Raises ``ValueError`` when no
    organisation is known or the event is larger than ``MAX_EVENT_BYTES``.
    """
    organization = organization_id or session.organization_id or principal.organization_id
    event = _event(session, payload, subject, sequence, principal, organization, cause, dataregion)
    envelope = event.to_json()
    if len(envelope) > MAX_EVENT_BYTES:
        raise ValueError(f"{event.type} has {len(envelope)} bytes, more than {MAX_EVENT_BYTES}")
    buffer: list[tuple[CloudEvent, str]] | None = session.state.get(_BUFFER)
    if buffer is None:
        buffer = session.state[_BUFFER] = []
        session.before_commit(_flush)
    buffer.append((event, envelope.decode()))
    return event


def _event(
    session: Session,
    payload: Event,
    subject: UUID,
    sequence: int,
    principal: Principal,
    organization: UUID,
    cause: CloudEvent | None,
    dataregion: str | None,
) -> CloudEvent:
    declaration = declaration_of(type(payload))
    if organization == NIL:
        raise ValueError(f"{declaration.type} has no organisation")
    traceparent = (cause.traceparent if cause else None) or current_traceparent() or principal.traceparent
    return CloudEvent(
        id=new_id(),
        source=f"/guardian/{session.service}",
        type=declaration.type,
        subject=subject,
        time=clock.now(),
        dataschema=declaration.dataschema,
        organization_id=organization,
        partitionkey=f"{organization}/{subject}",
        sequence=sequence,
        data=payload.model_dump(mode="json"),
        traceparent=innermost(traceparent),
        tracestate=cause.tracestate if cause else None,
        correlationid=(cause.correlationid if cause else principal.request_id) or None,
        causationid=str(cause.id) if cause else None,
        authtype=_AUTHTYPES[principal.actor_type],
        authid=principal.actor_id,
        dataregion=dataregion,
    )


async def _flush(session: Session) -> None:
    buffer: list[tuple[CloudEvent, str]] = session.state.pop(_BUFFER)
    events = [event for event, _ in buffer]
    await session.connection.execute(
        _INSERT,
        [event.id for event in events],
        [event.organization_id for event in events],
        [event.type for event in events],
        [event.partitionkey for event in events],
        [partition_of(event.partitionkey) for event in events],
        [envelope for _, envelope in buffer],
    )
    session.after_commit(lambda: _committed(session.service, len(events)))


def _committed(service: str, count: int) -> None:
    metrics.PUBLISHED.labels(service).inc(count)
    wake(outbox_signal(service))
