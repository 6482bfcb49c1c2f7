"""``fedapp run engine=flwr``: a real SuperLink and Ray; true exit codes and nothing left behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from fedapp.engines.flower.processes import _adopt_orphans

pytestmark = pytest.mark.slow

TOY_CLI = Path(__file__).parent.parent / "engines" / "toy_cli.py"
LONGEST_RUN = 300


class Toy:
    """Runs of the toy app in folders below one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(TOY_CLI), str(self.folder), "run", "engine=flwr", *words]
        # Whoever starts the tests in the background may have them ignore SIGINT, and children inherit that.
        heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        finally:
            signal.signal(signal.SIGINT, heeded)

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        output, complaint = process.communicate(timeout=LONGEST_RUN)
        return process.returncode, output, complaint

    def run_dirs(self) -> list[Path]:
        return sorted((self.folder / "runs").iterdir())

    def homes(self) -> list[Path]:
        """Flower homes that the runs had, out of their logs."""
        logs = "".join(path.read_text() for path in self.folder.glob("runs/*/log.txt"))
        return [Path(home) for home in set(re.findall(r"to (\S+/fedapp-[0-9a-f]{8})/apps", logs))]

    def processes(self) -> list[psutil.Process]:
        """Live and dead processes that belong to the runs: by environment, or by a path they name."""
        marks = [str(home) for home in self.homes()]
        found = []
        for process in psutil.process_iter():
            try:
                source = process.environ().get("FEDAPP_SOURCE") == str(self.folder / "app")
                named = any(mark in word for word in process.cmdline() for mark in marks)
            except psutil.Error:
                continue
            if source or named:
                found.append(process)
        return found


@pytest.fixture
def toy(tmp_path):
    toy = Toy(tmp_path)
    before = _children()
    _adopt_orphans(True)  # On Linux, whatever a run leaves, dead or alive, becomes a child of ours.
    yield toy
    _adopt_orphans(False)
    assert [home for home in toy.homes() if home.exists()] == []
    assert toy.processes() == []
    assert _children() - before == set()


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def test_a_complete_run_has_status_0_and_a_whole_log(toy):
    code, output, complaint = toy.run()
    assert (code, complaint) == (0, "")
    (run_dir,) = toy.run_dirs()
    assert "round 2/2" in output
    assert output.endswith(f"run folder: {run_dir}\n")
    assert "hello from the server app" in (run_dir / "log.txt").read_text()
    assert toy.homes()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", "the server app fell over"),
        pytest.param("exit", "the server app ended before the run was complete", marks=pytest.mark.long),
        ("clients", "round 1: there is no data here"),
    ],
)
def test_a_failed_run_has_status_1_and_says_why(toy, fault, reason):
    code, _, complaint = toy.run(f"fault={fault}")
    (run_dir,) = toy.run_dirs()
    assert (code, complaint) == (1, f"fedapp: error: {reason} (log: {run_dir / 'log.txt'})\n")


@pytest.mark.long
def test_a_client_app_that_cannot_be_imported_has_status_1(toy):
    broken = "import not_there\nfrom flwr.clientapp import ClientApp\napp = ClientApp()\n"
    assert _after_setup(toy, lambda app: (app / "client_app.py").write_text(broken)) == 0
    code, _, complaint = toy.run()
    assert code == 1
    assert "the app cannot be imported: No module named 'not_there'" in complaint


def test_an_app_that_flower_refuses_has_status_1(toy):
    assert _after_setup(toy, lambda app: (app / "client_app.py").write_text("app = ")) == 0
    code, _, complaint = toy.run()
    assert code == 1
    assert complaint.startswith("fedapp: error: flwr run failed: ")
    assert complaint.count("\n") == 1


def _after_setup(toy: Toy, change: Callable[[Path], object]) -> int:
    """Let the toy command line make its app, then change it."""
    done = subprocess.run(
        [sys.executable, str(TOY_CLI), str(toy.folder), "list"], check=False, capture_output=True
    )
    change(toy.folder / "app")
    return done.returncode


@pytest.mark.long
def test_two_runs_at_once_do_not_meet(toy):
    processes = [toy.start("seed=1"), toy.start("seed=2")]
    outcomes = [process.communicate(timeout=LONGEST_RUN) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outcomes
    starts = [json.loads((path / "events.jsonl").read_text().splitlines()[0]) for path in toy.run_dirs()]
    assert len(starts) == 2
    assert set(starts[0]["nodes"]).isdisjoint(starts[1]["nodes"])
    assert len(toy.homes()) == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_stopped_and_keeps_its_folder(toy, number, status):
    process = toy.start("fault=sleep")
    wait_for(lambda: any(toy.folder.glob("runs/*/events.jsonl")))
    process.send_signal(number)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (status, "fedapp: error: interrupted\n")
    (run_dir,) = toy.run_dirs()
    reason = f"interrupted by {number.name}"
    about = json.loads((run_dir / "run.json").read_text())
    assert (about["status"], about["reason"]) == ("failed", reason)
    assert json.loads((run_dir / "events.jsonl").read_text().splitlines()[-1])["message"] == reason
    assert (run_dir / "log.txt").read_text().endswith(f"fedapp: the run failed: {reason}\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans over")
def test_if_the_command_is_killed_all_it_started_goes_and_the_run_has_died(tmp_path):
    toy = Toy(tmp_path)
    process = toy.start("fault=sleep")
    wait_for(lambda: any(tmp_path.glob("runs/*/events.jsonl")))
    wait_for(lambda: len(toy.processes()) > 7)  # guardian, SuperLink and its helpers, Ray
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not toy.processes(), seconds=20)
    (run_dir,) = toy.run_dirs()
    about = json.loads((run_dir / "run.json").read_text())
    assert (about["status"], about["reason"]) == ("died", f"fedapp run (process {process.pid}) was killed")
    assert not any(home.exists() for home in toy.homes())
    assert not list(run_dir.rglob("*.partial"))
    done = subprocess.run(
        [sys.executable, "-m", "fedapp", "compare", str(run_dir)], capture_output=True, text=True
    )
    assert f"{run_dir} is left out: the run died, {about['reason']}" in done.stderr


def test_both_engines_end_with_the_same_adapters_to_the_last_bit(tmp_path):
    adapters = {}
    for engine in ("local", "flwr"):
        settings = ["model=toy", "adapter=toy", "benchmark=toy", "num_rounds=2", f"engine={engine}"]
        command = [sys.executable, "-m", "fedapp", "run", *settings, f"run_dir={tmp_path / engine}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_RUN, check=False)
        assert done.returncode == 0, done.stderr
        files = sorted((tmp_path / engine / "adapters").rglob("*.safetensors"))
        adapters[engine] = {str(file.relative_to(tmp_path / engine)): file.read_bytes() for file in files}
    assert len(adapters["local"]) >= 4
    assert adapters["local"] == adapters["flwr"]
