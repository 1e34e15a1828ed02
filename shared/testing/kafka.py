"""The run's Kafka broker: ``kafka_servers`` and ``kafka_prefix``; one broker for all workers, started by need.

It is the broker of ``KAFKA_BOOTSTRAP_SERVERS`` when that is set (without security), else a container, else
Apache's jars. Where none can be had the tests are left out, and the run says so; with ``CI=true`` they fail.
"""

import os
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from deploy.kafka.jars import present
from shared.ids import new_id
from shared.testing.server import RUN_VARIABLE, GuardedServer

_GIVEN = "PYTEST_GUARDIAN_KAFKA"
_MISSING = "no Kafka broker: "


class KafkaServer(GuardedServer):
    """The run's broker. Getting its jars, or its image, may take a while the first time."""

    kind = "kafka"
    start_seconds = 600


def pytest_configure(config: pytest.Config) -> None:
    """Keep the developer's broker for the tests that ask, and from the settings of all others."""
    if not hasattr(config, "workerinput"):
        os.environ[_GIVEN] = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
        for name in [n for n in os.environ if n.startswith("KAFKA_")]:
            del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a broker; give them time while its jars have to be fetched first."""
    for item in items:
        if "kafka_servers" in getattr(item, "fixturenames", ()) or item.get_closest_marker("kafka"):
            item.add_marker(pytest.mark.kafka)
            if not (present() or os.environ[_GIVEN]):
                item.add_marker(pytest.mark.timeout(KafkaServer.start_seconds))


@pytest.hookimpl(trylast=True)  # after the fixtures of the session, which may still talk to it
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the broker, if any test asked for it."""
    if not hasattr(session.config, "workerinput"):
        _server().stop()


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Say how many tests were left out for want of a broker, and why."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.getreports("skipped")]
    missing = [reason for reason in reasons if _MISSING in reason]
    if missing:
        terminalreporter.section(f"{len(missing)} TESTS LEFT OUT: NO KAFKA BROKER", red=True, bold=True)
        terminalreporter.line(missing[0].partition(_MISSING)[2])


def _server() -> KafkaServer:
    pid, _, folder = os.environ[RUN_VARIABLE].partition(":")
    return KafkaServer(Path(f"{folder}-kafka"), int(pid))


@pytest.fixture(scope="session")
def kafka_servers() -> str:
    """Bootstrap servers of a real broker that all tests of the run share."""
    if os.environ[_GIVEN]:
        return os.environ[_GIVEN]
    try:
        return _server().address
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{_MISSING}{error}", pytrace=False)
        pytest.skip(f"{_MISSING}{error}")


@pytest.fixture
def kafka_prefix() -> str:
    """A prefix of topics and groups that no other test has."""
    return f"test-{new_id().hex}"
