"""A SuperNode that waits less, and processes that are forked instead of started."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedapp.engines.flower.supernode import PROGRAM, Pace, forked_clientapps, sleeps_as_known


def test_a_node_looks_again_after_a_share_of_the_time_it_has_waited():
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(round(seconds, 3))
        now[0] += seconds

    pace = Pace(sleep, lambda: now[0])
    pace.sleep(3)
    assert slept == [0.1]
    now[0] = 20.0
    pace.sleep(3)
    assert slept[-1] == 1.0  # 5 % of 20 s
    now[0] = 1000.0
    pace.sleep(3)
    assert slept[-1] == 3  # never longer than Flower's
    pace.sleep(0.5)  # a message is worked on
    assert slept[-1] == 0.1
    pace.sleep(3)
    assert slept[-1] == 0.1  # and the waiting begins anew


def test_the_installed_flower_waits_in_the_way_that_is_shortened():
    from flwr.supernode import start_client_internal as node

    source = Path(node.__file__).read_text(encoding="utf-8")
    assert sleeps_as_known(source)
    assert not sleeps_as_known(source.replace("time.sleep(3)", "time.sleep(5)"))
    assert not sleeps_as_known(source + "\ntime.monotonic()\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
def test_a_clientapp_is_forked_and_started_as_ever_where_that_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    with forked_clientapps():
        folder = Path(os.environ["PATH"].split(os.pathsep)[0])
        assert folder.stat().st_mode & 0o777 == 0o700
        # what the forked process says arrives where its caller's would, after the caller has ended
        said = tmp_path / "said"
        with said.open("w") as file:
            subprocess.run([PROGRAM, "--help"], stdout=file, cwd=tmp_path, timeout=60, check=True)
            subprocess.run([PROGRAM], stderr=file, timeout=60, check=True)  # nobody waits for its code
        text = _until(lambda: "--token-file is required" in (content := said.read_text()) and content)
        assert text.startswith("usage: flwr-clientapp")
        (folder / "socket").unlink()  # nobody hears
        direct = subprocess.run([PROGRAM], capture_output=True, text=True, timeout=60, check=False)
        assert (direct.returncode, "--token-file is required" in direct.stderr) == (2, True)
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
def test_a_node_that_is_killed_leaves_neither_process_nor_folder(tmp_path):
    source = "from fedapp.engines.flower.supernode import forked_clientapps as f; import time\n"
    source += "with f():\n    print('up', flush=True); time.sleep(99)"
    node = subprocess.Popen(
        [sys.executable, "-c", source],
        env={
            **os.environ,
            "TMPDIR": str(tmp_path),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        stdout=subprocess.PIPE,
    )
    assert node.stdout.readline() == b"up\n"
    (folder,) = tmp_path.glob("fedapp-node-*")
    (child,) = psutil.Process(node.pid).children()
    node.kill()
    node.wait()
    assert _until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert not folder.exists()


def _until(found):
    for _ in range(600):
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("it did not come")
