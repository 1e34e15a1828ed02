"""The line other programs read: its shape, when a bar holds, and the exit status."""

import json
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.bench.processes import cpu_percent, inside, memory_mb, platform_processes
from tests.bench.report import Better, Report, require_durable


def test_the_line_has_every_member(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("demo")
    report.bar(
        "latency_ms", 2.0, 2.5, better="lower", unit="ms", n=3, spread=[1.5, 2.50004], peer="other", peer_value=9.87654
    )  # fmt: skip
    assert report.finish() == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert json.loads(captured.out) == {
        "bench": "demo",
        "bars": [
            {
                "name": "latency_ms", "value": 2.0, "bar": 2.5, "better": "lower", "peer": "other",
                "peer_value": 9.877, "holds": True, "unit": "ms", "n": 3, "spread": [1.5, 2.5],
            }
        ],
    }  # fmt: skip
    assert "✓ latency_ms: 2 ms" in captured.err


def test_a_median_comes_with_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("demo")
    report.median("start_s", [3.0, 1.0, 2.5], 8, better="lower", unit="s")
    report.finish()
    bar = json.loads(capsys.readouterr().out)["bars"][0]
    assert (bar["value"], bar["n"], bar["spread"]) == (2.5, 3, [1.0, 3.0])


@pytest.mark.parametrize(
    "value, bar, better, holds",
    [(2, 2, "lower", True), (2.1, 2, "lower", False), (2, 2, "higher", True), (1.9, 2, "higher", False)],
)
def test_when_a_bar_holds(value: float, bar: float, better: Better, holds: bool) -> None:
    report = Report("demo")
    report.bar("good", 1, 2, better="lower", unit="s", n=1)
    report.bar("asked", value, bar, better=better, unit="s", n=1)
    assert (report.finish() == 0) is holds


def test_a_bench_without_figures_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert Report("demo").finish() == 1


async def test_a_server_that_may_lose_data_is_refused(postgres: str) -> None:
    connection = await asyncpg.connect(postgres)
    try:
        with pytest.raises(SystemExit, match="fsync is off"):
            await require_durable(connection)
    finally:
        await connection.close()


def test_processes_are_found_by_where_they_work(tmp_path: Path) -> None:
    code = "import subprocess, sys; print('up', flush=True); subprocess.run(['/bin/sleep', '60'])"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        assert process.pid in {each.pid for each in inside(tmp_path)}
        found = platform_processes(process.pid, tmp_path / "elsewhere")
        assert process.pid in {each.pid for each in found}
        assert memory_mb(found) > 1
        assert cpu_percent(process.pid, tmp_path, 0.2) < 150
    finally:
        for each in psutil.Process(process.pid).children():
            each.kill()
        process.kill()
        process.communicate()
    assert inside(tmp_path) == []
