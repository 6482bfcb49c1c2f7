"""Whatever kills the command of a run: what it started ends, and the run folder says so."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fedapp.core.status import write_status
from fedapp.engines.guardian import guarded

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans over")

# A command with a guardian; the argument is what the guardian starts, nothing for none.
COMMAND = """
import subprocess, sys
from pathlib import Path
from fedapp.core.status import holding
from fedapp.engines.guardian import guarded
folder, home, *command = sys.argv[1:]
with holding(Path(folder)):
    guardian = subprocess.Popen(guarded(Path(folder), Path(home), command), start_new_session=True)
    print(guardian.pid, flush=True)
    guardian.wait()
    print(guardian.returncode, flush=True)
"""

# Three generations: the middle one goes, the last has a session and an environment of its own and
# heeds no signal.
FAMILY = """
import subprocess, sys, time
last = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(100)"
middle = f'''
import subprocess, sys
null = subprocess.DEVNULL
words = [sys.executable, "-c", {last!r}]
print(subprocess.Popen(words, env={{}}, start_new_session=True, stdout=null, stderr=null).pid)
'''
done = subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True)
open(sys.argv[1], "w").write(done.stdout)
time.sleep(100)
"""


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    (folder / "run").mkdir()
    (folder / "home").mkdir()
    write_status(folder / "run", {"status": "running", "reason": "", "seed": 7})
    words = [sys.executable, "-c", COMMAND, str(folder / "run"), str(folder / "home"), *command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@linux
def test_when_the_command_is_killed_no_descendant_stays_and_the_run_has_died(tmp_path):
    said = tmp_path / "last"
    process = start(tmp_path, sys.executable, "-c", FAMILY, str(said))
    assert process.stdout is not None
    guardian = psutil.Process(int(process.stdout.readline()))
    wait_for(lambda: said.exists() and said.read_text().strip())
    family = [guardian, *guardian.children(recursive=True)]
    assert psutil.Process(int(said.read_text())) in family  # adopted
    (tmp_path / "run" / "config.yaml.partial").write_text("half")
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    reason = f"fedapp run (process {process.pid}) was killed"
    assert (about["status"], about["reason"], about["seed"]) == ("died", reason, 7)
    end = json.loads((tmp_path / "run" / "events.jsonl").read_text())
    assert (end["event"], end["status"], end["message"]) == ("end", "died", reason)
    assert (tmp_path / "run" / "log.txt").read_text() == f"fedapp: the run died: {reason}\n"
    assert not (tmp_path / "home").exists()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "events.jsonl",
        "log.txt",
        "run.json",
    ]


@linux
def test_the_kill_of_one_command_leaves_another_alone(tmp_path):
    processes, guardians = [], []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        processes.append(start(tmp_path / name, sys.executable, "-c", "import time; time.sleep(100)"))
        guardians.append(psutil.Process(int(processes[-1].stdout.readline())))
    wait_for(lambda: all(guardian.children() for guardian in guardians))
    (other,) = guardians[1].children()
    processes[0].kill()
    guardians[0].wait(timeout=20)
    assert other.is_running()
    assert other.status() != psutil.STATUS_ZOMBIE
    assert json.loads((tmp_path / "two" / "run" / "run.json").read_text())["status"] == "running"
    guardians[1].send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate(timeout=20)


@pytest.mark.parametrize(("code", "status"), [("0", 0), ("7", 7)])
def test_the_guardian_ends_with_its_command_and_its_exit_code(tmp_path, code, status):
    process = start(tmp_path, sys.executable, "-c", f"raise SystemExit({code})")
    output, _ = process.communicate(timeout=20)
    assert int(output.splitlines()[1]) == status
    assert (
        json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "running"
    )  # the command's to say


def test_a_guardian_that_is_asked_to_end_asks_its_command(tmp_path):
    ready = tmp_path / "ready"
    code = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(5))\n"
        "open(sys.argv[1], 'w'); time.sleep(100)"
    )
    process = start(tmp_path, sys.executable, "-c", code, str(ready))
    assert process.stdout is not None
    guardian = psutil.Process(int(process.stdout.readline()))
    wait_for(ready.exists)
    guardian.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=20)
    assert output.split() == ["5"]
    assert (tmp_path / "home").exists()


def test_a_command_that_cannot_be_started_is_named(tmp_path):
    words = guarded(tmp_path, None, [str(tmp_path / "not-there")])
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "not-there cannot be started" in done.stderr


def test_a_run_in_process_that_is_killed_has_died(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from fedapp.engines import local; from fedapp.engines.job import Job\n"
        "local._run = lambda job: os.kill(os.getpid(), signal.SIGKILL)\n"
        "local.run_in_process(Job(Path('.'), Path(sys.argv[1]), '', 1), print)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: '"died"' in (tmp_path / "run.json").read_text())
    wait_for(lambda: "died" in (tmp_path / "log.txt").read_text())
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[-1])["status"] == "died"


def test_the_start_does_not_wait_for_the_guardian(tmp_path):
    from fedapp.engines.guardian import closed_if_killed

    taken = []
    for _ in range(3):
        begin = time.monotonic()
        with closed_if_killed(tmp_path):
            taken.append(time.monotonic() - begin)
    assert min(taken) < 0.05
    assert list(tmp_path.iterdir()) == []
