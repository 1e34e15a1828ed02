"""The same broker from Apache's image, where a container engine runs. Its data ends with it."""

import secrets
import shutil
import subprocess

from deploy.kafka.jars import VERSION, KafkaError
from deploy.kafka.protocol import choose_port, wait_until_answering
from deploy.kafka.settings import CLUSTER_ID, SETTINGS, listening

IMAGE = f"apache/kafka:{VERSION}"
_PULL_SECONDS = 600


def engine_runs() -> bool:
    """Whether there is a ``docker`` and it reaches an engine."""
    return shutil.which("docker") is not None and _docker("info", "--format", "{{.ID}}", timeout=10).returncode == 0


class ContainerBroker:
    """A broker in a container that is removed when it stops."""

    def __init__(self) -> None:
        self.port = choose_port()
        self.name = f"guardian-kafka-{secrets.token_hex(6)}"

    @property
    def bootstrap_servers(self) -> str:
        """Where clients find it."""
        return f"127.0.0.1:{self.port}"

    def start(self, *, timeout: float = 60) -> None:
        """Start it (the image is fetched by the first start) and wait until it answers."""
        result = _docker(*self.arguments(), timeout=_PULL_SECONDS)
        if result.returncode != 0:
            raise KafkaError(f"docker could not start {IMAGE}", result.stderr)
        try:
            wait_until_answering(self.port, gone=lambda: False, timeout=timeout)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it and remove what it kept."""
        _docker("rm", "--force", "--volumes", self.name, timeout=30)

    def arguments(self) -> list[str]:
        """The arguments of ``docker`` that start it; the image reads its settings from the environment."""
        settings = SETTINGS | listening("0.0.0.0:9092", "127.0.0.1:9093", self.bootstrap_servers)
        arguments = ["run", "--detach", "--rm", "--name", self.name, "--publish", f"127.0.0.1:{self.port}:9092"]
        for name, value in settings.items():
            arguments += ["--env", f"KAFKA_{name.replace('.', '_').upper()}={value}"]
        return [*arguments, "--env", f"CLUSTER_ID={CLUSTER_ID}", IMAGE]


def _docker(*arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["docker", *arguments],  # noqa: S607 (the engine's client is found on the PATH on purpose)
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 1, "", f"no answer within {timeout:.0f} s")
