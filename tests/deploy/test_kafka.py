"""The broker of laptops and tests: it keeps what it was given, says what it lacks, and is fetched once."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.kafka import Broker, ContainerBroker, KafkaError, jars
from deploy.kafka.protocol import answers, choose_port
from deploy.kafka.settings import SETTINGS
from deploy.postgres.server import is_free

TOPIC = "kept"
ROOT = Path(__file__).parents[2]


def _startable() -> str | None:
    try:
        jars.java()
        jars.fetch()
    except KafkaError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def jars_here() -> None:
    """Java and the jars; CI has them."""
    reason = _startable()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(f"no Kafka broker: {reason}")


@pytest.fixture
def broker(jars_here: None, tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path / "kafka")
    yield made
    made.kill()


async def _create(servers: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, num_partitions=3, replication_factor=1)])
    finally:
        await admin.close()


async def _produce(servers: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(TOPIC, value)
    finally:
        await producer.stop()


async def _consume(servers: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


@pytest.mark.kafka
@pytest.mark.slow
async def test_a_killed_broker_comes_back_on_its_port_with_every_record(broker: Broker) -> None:
    broker.start()
    await _create(broker.bootstrap_servers)
    await _produce(broker.bootstrap_servers, b"before")
    broker.kill()
    assert not answers(broker.port)
    again = Broker(broker.folder)
    assert again.port == broker.port
    again.start()
    try:
        await _produce(again.bootstrap_servers, b"after")
        assert sorted(filter(None, await _consume(again.bootstrap_servers, 2))) == [b"after", b"before"]
    finally:
        again.stop()
    assert again.status() == 0
    assert is_free(again.port)


@pytest.mark.kafka
@pytest.mark.slow
def test_a_broker_left_behind_is_replaced_and_one_with_an_owner_is_not(broker: Broker) -> None:
    broker.start()
    with pytest.raises(KafkaError, match=rf"already runs in .*: {broker.bootstrap_servers} \(of process {os.getpid()}"):
        Broker(broker.folder).start()
    with pytest.raises(KafkaError, match=f"port {broker.port} of 127.0.0.1 is taken"):
        Broker(broker.folder.with_name("other"), broker.port).start()
    left_behind = broker.running()
    assert left_behind is not None
    state = broker.folder / "broker.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"owner": 2**22 + 1}))  # above every pid
    again = Broker(broker.folder)
    again.start()
    try:
        assert broker.status() is not None
        assert answers(again.port)
    finally:
        again.kill()


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_it_ends_with_whoever_started_it(jars_here: None, tmp_path: Path) -> None:
    script = f"import time; from deploy.kafka import Broker; from pathlib import Path; Broker(Path({str(tmp_path)!r})).start()"
    with subprocess.Popen([sys.executable, "-c", f"{script}; print(flush=True); time.sleep(60)"], stdout=-1) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline()
        process = Broker(tmp_path).running()
        owner.kill()
    assert process is not None
    with suppress(psutil.NoSuchProcess):
        process.wait(20)
    assert Broker(tmp_path).running() is None


@pytest.mark.kafka
@pytest.mark.slow
def test_make_kafka_runs_until_down_or_ctrl_c(jars_here: None, tmp_path: Path) -> None:
    port = choose_port()
    for end in ("down", "Ctrl-C"):
        with _command("up", "--port", str(port), folder=tmp_path) as up:
            assert up.stdout is not None
            said = [up.stdout.readline() for _ in range(3)]
            assert f"  KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:{port} make run\n" in said
            with _command("status", folder=tmp_path) as status:
                assert status.communicate()[0].startswith(f"runs on 127.0.0.1:{port}, process ")
            if end == "down":
                assert _command("down", folder=tmp_path).communicate()[0] == "stopped\n"
            else:
                up.send_signal(signal.SIGINT)
            up.communicate()
            assert up.returncode == 0, end
    with _command("status", folder=tmp_path) as status:
        assert status.communicate()[0] == "no broker runs\n"
    assert status.returncode == 1


def test_a_port_that_is_taken_or_none_is_said_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with _command("up", "--port", str(port), folder=tmp_path / "kafka") as up:
            said = up.communicate()[0]
    assert up.returncode == 1
    assert f"port {port} of 127.0.0.1 is taken by another program" in said
    (other,) = re.findall(r"make kafka ARGS='--folder .*/kafka --port (\d+)'", said)
    assert f"KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:{other} make run" in said
    assert int(other) != port
    for port in (99999, 0):
        with _command("up", "--port", str(port), folder=tmp_path / "none") as up:
            assert up.communicate()[0] == f"--port must be from 1 to 65535, and {port} is not\n"
        assert up.returncode == 1
    assert not (tmp_path / "none").exists()


def _command(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.kafka", *arguments, "--folder", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.kafka
async def test_a_topic_nobody_declared_is_not_invented(kafka_servers: str, kafka_prefix: str) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka_servers)
    await producer.start()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(producer.partitions_for(f"{kafka_prefix}.typing-error"), 1)
    finally:
        await producer.stop()


def _program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with neither Java nor Maven; returns a folder on its PATH."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_a_machine_without_java_is_told_what_to_install(nothing_installed: Path, tmp_path: Path) -> None:
    with pytest.raises(KafkaError, match=r"no Java\. Debian or Ubuntu: apt install default-jre-headless maven"):
        jars.fetch(tmp_path)


def test_an_old_java_is_named_with_its_version(nothing_installed: Path, tmp_path: Path) -> None:
    java = _program(nothing_installed / "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    with pytest.raises(KafkaError, match=f"needs Java 17 or newer, and {java} is Java 11. Debian"):
        jars.fetch(tmp_path)
    _program(java, "echo 'java version \"1.8.0_292\"' >&2")
    with pytest.raises(KafkaError, match="is Java 8"):
        jars.fetch(tmp_path)


def test_a_java_that_does_not_work_is_said(nothing_installed: Path, tmp_path: Path) -> None:
    _program(nothing_installed / "java", "echo 'No Java runtime present' >&2; exit 1")
    with pytest.raises(KafkaError, match="java does not work"):
        jars.fetch(tmp_path)


def test_a_machine_without_maven_is_told_what_to_install(nothing_installed: Path, tmp_path: Path) -> None:
    _program(nothing_installed / "java", "echo 'openjdk version \"17\"' >&2")
    with pytest.raises(KafkaError, match=r"this machine has no mvn\. Debian or Ubuntu: apt install"):
        jars.fetch(tmp_path)


def test_a_download_that_fails_says_why_and_leaves_nothing_that_looks_whole(
    nothing_installed: Path, tmp_path: Path
) -> None:
    _program(nothing_installed / "java", "echo 'openjdk version \"25.0.1\"' >&2")
    _program(nothing_installed / "mvn", "echo '[ERROR] Unknown host repo.maven.apache.org'; exit 1")
    with pytest.raises(KafkaError, match="check the network or Maven's mirrors") as failure:
        jars.fetch(tmp_path, say=lambda _line: None)
    assert "Unknown host" in failure.value.log
    assert not jars.present(tmp_path)


@pytest.mark.slow
def test_two_callers_at_once_fetch_once(jars_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    _program(tmp_path / "bin" / "mvn", f'echo call >> {calls}; exec {shutil.which("mvn")} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    fetch = f"from deploy.kafka import jars; from pathlib import Path; jars.fetch(Path({str(tmp_path / 'cache')!r}))"
    callers = [subprocess.Popen([sys.executable, "-c", fetch], cwd=ROOT, stdout=-3) for _ in range(2)]
    assert [caller.wait() for caller in callers] == [0, 0]
    assert calls.read_text() == "call\n"
    assert len(list((tmp_path / "cache" / jars.VERSION / "lib").glob("*.jar"))) > 40


def test_a_container_gets_the_same_settings() -> None:
    broker = ContainerBroker()
    arguments = broker.arguments()
    assert arguments[-1] == f"apache/kafka:{jars.VERSION}"
    assert f"127.0.0.1:{broker.port}:9092" in arguments
    given = dict(a.split("=", 1) for flag, a in pairwise(arguments) if flag == "--env")
    assert given["KAFKA_ADVERTISED_LISTENERS"] == f"CLIENT://127.0.0.1:{broker.port}"
    assert given["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert {f"KAFKA_{name.replace('.', '_').upper()}" for name in SETTINGS} < set(given)


@pytest.mark.slow
@pytest.mark.parametrize("ci", ["", "true"])
def test_a_run_without_a_broker_says_so(nothing_installed: Path, tmp_path: Path, ci: str) -> None:
    test = tmp_path / "test_inner.py"
    test.write_text("def test_one(kafka_servers): ...\ndef test_two(kafka_servers): ...\ndef test_other(): ...\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"CI": ci}
    result = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:hypothesispytest",
            "-p", "shared.testing.plugin", "-p", "shared.testing.kafka", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), str(test),
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Apache Kafka needs Java 17 or newer, and this machine has no Java. Debian" in result.stdout
    if ci:
        assert "1 passed, 2 errors" in result.stdout
    else:
        assert "2 TESTS LEFT OUT: NO KAFKA BROKER" in result.stdout
        assert "1 passed, 2 skipped" in result.stdout
