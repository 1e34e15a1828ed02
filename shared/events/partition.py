"""Topics and partitions: the same key lands on the same partition on every bus.

The hash is Kafka's default partitioner (murmur2 with Kafka's seed, sign bit cleared), so that order per
key is the same whether the PostgreSQL log or a Kafka producer of any language chose the partition.
"""

from struct import unpack_from

PARTITIONS = 12
_SEED = 0x9747B28C
_MIX = 0x5BD1E995
_WORD = 0xFFFFFFFF


def topic_of(service: str) -> str:
    """The topic a service publishes to."""
    return f"guardian.{service}.events"


def murmur2(data: bytes) -> int:
    """32-bit MurmurHash2 as in ``org.apache.kafka.common.utils.Utils``, unsigned."""
    length = len(data)
    words = length >> 2
    value = _SEED ^ length
    for word in unpack_from(f"<{words}I", data):
        mixed = word * _MIX & _WORD
        value = (value * _MIX ^ (mixed ^ mixed >> 24) * _MIX) & _WORD
    if length & 3:
        value = (value ^ int.from_bytes(data[words << 2 :], "little")) * _MIX & _WORD
    value = (value ^ value >> 13) * _MIX & _WORD
    return value ^ value >> 15


def partition_of(key: str, partitions: int = PARTITIONS) -> int:
    """The partition of an event's ``partitionkey``."""
    return (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
