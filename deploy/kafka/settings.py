"""What one broker on its own needs to be told, whether its jars run it or a container does."""

SETTINGS: dict[str, str | int] = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "CLIENT",
    "controller.listener.names": "CONTROLLER",
    # There is no second broker to copy to.
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # Defaults for a cluster of hundreds: 50 partitions each, and memory to compact them.
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.num.partitions": 4,
    "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    # A group is complete when its first member says so: nobody waits three seconds for others.
    "group.initial.rebalance.delay.ms": 0,
    # The least a member may ask for (six seconds is also Kafka's own limit).
    "group.min.session.timeout.ms": 6000,
    # Topics are created by the platform, with the partitions and the retention it states.
    "auto.create.topics.enable": "false",
    "message.max.bytes": 2 * 1024 * 1024,
    # A broker that was killed may register again at once instead of after nine seconds.
    "broker.session.timeout.ms": 1000,
    "broker.heartbeat.interval.ms": 200,
}

CLUSTER_ID = "Z3VhcmRpYW4tZGV2ZWxvcA"
"""Any 16 bytes in base64; one broker is a cluster nobody else joins."""


def listening(client: str, controller: str, advertised: str) -> dict[str, str | int]:
    """The settings that say where it listens: for clients, for itself as its controller, and as told to clients."""
    return {
        "listeners": f"CLIENT://{client},CONTROLLER://{controller}",
        "advertised.listeners": f"CLIENT://{advertised}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller.rsplit(':', 1)[1]}",
    }
