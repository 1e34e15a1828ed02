"""A Kafka broker for laptops, tests and fault tests: one KRaft node from the jars of Apache Kafka.

``make kafka`` runs it, ``shared.testing.kafka`` starts one per test run. Production brings its own cluster.
"""

from deploy.kafka.broker import Broker
from deploy.kafka.engine import ContainerBroker, engine_runs
from deploy.kafka.jars import VERSION, KafkaError

__all__ = ["VERSION", "Broker", "ContainerBroker", "KafkaError", "engine_runs"]
