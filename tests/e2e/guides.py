"""Guides whose commands are run as they stand there."""

import os
import re
import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path

from tests.e2e.platform import ROOT, RunningPlatform

_MARK = "@@@"


def said(platform: RunningPlatform, guide: str, without: Collection[str] = ()) -> dict[str, str]:
    """What each section's commands printed, by the section's title; all are run in one shell."""
    text = (ROOT / f"docs/guides/{guide}.md").read_text()
    script = ["set -eu"]
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        title = section.partition("\n")[0]
        if title not in without:
            script.append(f"echo '{_MARK}{title}'")
            script += re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GUARDIAN_")}
    environment |= {"GUARDIAN_HOME": str(platform.home), "GUARDIAN_PORT": str(platform.port)}
    # A folder of its own, because the commands write files and other tests run them at the same time.
    with tempfile.TemporaryDirectory() as folder:
        for path in ROOT.iterdir():
            (Path(folder) / path.name).symlink_to(path)
        shell = subprocess.run(
            ["sh"], input="\n".join(script), env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
    assert shell.returncode == 0, shell.stderr
    parts = shell.stdout.split(_MARK)[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}
