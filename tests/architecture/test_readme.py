"""The commands of README.md can be pasted: each block that needs a key says where it comes from."""

import json
import re
import subprocess
from pathlib import Path

from .rules import ROOT


def test_its_calls_have_the_key_of_the_demonstration(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    script = "\n".join(block for block in blocks if "curl" in block)
    (tmp_path / ".guardian").mkdir()
    (tmp_path / ".guardian/demo.json").write_text(json.dumps({"organizations": [{"api_key": "gdn_live_first"}]}))
    stub = "curl() { printf '%s\\n' \"$*\"; }\n"
    shell = subprocess.run(
        ["sh", "-eu"], input=stub + script, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (shell.returncode, shell.stderr) == (0, "")
    calls = shell.stdout.splitlines()
    assert len(calls) == script.count("curl ")
    assert all("Authorization: Bearer gdn_live_first" in call for call in calls)
