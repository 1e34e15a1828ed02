"""Running platforms for the end-to-end tests: every test runs in each mode, on PostgreSQL, on Kafka, and apart."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.platform import MODES, POSTGRES, SPLIT, Mode, RunningPlatform, params
from tests.e2e.wire import Door

# The fuzzer guesses passwords, and the tests after it must still be able to sign in. Who waits for a process that
# is started again on a busy machine shall not be told that it took too long.
_RELAXED = {
    "GUARDIAN_IDENTITY_SIGN_INS_PER_ADDRESS": "100000",
    "GUARDIAN_IDENTITY_WRONG_PASSWORDS_PER_ACCOUNT": "100000",
    "GUARDIAN_IDENTITY_WRONG_PASSWORDS_PER_ADDRESS": "100000",
    "GUARDIAN_REQUEST_TIMEOUT_SECONDS": "60",
}


@contextmanager
def _home() -> Iterator[Path]:
    # Not below pytest's folders: those are private, and PostgreSQL runs as another account when we are root.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="guardian-e2e-", dir=memory, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "home"


@pytest.fixture(scope="session")
def platforms(request: pytest.FixtureRequest) -> Iterator[Callable[..., RunningPlatform]]:
    """The platforms that the tests of a worker share: one for each mode, started when a test first asks for it.

    ``platforms(mode, **environment)`` is one with settings of its own.
    """
    started: dict[object, RunningPlatform] = {}
    with ExitStack() as stack:

        def of(mode: Mode, **environment: str) -> RunningPlatform:
            wanted = mode, *sorted(environment.items())
            if wanted not in started:
                running = RunningPlatform(
                    stack.enter_context(_home()), mode, _servers(request, mode), _RELAXED | environment
                )
                stack.callback(running.stop)
                running.start()
                started[wanted] = running
            return started[wanted]

        yield of


@pytest.fixture(scope="session", params=params(*MODES))
def platform(request: pytest.FixtureRequest, platforms: Callable[..., RunningPlatform]) -> RunningPlatform:
    """A platform that has started and answers, with its demo organisations and no history."""
    return platforms(request.param)


@pytest.fixture(scope="module", params=params(POSTGRES, SPLIT))
def door(request: pytest.FixtureRequest, platforms: Callable[..., RunningPlatform]) -> Iterator[Door]:
    """The front door of a platform in one process, and of one whose gateway stands alone."""
    made = Door(platforms(request.param))
    yield made
    made.close()


@pytest.fixture(scope="session")
def used_home() -> Iterator[Path]:
    """The home of a platform that ran and was stopped: a copy of it spares a test the first start."""
    with _home() as home:
        running = RunningPlatform(home, POSTGRES)
        running.start()
        assert running.stop() == 0
        yield home


@pytest.fixture(params=params(*MODES))
def own_platform(request: pytest.FixtureRequest, used_home: Path) -> Iterator[RunningPlatform]:
    """A platform of this test alone, not started yet; there is data in its home."""
    mode: Mode = request.param
    with _home() as home:
        subprocess.run(["cp", "-a", str(used_home), str(home)], check=True)
        running = RunningPlatform(home, mode, _servers(request, mode))
        yield running
        if running.process is not None:
            running.stop()


def _servers(request: pytest.FixtureRequest, mode: Mode) -> str:
    # Asked for by need, so that the others run where no broker can be had.
    return str(request.getfixturevalue("kafka_servers")) if mode.kafka else ""
