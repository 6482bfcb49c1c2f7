"""Programs that the Flower engine starts are all found and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedapp.engines.flower.processes import ProcessTree, find_program, listens
from fedapp.engines.flower.superlink import last_json, to_toml

# Starts a grandchild in a session of its own that ignores SIGTERM, says its pid and goes away.
ORPHAN_MAKER = """
import subprocess, sys
code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True{extra})
child.stdout.readline()
print(child.pid, flush=True)
"""


@pytest.mark.parametrize("extra", ["", ", env={}"], ids=["marked", "unmarked"])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans over")
def test_an_orphan_that_refuses_to_go_is_killed_and_leaves_no_zombie(tmp_path, extra):
    tree = ProcessTree(dict(os.environ), tmp_path)
    code, output = tree.call([sys.executable, "-c", ORPHAN_MAKER.replace("{extra}", extra)], timeout=20)
    assert code == 0, output
    orphan = psutil.Process(int(output))
    assert orphan.status() != psutil.STATUS_ZOMBIE
    tree.end(grace=1.0)
    assert not psutil.pid_exists(orphan.pid)


def test_a_bystander_is_left_alone(tmp_path):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        tree = ProcessTree(dict(os.environ), tmp_path)
        own = tree.start([sys.executable, "-c", "import time; time.sleep(60)"], subprocess.DEVNULL)
        assert psutil.Process(own.pid) in tree.members()
        tree.end(grace=2.0)
        assert own.poll() is not None
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_program_that_takes_too_long_is_ended(tmp_path):
    tree = ProcessTree(dict(os.environ), tmp_path)
    begin = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        tree.call([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)
    assert time.monotonic() - begin < 10
    assert tree.members() == []
    tree.end()


def test_programs_run_in_the_folder_given_with_the_environment_given(tmp_path):
    tree = ProcessTree({**os.environ, "COLOUR": "green"}, tmp_path)
    _, output = tree.call([sys.executable, "-c", "import os; print(os.getcwd(), os.environ['COLOUR'])"], 20)
    assert output.split() == [str(tmp_path), "green"]
    tree.end()


def test_a_stranger_on_the_port_is_told_from_our_own():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert listens(psutil.Process(), port)
        assert not listens(psutil.Process(os.getppid()), port)


def test_programs_are_taken_from_this_environment():
    assert Path(find_program("flwr")).parent == Path(sys.executable).parent
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        find_program("no-such-program")


def test_any_override_survives_the_toml_file():
    import tomllib

    awkward = "a='b \"c\"' d\\e ü\n\t\x7f 日本 🌼 #x"
    assert tomllib.loads(to_toml({"overrides": awkward, "n": 3, "yes": True})) == {
        "overrides": awkward,
        "n": 3,
        "yes": True,
    }


def test_the_answer_is_found_behind_other_output():
    assert last_json('Loading\n{not json\n{"success": true}\n') == {"success": True}
    assert last_json("nothing") == {}
