"""What a running platform costs: its processes found from outside, their memory and their CPU time."""

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def platform_processes(pid: int, folder: Path) -> list[psutil.Process]:
    """The process ``pid``, all below it, and whatever else works inside ``folder`` (an adopted database)."""
    found: dict[int, psutil.Process] = {}
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        found = {process.pid: process for process in (root, *root.children(recursive=True))}
    return list((found | {process.pid: process for process in inside(folder)}).values())


def inside(folder: Path) -> list[psutil.Process]:
    """Processes whose working directory or command line is in ``folder``."""
    own = psutil.Process().pid
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            in_arguments = any(str(folder) in argument for argument in process.cmdline())
            if process.pid != own and (in_arguments or Path(process.cwd()).is_relative_to(folder)):
                found.append(process)
    return found


def memory_mb(processes: Iterable[psutil.Process]) -> float:
    """Proportional set size of all together: a page shared by several is counted once."""
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 2**20


def cpu_percent(pid: int, folder: Path, seconds: float) -> float:
    """CPU time of all together over the next ``seconds``, in percent of one core."""
    before, begun = _cpu_seconds(platform_processes(pid, folder)), time.monotonic()
    time.sleep(seconds)
    after = _cpu_seconds(platform_processes(pid, folder))
    return max(0.0, (after - before) / (time.monotonic() - begun) * 100)


def _cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Children that ended are in their parent's account, so short-lived ones count too."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total
