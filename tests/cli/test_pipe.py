"""A reader that goes away: commands leave quietly, a run goes on to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.federation import TOY

# Let a command write into a pipe whose reader has gone before it begins.
SCRIPT = "import sys; from fedapp.cli.main import main; sys.stdin.read(); sys.exit(main(sys.argv[1:]))"


def without_reader(*words: str) -> tuple[int, str]:
    """The exit code and what was said on standard error."""
    end, start = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        stdin=subprocess.PIPE,
        stdout=start,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # what is written late breaks late
    )
    os.close(start)
    os.close(end)
    _, said = process.communicate("")
    return process.returncode, said


@pytest.mark.parametrize("words", [["list"], ["--help"], ["budget", *TOY[:3]]])
def test_a_command_leaves_as_unix_tools_do(words):
    assert without_reader(*words) == (141, "")


@pytest.mark.slow
def test_a_run_goes_on_without_a_reader(tmp_path):
    folder = tmp_path / "run"
    code, said = without_reader("run", *TOY, "num_rounds=1", f"run_dir={folder}")
    assert (code, said) == (141, "")
    assert json.loads((folder / "run.json").read_text())["status"] == "completed"
    assert (folder / "summary.json").exists()
