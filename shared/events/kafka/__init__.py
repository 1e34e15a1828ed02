"""The bus on Apache Kafka, over raw aiokafka: nothing else imports it."""

from shared.events.kafka.bus import KafkaBus
from shared.events.kafka.member import WrongGroup
from shared.events.kafka.topics import WrongTopic

__all__ = ["KafkaBus", "WrongGroup", "WrongTopic"]
