"""Which bus a service's events travel on: Kafka where its brokers are named, the PostgreSQL log otherwise."""

from shared.db import Database
from shared.events.bus import Bus
from shared.events.postgres import PostgresBus
from shared.settings import Settings


def connect_bus(settings: Settings, database: Database) -> Bus:
    """The bus of one service; nothing is opened before it is started."""
    if settings.kafka_bootstrap_servers is None:
        return PostgresBus(database)
    from shared.events.kafka import KafkaBus  # noqa: PLC0415 (aiokafka takes memory: only where it is used)

    return KafkaBus(settings, database.service)
