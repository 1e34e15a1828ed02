from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import orjson
import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as Oracle
from hypothesis import given
from hypothesis import strategies as st

from shared.events import MAX_EVENT_BYTES, CloudEvent, InvalidEvent
from shared.events.envelope import Sealed
from tests.shared.events.support import TRACEPARENT, make_event

FULL = make_event(
    7, traceparent=TRACEPARENT, tracestate="a=b", correlationid="req-1", causationid="cause", authtype="app_user",
    authid="someone", dataregion="eu", data={"name": "Zoë", "n": 1, "nested": {"list": [1, None, True]}},
)  # fmt: skip

text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
events = st.builds(
    make_event,
    st.integers(0, 2**62),
    id=st.uuids(),
    organization=st.uuids(),
    entity=st.uuids(),
    time=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    correlationid=st.none() | text,
    authid=st.none() | text,
    data=st.dictionaries(text, json_values, max_size=4),
)


def attributes(event: BaseCloudEvent) -> dict[str, Any]:
    return {name: value for name, value in event.get_attributes().items() if value is not None}


@given(events)
def test_structured_and_binary_forms_come_back_as_they_went(event: CloudEvent) -> None:
    assert CloudEvent.from_json(event.to_json()) == event
    assert CloudEvent.from_binary(*event.to_binary()) == event
    headers, body = event.to_binary("ce-")
    assert CloudEvent.from_binary(headers, body, "ce-") == event
    sealed = Sealed(event.partitionkey, 0, event.to_json().decode())
    assert (set(sealed.to_binary()[0]), sealed.to_binary()[1]) == (set(event.to_binary()[0]), event.to_binary()[1])


def test_the_reference_library_reads_our_structured_form() -> None:
    message = http.HTTPMessage({"content-type": "application/cloudevents+json"}, FULL.to_json())
    theirs = http.from_structured(message, JSONFormat(), Oracle)
    assert theirs.get_data() == FULL.data
    assert theirs.get_time() == FULL.time
    expected = {**FULL.attributes(), "time": FULL.time}
    assert attributes(theirs) == expected


def test_the_reference_library_reads_our_kafka_message() -> None:
    headers, body = FULL.to_binary()
    theirs = kafka.from_binary(kafka.KafkaMessage(dict(headers), FULL.partitionkey, body), JSONFormat(), Oracle)
    assert theirs.get_data() == FULL.data
    assert attributes(theirs) == {**FULL.attributes(), "time": FULL.time}


def test_we_read_what_the_reference_library_writes() -> None:
    values = {**FULL.attributes(), "time": FULL.time}
    theirs = Oracle(values, FULL.data)
    assert CloudEvent.from_json(http.to_structured(theirs, JSONFormat()).body) == FULL
    message = kafka.to_binary(theirs, JSONFormat())
    assert message.key == FULL.partitionkey
    assert CloudEvent.from_binary(message.headers.items(), message.value) == FULL


def test_sequence_sorts_as_text() -> None:
    assert make_event(9).attributes()["sequence"] < make_event(10).attributes()["sequence"]


def test_time_is_written_in_utc() -> None:
    event = make_event(time=datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))))
    assert event.attributes()["time"] == "2025-12-31T23:00:00Z"


def broken(**changes: Any) -> bytes:
    values = orjson.loads(FULL.to_json()) | changes
    return orjson.dumps({name: value for name, value in values.items() if value is not ...})


def nested(levels: int) -> bytes:
    return b'{"x":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize(
    "body,said",
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff", "not JSON"),
        (broken(specversion="0.3"), "specversion"),
        (broken(data=[1]), "data is not"),
        (broken(id=7), "id is not a string"),
        (broken(id="7"), "malformed"),
        (broken(tenantid="x"), "malformed"),
        (broken(subject="x"), "malformed"),
        (broken(sequence="first"), "malformed"),
        (broken(time="yesterday"), "malformed"),
        (broken(time="2026-01-01T00:00:00"), "no offset"),
        (broken(time="0001-01-01T00:00:00+14:00"), "malformed"),
        (broken(time="9999-12-31T23:59:59-14:00"), "malformed"),
        (broken(partitionkey=f"{FULL.subject}/{FULL.subject}"), "partitionkey is not"),
        (broken(tenantid=str(FULL.subject)), "partitionkey is not"),
        (broken(tenantid="-" * 1000 + FULL.organization_id.hex), "malformed"),
        (FULL.to_json()[:-1] + b',"data":' + nested(400) + b"}", "not JSON"),
        (broken(dataschema="https://example.org/schema"), "malformed"),
        (broken(traceparent=1), "traceparent is not a string"),
        (b" " * (MAX_EVENT_BYTES + 1), "bytes, more than"),
    ],
)
def test_what_is_no_event_of_ours_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(InvalidEvent, match=said):
        CloudEvent.from_json(body)


@pytest.mark.parametrize(
    "name", ["id", "source", "type", "subject", "time", "dataschema", "tenantid", "partitionkey", "sequence"]
)
def test_every_attribute_we_need_is_required(name: str) -> None:
    values = orjson.loads(FULL.to_json())
    del values[name]
    with pytest.raises(InvalidEvent, match=f"{name} is missing"):
        CloudEvent.from_json(orjson.dumps(values))


def test_a_binary_message_without_sense_is_refused() -> None:
    headers, body = FULL.to_binary()
    with pytest.raises(InvalidEvent, match="binary mode"):
        CloudEvent.from_binary(headers, b"{")
    with pytest.raises(InvalidEvent, match="binary mode"):
        CloudEvent.from_binary([*headers, ("ce_authid", b"\xff")], body)
    with pytest.raises(InvalidEvent, match="more than"):
        CloudEvent.from_binary(headers, b" " * (MAX_EVENT_BYTES + 1))


def test_what_can_be_read_can_be_written_again() -> None:
    headers, _ = FULL.to_binary()
    for levels in (150, 252, 253, 254, 255, 400, 1000):
        structured = FULL.to_json()[:-1] + b',"data":' + nested(levels) + b"}"
        for read, arguments in (
            (CloudEvent.from_binary, (headers, nested(levels))),
            (CloudEvent.from_json, (structured,)),
        ):
            try:
                event = read(*arguments)
            except InvalidEvent:
                assert levels > 200
            else:
                assert CloudEvent.from_json(event.to_json()) == event
    many = b'{"list": [' + b"{}," * 5000 + b"{}]}"
    assert CloudEvent.from_binary(headers, many).data["list"][0] == {}


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_invalid_event(body: bytes) -> None:
    with pytest.raises(InvalidEvent):
        CloudEvent.from_json(body)


@given(st.dictionaries(st.sampled_from([*sorted(FULL.attributes()), "data"]), json_values))
def test_no_json_raises_anything_but_invalid_event(changes: dict[str, Any]) -> None:
    try:
        event = CloudEvent.from_json(broken(**changes))
    except InvalidEvent:
        return
    assert isinstance(event.id, UUID)


def test_unknown_attributes_of_a_newer_publisher_are_passed_over() -> None:
    assert CloudEvent.from_json(broken(newextension="x")) == FULL


def test_version_and_trace_id() -> None:
    assert FULL.version == 1
    assert FULL.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert make_event().trace_id is None
