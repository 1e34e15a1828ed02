import pytest
from aiokafka.partitioner import murmur2 as kafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from shared.events import PARTITIONS, topic_of
from shared.events.partition import murmur2, partition_of


@pytest.mark.parametrize(
    "data,expected",  # the vectors of Kafka's own UtilsTest
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_kafkas_vectors(data: str, expected: int) -> None:
    assert murmur2(data.encode()) == expected % 2**32


@given(st.binary(max_size=200))
def test_the_same_as_the_kafka_clients(data: bytes) -> None:
    assert murmur2(data) == kafka_murmur2(data) % 2**32


@given(st.text())
def test_a_partition_exists(key: str) -> None:
    assert 0 <= partition_of(key) < PARTITIONS


def test_the_topic_of_a_service() -> None:
    assert topic_of("crm") == "guardian.crm.events"
