"""``python -m deploy.kafka up|down|status``: a broker in the foreground until Ctrl-C; its data stays."""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

import psutil

from deploy.kafka.broker import Broker, PortTaken
from deploy.kafka.jars import VERSION, KafkaError
from deploy.kafka.protocol import choose_port
from deploy.postgres.server import is_free


def say(line: str) -> None:
    """A line for people, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def up(broker: Broker) -> int:
    """Run the broker until Ctrl-C, SIGTERM, or ``down`` in another terminal."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        broker.start()
        say(f"Apache Kafka {VERSION} keeps its data in {broker.folder}. Ctrl-C stops it. In another terminal:")
        say(f"\n  KAFKA_BOOTSTRAP_SERVERS={broker.bootstrap_servers} make run\n")
        status = broker.wait()
    except KeyboardInterrupt:
        say("Stopping the broker")
        broker.stop()
        return 0
    # 143: Java's own way to say that SIGTERM ended it, which is what `down` sends.
    if status in {0, 143, -signal.SIGTERM}:
        return 0
    raise KafkaError(f"the broker ended by itself (status {status})", broker.log.read_text(errors="replace"))


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def down(broker: Broker) -> int:
    """Stop the broker of the folder, whoever started it."""
    process = broker.running()
    if process is None:
        say("no broker runs")
        return 0
    process.terminate()
    try:
        process.wait(30)
    except psutil.TimeoutExpired:
        process.kill()
    say("stopped")
    return 0


def status(broker: Broker) -> int:
    """Say whether a broker runs; the exit status says it too."""
    process = broker.running()
    say(f"runs on {broker.bootstrap_servers}, process {process.pid}" if process else "no broker runs")
    return 0 if process else 1


def _elsewhere(broker: Broker, home: Path) -> str:
    """How to start it on another port, and the platform on it."""
    port = next((each for each in range(broker.port + 1, 65536) if is_free(each)), None) or choose_port()
    same = f"GUARDIAN_HOME={shlex.quote(str(home))} " if "GUARDIAN_HOME" in os.environ else ""
    folder = f"--folder {shlex.quote(str(broker.folder))} " if broker.folder != (home / "kafka").resolve() else ""
    return (
        f"Choose another one, here and for the platform:\n\n  {same}make kafka ARGS={shlex.quote(f'{folder}--port {port}')}\n"
        f"  {same}KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:{port} make run\n"
    )


def main() -> int:
    """Read the command line, do it, and say in a sentence what went wrong."""
    home = Path(os.environ.get("GUARDIAN_HOME", ".guardian"))
    parser = argparse.ArgumentParser(prog="python -m deploy.kafka", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status"])
    parser.add_argument("--folder", type=Path, default=home / "kafka", help="where its data lives (%(default)s)")
    parser.add_argument("--port", type=int, help="port of 127.0.0.1 (the one it had, at first 9092)")
    options = parser.parse_args()
    commands = {"up": up, "down": down, "status": status}
    try:
        if options.port is not None and not 1 <= options.port <= 65535:
            raise KafkaError(f"--port must be from 1 to 65535, and {options.port} is not")
        known = (options.folder / "broker.json").exists()
        broker = Broker(options.folder, options.port or (None if known else 9092))
        try:
            return commands[options.command](broker)
        except PortTaken as error:
            raise KafkaError(f"{error}. {_elsewhere(broker, home)}") from error
    except KafkaError as error:
        sys.stderr.write(f"{error}\n" + (f"\n{error.log}\n" if error.log else ""))
        return 1


if __name__ == "__main__":
    sys.exit(main())
