"""Topics as somebody else makes them, for tests of how they are refused."""

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from shared.events.partition import PARTITIONS


def make_topic_settings(**configs: str) -> dict[str, str]:
    """The settings events need, but for these."""
    right = {
        "segment_ms": "86400000",
        "compression_type": "uncompressed",
        "message_timestamp_type": "LogAppendTime",
        "max_message_bytes": "2097152",
    }
    return {key.replace("_", "."): value for key, value in (right | configs).items()}


async def make_topic(servers: str, name: str, partitions: int = PARTITIONS, **configs: str) -> None:
    """A topic as events need it, but for these partitions and settings (``cleanup_policy="compact"``)."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=make_topic_settings(**configs))])
    await admin.close()
