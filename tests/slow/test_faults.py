"""Faults of the machine and of the configuration, for real: a disk that is full, plain ``flwr run``."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedapp.core.files import ROOT
from fedapp.engines.flower.home import flower_home
from fedapp.engines.flower.processes import ProcessTree
from fedapp.engines.flower.superlink import SuperLink, environment
from fedapp.engines.job import Job
from fedapp.site.supervisor import free_port

pytestmark = pytest.mark.slow
LOCAL_PORTS = ("FLWR_LOCAL_SUPERLINK_HTTP_API_PORT", "FLWR_LOCAL_CONTROL_API_PORT")

# A file system of its own, seen by this command alone; what is on it is copied away at the end.
ON_A_SMALL_DISK = """
mount -t tmpfs -o size=200k none "$1" || exit 99
shift_to="$2"; disk="$1"; shift 2
"$@"; code=$?
cp -r "$disk/." "$shift_to"
exit $code
"""


def test_a_run_on_a_disk_that_is_full_says_so_in_one_line(tmp_path):
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    copy.mkdir()
    settings = ["model=toy", "adapter=toy", "benchmark=toy", "engine=local", "num_rounds=2000"]
    command = [sys.executable, "-m", "fedapp", "run", *settings, f"run_dir={disk / 'run'}"]
    small = ["unshare", "-Urm", "bash", "-c", ON_A_SMALL_DISK, "bash", str(disk), str(copy), *command]
    done = subprocess.run(small, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("this machine lets nobody mount a disk")
    assert done.returncode == 1, done.stderr
    fault = "cannot be written: No space left on device"
    assert done.stderr.count("\n") == 1
    assert fault in done.stderr
    about = json.loads((copy / "run" / "run.json").read_text())
    assert about["status"] == "failed"
    assert fault in about["reason"]
    assert not list((copy / "run").rglob("*.partial"))
    for path in (copy / "run").glob("*.jsonl"):
        assert [json.loads(line) for line in path.read_text().splitlines()], path


def test_a_bad_config_through_plain_flwr_run_leaves_a_folder_with_the_reason(tmp_path):
    run_dir = tmp_path / "run"
    overrides = shlex.join(
        ["model=toy", "adapter=toy", "benchmark=toy", "num_rounds=0", f"run_dir={run_dir}"]
    )
    log_file = tmp_path / "log.txt"
    with flower_home() as home, log_file.open("wb", buffering=0) as log:
        tree = ProcessTree(environment(home, ROOT), home)
        superlink = SuperLink(tree, tmp_path / "guarded", home, log.fileno())
        try:
            superlink.start()
            superlink.submit(Job(ROOT, tmp_path, overrides, 1))
            deadline = time.monotonic() + 240
            while not superlink.log_ended() and time.monotonic() < deadline:
                time.sleep(0.2)
            status, _ = superlink.status()
        finally:
            tree.end()
    assert status == "finished:failed"
    about = json.loads((run_dir / "run.json").read_text())
    assert about["status"] == "failed"
    assert about["reason"].startswith("num_rounds=0 must be")
    said = log_file.read_text(errors="replace")
    assert "Traceback" not in said
    assert f"raised an exception: {about['reason']}" in said


@pytest.mark.long
def test_plain_flwr_run_as_the_readme_shows_it_installs_nothing(tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    line = next(line.strip() for line in readme.splitlines() if " flwr run . " in line)
    assert "--run-config" in line
    run_dir = tmp_path / "run"
    toy = f"model=toy adapter=toy benchmark=toy num_rounds=0 run_dir={run_dir}"  # which ends it at once
    command = line.replace("overrides='method=fedreft'", f"overrides='{toy}'")
    with flower_home() as home:
        variables = {
            **os.environ,
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_TMPDIR": str(home),
        }
        variables |= {
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        variables |= {name: str(free_port()) for name in LOCAL_PORTS}
        variables.pop("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", None)
        tree = ProcessTree(variables, ROOT)
        try:
            for _ in range(4):  # Flower gives its SuperLink 15 s to start, which a busy machine can miss
                code, output = tree.call(["bash", "-c", f"{command} --stream"], timeout=240)
                if "Failed to start local SuperLink" not in output:
                    break
            else:
                pytest.skip("this machine is too busy for Flower's own local SuperLink")
            assert code == 0, output
            log = (home / "local-superlink" / "superlink.log").read_text(errors="replace")
        finally:
            tree.end()
        assert "Created env for run in" not in log + output
        assert not (home / "runtime-envs").exists()
    assert json.loads((run_dir / "run.json").read_text())["reason"].startswith("num_rounds=0 must be")
