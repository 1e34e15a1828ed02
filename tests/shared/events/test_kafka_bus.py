"""What only Kafka can do wrong: foreign records, wrong topics and groups, markers of transactions, settings."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupAuthorizationFailedError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from deploy.postgres.server import free_port
from shared import clock
from shared.db import Database
from shared.events import Consumer, Relay, Tuning, Worker
from shared.events.bus import BusAway, WrongSetup
from shared.events.deadletters import dead
from shared.events.kafka import KafkaBus, WrongGroup, WrongTopic
from shared.events.kafka.cluster import Cluster, connection
from shared.events.partition import partition_of
from shared.ids import new_id
from shared.settings import Settings
from tests.shared.events.harness import take
from tests.shared.events.kafka_topics import make_topic, make_topic_settings
from tests.shared.events.support import GROUP, TOPIC, TRACEPARENT, count, make_event, publish_all, record, until

ProcessFactory = Callable[..., Awaitable[Database]]


def settings_of(servers: str, prefix: str, **fields: Any) -> Settings:
    return Settings(environment="test", kafka_bootstrap_servers=servers, kafka_prefix=prefix, **fields)


class TestForeignRecords:
    async def test_they_become_dead_letters_and_the_partition_goes_on(
        self, kafka_servers: str, kafka_prefix: str, process: ProcessFactory
    ) -> None:
        database = await process("beta")
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta", beat_seconds=0.3)
        await bus.start()
        healthy = [make_event(n) for n in range(3)]
        partition = partition_of(healthy[0].partitionkey)
        healthy[1:] = [
            make_event(n, organization=healthy[0].organization_id, entity=healthy[0].subject) for n in (1, 2)
        ]
        headers, value = make_event(0, type="nobody.knows.this").to_binary()
        foreign: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
            (b"plain", b"{bad json", [("ce_specversion", b"1.0"), ("traceparent", TRACEPARENT.encode())]),
            (b"large", b"x" * 1_000_000, []),
            (None, b"no key", []),
            (b"\xff\x00" + b"k" * 4000, b"key that is no text", [("ce_id", None), ("ce_type", b"\xff")]),
            (b"tombstone", None, [("ce_specversion", b"1.0")]),
            (b"wrong version", value, [(name, b"0.3" if name == "ce_specversion" else v) for name, v in headers]),
            (b"nul", value, [(name, b"a\0b" if name == "ce_source" else v) for name, v in headers]),
        ]
        consumer = Consumer(
            database, bus, "beta.test", [TOPIC], {"thing.changed": record},
            tuning=Tuning(first_delay=0.001, longest_delay=0.002),
        )  # fmt: skip
        task = asyncio.create_task(consumer.run())
        await bus.append(TOPIC, healthy[:1])
        async with AIOKafkaProducer(bootstrap_servers=kafka_servers, max_request_size=2_000_000) as plain:
            topic = f"{kafka_prefix}.beta.events"
            for key, body, fields in foreign:
                await plain.send_and_wait(topic, body, key=key, headers=fields, partition=partition)
            await plain.send_and_wait(topic, value, key=b"unknown type", headers=headers, partition=partition)
        await bus.append(TOPIC, healthy[1:])
        began = time.monotonic()

        async def all_dealt_with() -> bool:
            return await count(database) == 3 and len(await dead(database, "beta.test")) >= len(foreign)

        await until(all_dealt_with)
        assert time.monotonic() - began < 2
        letters = {each.position: each for each in await dead(database, "beta.test")}
        for position, (key, body, _) in enumerate(foreign, start=1):
            letter = letters[position]
            assert letter.body == (body or b"")
            assert (letter.topic, letter.partition, letter.reason) == (TOPIC, partition, "invalid")
            assert letter.error
            text = (key or b"").decode("utf-8", "replace").replace("\0", "\ufffd")
            assert letter.key == f"unreadable:{TOPIC}/{partition}/{position}/{text}"[:256]
        assert letters[1].trace_id == TRACEPARENT[3:35]
        assert await bus.lag("beta.test") == {}
        consumer.stop()
        await asyncio.wait_for(task, 5)
        await bus.stop()

    async def test_structured_mode_is_understood(self, kafka_servers: str, kafka_prefix: str) -> None:
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta")
        await bus.start()
        member = await bus.subscribe("beta.a", [TOPIC])
        sent = make_event(5)
        async with AIOKafkaProducer(bootstrap_servers=kafka_servers) as plain:
            kind = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
            await plain.send_and_wait(f"{kafka_prefix}.beta.events", sent.to_json(), headers=kind)
        (got,) = await take(member, 1)
        assert got.event == sent
        assert got.key == sent.partitionkey
        await bus.stop()

    async def test_markers_and_aborted_transactions_are_no_lag(self, kafka_servers: str, kafka_prefix: str) -> None:
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta")
        await bus.start()
        member = await bus.subscribe("beta.a", [TOPIC])
        topic = f"{kafka_prefix}.beta.events"
        sent = [make_event(n) for n in range(4)]
        async with AIOKafkaProducer(bootstrap_servers=kafka_servers, transactional_id=kafka_prefix) as writer:
            for n, event in enumerate(sent):
                await writer.begin_transaction()
                headers, value = event.to_binary()
                await writer.send_and_wait(topic, value, key=b"k", headers=headers, partition=0)
                await (writer.commit_transaction() if n % 2 == 0 else writer.abort_transaction())
        assert [each.event for each in await take(member, 2)] == [sent[0], sent[2]]
        assert await member.fetch(10, 0.7) == []  # passes over what follows the last event
        assert await bus.lag("beta.a") == {}
        assert [each.event async for each in bus.read([TOPIC], "earliest", follow=False)] == [sent[0], sent[2]]
        await bus.stop()


class TestWrongSetup:
    @pytest.mark.parametrize(
        ("partitions", "configs", "says"),
        [
            (3, {}, "has 3 partitions, and events need 12. .*--delete --topic .*KAFKA_PREFIX"),
            (12, {"cleanup_policy": "compact"}, "cleanup.policy=compact.*--add-config 'cleanup.policy=delete'"),
            (12, {"retention_ms": "60000"}, "retention.ms=60000.*retention.ms=604800000.*EVENT_RETENTION_DAYS"),
            (12, {"retention_ms": "864000000"}, "retention.ms=864000000.*retention.ms=604800000.*EVENT_RETENTION_DAYS"),
            (12, {"retention_ms": "-1"}, "retention.ms=-1.*retention.ms=604800000'"),
            (12, {"segment_ms": "604800000"}, "segment.ms=604800000.*segment.ms=86400000"),
            (12, {"compression_type": "producer"}, "compression.type=producer.*compression.type=uncompressed"),
            (12, {"compression_type": "zstd"}, "compression.type=zstd.*compression.type=uncompressed"),
            (
                12,
                {"message_timestamp_type": "CreateTime"},
                "message.timestamp.type=CreateTime.*message.timestamp.type=LogAppendTime",
            ),
            (12, {"retention_bytes": "1000000"}, "retention.bytes=1000000.*--add-config 'retention.bytes=-1'"),
            (12, {"max_message_bytes": "1000"}, "max.message.bytes=1000: .*max.message.bytes=2097152"),
        ],
    )
    async def test_a_topic_that_would_lose_events_is_refused(
        self, kafka_servers: str, kafka_prefix: str, partitions: int, configs: dict[str, str], says: str
    ) -> None:
        await make_topic(kafka_servers, f"{kafka_prefix}.beta.events", partitions, **configs)
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta")
        await bus.start()
        with pytest.raises(WrongTopic, match=says):
            await bus.append(TOPIC, [make_event()])
        with pytest.raises(WrongTopic, match=says):
            await bus.subscribe("beta.a", [TOPIC])
        await bus.stop()

    async def test_it_is_used_as_soon_as_it_is_right(self, kafka_servers: str, kafka_prefix: str) -> None:
        name = f"{kafka_prefix}.beta.events"
        await make_topic(kafka_servers, name, retention_ms="60000")
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta")
        await bus.start()
        with pytest.raises(WrongTopic):
            await bus.append(TOPIC, [make_event()])
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_servers)
        await admin.start()
        right = make_topic_settings(retention_ms="604800000")
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, right)])
        await admin.close()

        async def appended() -> bool:
            try:
                await bus.append(TOPIC, [make_event()])
            except WrongTopic:  # the change is on its way through the broker
                return False
            return True

        await until(appended)
        await bus.stop()

    async def test_what_the_cluster_does_not_allow_is_said_in_a_sentence(
        self, kafka_servers: str, kafka_prefix: str
    ) -> None:
        cluster = Cluster(connection(settings_of(kafka_servers, kafka_prefix), "test"))

        async def ask(_client: object) -> None:
            raise GroupAuthorizationFailedError(f"{kafka_prefix}.audit")

        with pytest.raises(WrongSetup, match=r"refuses this client \(GroupAuthorizationFailed\). Give it the rights"):
            await cluster.call(ask)
        await cluster.close()

    async def test_a_group_of_somebody_else_is_left_alone(self, kafka_servers: str, kafka_prefix: str) -> None:
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta")
        await bus.start()
        await bus.append(TOPIC, [make_event()])
        async with AIOKafkaConsumer(
            f"{kafka_prefix}.beta.events", bootstrap_servers=kafka_servers, group_id=f"{kafka_prefix}.beta.a"
        ):
            with pytest.raises(WrongGroup, match=f"{kafka_prefix}.beta.a is in use by consumers that are not ours"):
                await bus.subscribe("beta.a", [TOPIC])
            with pytest.raises(WrongGroup, match="Stop them first"):
                await bus.seek("beta.a", [TOPIC], "earliest")
        await bus.stop()

    async def test_a_worker_tells_what_to_change_and_goes_on_once_that_is_done(
        self, kafka_servers: str, kafka_prefix: str, process: ProcessFactory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = f"{kafka_prefix}.beta.events"
        await make_topic(kafka_servers, name, 3)
        database = await process("beta")
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta", beat_seconds=0.3)
        worker = Worker(
            database, bus=bus, relay=Relay(database, bus), consumers=[Consumer(database, bus, GROUP, [TOPIC], record)]
        )
        await worker.start()
        await publish_all(database, new_id(), new_id(), [1])

        async def told() -> bool:
            return (await worker.status()).bus_error is not None

        await until(told)
        for _ in range(5):
            status = await worker.status()
            assert f"{name} has 3 partitions" in (status.bus_error or "")
            assert (status.bus_reached, status.unsent) == (True, 1)
            assert (status.consumers[0].state, status.consumers[0].lag) == ("waiting", None)
            await asyncio.sleep(0.1)
        said = capsys.readouterr().out
        assert said.count("bus_away") == 1
        assert "worker_task_failed" not in said
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka_servers)
        await admin.start()
        await admin.delete_topics([name])
        await admin.close()

        async def well() -> bool:
            found = await worker.status()
            return (
                found.ready and found.bus_error is None and found.consumers[0].lag == 0 and await count(database) == 1
            )

        await until(well, 40)
        await worker.stop()

    async def test_a_worker_tells_of_a_group_that_does_not_let_it_in(
        self, kafka_servers: str, kafka_prefix: str, process: ProcessFactory
    ) -> None:
        database = await process("beta")
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta", beat_seconds=0.3)
        await bus.start()
        await bus.append(TOPIC, [make_event()])
        worker = Worker(database, bus=bus, consumers=[Consumer(database, bus, GROUP, [TOPIC], record)])
        async with AIOKafkaConsumer(
            f"{kafka_prefix}.beta.events",
            bootstrap_servers=kafka_servers,
            group_id=f"{kafka_prefix}.{GROUP}",
            enable_auto_commit=False,
        ):
            await worker.start()
            await until(lambda: worker.consumers[0].refused is not None)
            for _ in range(3):
                status = await worker.status()
                assert "is in use by consumers that are not ours" in (status.bus_error or "")
                assert (status.bus_reached, status.consumers[0].state) == (True, "waiting")

        async def well() -> bool:
            return (await worker.status()).bus_error is None and await count(database) == 1

        await until(well, 40)
        await worker.stop()
        await bus.stop()


class TestAway:
    async def test_nothing_fails_or_blocks_at_the_start(self) -> None:
        servers = f"127.0.0.1:{free_port()}"
        bus = KafkaBus(settings_of(servers, "guardian"), "beta")
        began = time.monotonic()
        await bus.start()
        assert time.monotonic() - began < 0.1
        member = await bus.subscribe("beta.a", [TOPIC])
        assert await member.fetch(10, 0.2) == []
        for attempt in (bus.append(TOPIC, [make_event()]), bus.lag("beta.a"), bus.seek("beta.a", [TOPIC], "earliest")):
            with pytest.raises(BusAway, match=f"Kafka at {servers} cannot be reached: .*failed"):
                await attempt
        with pytest.raises(BusAway, match="cannot be reached"):
            await bus.check([])
        await bus.stop()
        assert time.monotonic() - began < 5


class TestPositions:
    async def test_a_group_that_starts_at_the_latest_is_fixed_when_it_subscribes(
        self, kafka_servers: str, kafka_prefix: str
    ) -> None:
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta", beat_seconds=0.3)
        await bus.start()
        await bus.append(TOPIC, [make_event(n) for n in range(30)])
        member = await bus.subscribe("beta.a", [TOPIC], start="latest")
        await member.close()
        await bus.append(TOPIC, [make_event(n) for n in range(5)])
        assert sum((await bus.lag("beta.a")).values()) == 5
        again = await bus.subscribe("beta.a", [TOPIC], start="latest")
        assert len(await take(again, 5)) == 5
        await bus.stop()

    async def test_a_group_without_members_is_moved(self, kafka_servers: str, kafka_prefix: str) -> None:
        bus = KafkaBus(settings_of(kafka_servers, kafka_prefix), "beta")
        await bus.start()
        await bus.append(TOPIC, [make_event(n) for n in range(30)])
        await bus.seek("beta.a", [TOPIC], "latest")
        assert await bus.lag("beta.a") == {}
        await bus.seek("beta.a", [TOPIC], clock.now() - timedelta(hours=1))
        assert sum((await bus.lag("beta.a")).values()) == 30
        await bus.stop()


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kafka")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, secret = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, secret


class TestSecurity:
    def test_plain_text_needs_nothing_else(self) -> None:
        assert connection(settings_of("a:1,b:2", "guardian"), "me") == {
            "bootstrap_servers": "a:1,b:2", "client_id": "me", "security_protocol": "PLAINTEXT",
        }  # fmt: skip

    def test_sasl_and_ssl_pass_through(self, tmp_path: Path) -> None:
        pem, secret = certificate(tmp_path)
        options = connection(
            settings_of(
                "a:1", "guardian", kafka_security_protocol="SASL_SSL", kafka_sasl_mechanism="SCRAM-SHA-512",
                kafka_sasl_username="me", kafka_sasl_password=SecretStr("secret"),
                kafka_ssl_cafile=pem, kafka_ssl_certfile=pem, kafka_ssl_keyfile=secret,
            ),
            "me",
        )  # fmt: skip
        context = options.pop("ssl_context")
        assert options == {
            "bootstrap_servers": "a:1", "client_id": "me", "security_protocol": "SASL_SSL",
            "sasl_mechanism": "SCRAM-SHA-512", "sasl_plain_username": "me", "sasl_plain_password": "secret",
        }  # fmt: skip
        assert isinstance(context, ssl.SSLContext)
        assert context.check_hostname
        assert context.verify_mode is ssl.CERT_REQUIRED
        (authority,) = context.get_ca_certs()
        assert authority["subject"] == ((("commonName", "kafka"),),)
