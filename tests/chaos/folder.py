"""The folder of a command's runs: it stays when they found something, or when it is asked for."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar


class Result(Protocol):
    """What one run came to."""

    @property
    def sound(self) -> bool: ...


R = TypeVar("R", bound=Result)


def run_in_folder(run: Callable[[Path], Sequence[R]], report: Callable[[Sequence[R]], int], *, keep: bool) -> int:
    """Run and report; what the report ends with."""
    # Not below a private folder: PostgreSQL runs as another account when we are root.
    root = Path(tempfile.mkdtemp(prefix="guardian-chaos-"))
    root.chmod(0o755)
    results = run(root)
    if all(result.sound for result in results) and not keep:
        shutil.rmtree(root, ignore_errors=True)
    return report(results)
