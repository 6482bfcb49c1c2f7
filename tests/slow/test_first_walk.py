"""A new user's way by the first page alone: a killed sweep that goes on, a table, a page, a merged model.

The page's commands are executed as they stand; a ``fedapp`` of the test's own makes the runs small.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from fedapp.core.files import ROOT
from tests.docs.reading import FENCE

pytestmark = [pytest.mark.slow, pytest.mark.long]  # one to two minutes on two idle cores

SMALL = "num_clients=2 num_rounds=2 benchmark.num_train=40 benchmark.num_test=20"
HEADING = "## From a sweep to a table and a merged model\n"
LONGEST = 900


@pytest.fixture(scope="module")
def page():
    """The section's commands, a line each, and its Python."""
    section = (ROOT / "docs" / "first-run.md").read_text().split(HEADING)[1].split("\n## ")[0]
    blocks = {language: body for _, _, language, body in FENCE.findall(section)}
    return blocks["sh"].splitlines(), blocks["python"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Starts a script of bash in a folder where ``fedapp run`` makes small runs; 80 columns."""
    home, tools = tmp_path_factory.mktemp("user"), tmp_path_factory.mktemp("tools")
    python = shlex.quote(sys.executable)
    command = tools / "fedapp"
    # exec: what is killed is the command itself.
    more = f'case $1 in run) exec {python} -m fedapp "$@" {SMALL};; esac'
    command.write_text(f'#!/bin/bash\n{more}\nexec {python} -m fedapp "$@"\n')
    command.chmod(0o755)
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    around = {
        **os.environ,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": paths,
        "COLUMNS": "80",
    }

    def start(*words: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, cwd=home, env=around, **pipes)

    return home, start


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, err
    return out


def kill_in_its_second_run(process: subprocess.Popen[str], home) -> str:
    """SIGKILL once the second run has a checkpoint; that run's name."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        begun = sorted(
            path.parents[2] for path in home.glob("runs/*-sweep/*/checkpoints/server/round-*.safetensors")
        )
        second = [run for run in begun if not (run / "summary.json").exists()]
        if len({*begun}) == 2 and second:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return second[0].name
        assert process.poll() is None
        time.sleep(0.05)
    raise TimeoutError


def test_the_pages_commands_lead_from_a_sweep_to_a_merged_model_that_answers(page, shell):
    (first, *rest), code = page
    home, start = shell
    assert first + " sweep.resume=true" == rest[0].partition("   #")[0]
    stopped = kill_in_its_second_run(start("bash", "-c", f"exec {first}"), home)
    out = finish(start("bash", "-ec", "\n".join(rest)))
    assert re.search(rf", goes on in {stopped}$", out, re.MULTILINE)
    assert "goes on after round" in out
    assert "\n4 of 4 runs complete\n" in out
    assert len(list(home.glob("runs/*-sweep/*/summary.json"))) == 4
    table = (home / "table.tex").read_text()
    assert r"\begin{tabular}" in table
    assert table.count(r"\\" + "\n") == 3
    assert "method=fedit adapter=lora" in table
    assert (home / "report.html").stat().st_size > 500_000
    answer = out.splitlines()[-1]
    assert answer  # of the chat
    told = finish(start(sys.executable, "-c", code))
    # The merged model says what the adapter on its base says.
    assert told.strip().endswith(answer)
