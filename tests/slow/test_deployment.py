"""Two parties with policies behind a real SuperLink: what each lets in and out."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml

from fedapp.core.files import POLICY_VARIABLE, ROOT
from fedapp.engines.flower.home import flower_home
from fedapp.engines.flower.processes import ProcessTree, find_program
from fedapp.engines.flower.superlink import environment
from tests.federation import run_toy

pytestmark = pytest.mark.slow
SECRET = "a-patients-name"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def data(folder, rows):
    task = folder / "words"
    task.mkdir(parents=True)
    for split in ("train", "test"):
        text = "".join(json.dumps({"prompt": f"say {i}", "target": target}) + "\n" for i, target in rows)
        (task / f"{split}.jsonl").write_text(text)


@contextmanager
def federation(tmp_path, policies, *supernode):
    """A SuperLink and a SuperNode for each policy; yields what runs an app there until it has ended."""
    supernode = supernode or (find_program("flower-supernode"),)
    with flower_home() as home, (tmp_path / "log.txt").open("wb", buffering=0) as log:
        variables = {k: v for k, v in environment(home, ROOT).items() if k != POLICY_VARIABLE}
        variables |= {"XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
        tree = ProcessTree(variables, home)
        port = free_port()
        (home / "config.toml").write_text(
            f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        link = [find_program("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        tree.start([*link, "--disable-runtime-dependency-installation"], log.fileno())
        time.sleep(5)
        for number, policy in enumerate(policies):
            said = f"partition-id={number} num-partitions={len(policies)}"
            said += f" policy='{policy}'" if policy else ""
            node = [*supernode, "--insecure", "--superlink", f"127.0.0.1:{port}"]
            tree.start([*node, "--port", str(free_port()), "--node-config", said], log.fileno())

        def run(*words):
            overrides = shlex.join(["model=toy", "adapter=toy", "num_rounds=1", "join_timeout=90", *words])
            command = [find_program("flwr"), "run", str(ROOT), "here", "--stream"]
            command += ["--run-config", f"overrides={json.dumps(overrides)}"]
            subprocess.run(
                command, env=variables, cwd=tmp_path, capture_output=True, timeout=200, check=False
            )
            folder = Path(next(word for word in words if word.startswith("run_dir=")).partition("=")[2])
            return json.loads((folder / "run.json").read_text())

        try:
            yield run
        finally:
            tree.end()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="ends what it starts by Linux' means")
def test_parties_read_their_own_folders_and_let_out_what_they_list(tmp_path):
    policies = []
    for name in ("north", "south"):
        data(tmp_path / name / "data", [(i, SECRET) for i in range(20)])
        file = tmp_path / f"{name}.yaml"
        folders = {key: str(tmp_path / name / key) for key in ("data", "output", "log")}
        file.write_text(yaml.safe_dump({**folders, "share": {"scores": name == "north"}}))
        policies.append(file)
    own = ["benchmark=own", "partitioner=private", "num_clients=2"]
    with federation(tmp_path, policies) as run:
        about = run(*own, f"run_dir={tmp_path / 'run'}")
        assert about["status"] == "completed", about
        probed = run(*own, "benchmark.labels=[x,y]", f"run_dir={tmp_path / 'labels'}")
    for number, name in enumerate(("north", "south")):
        kept = tmp_path / name / "output" / f"client-{number}" / "adapter.safetensors"
        assert kept.is_file()
    clients = {
        json.loads(line)["client-id"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        if json.loads(line)["split"] == "test"
    }
    assert clients == {0}  # the south keeps its scores
    assert probed["status"] == "failed"
    assert "label" in probed["reason"]
    for file in (tmp_path / "labels").rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file
    log = [json.loads(line) for line in (tmp_path / "north" / "log").read_text().splitlines()]
    assert {entry["outcome"] for entry in log} == {"answered", "failed"}
    assert any(SECRET in entry.get("reason", "") for entry in log)  # the owner learns what it was
    assert not any(SECRET in json.dumps(entry["left"]) for entry in log)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="workers stay on Linux alone")
def test_workers_that_stay_give_the_bits_of_one_process_and_end_with_their_nodes(tmp_path):
    words = ["benchmark=toy", "method=fedreft", "num_clients=2", "num_rounds=2"]
    folders = [tmp_path / "kept" / str(number) for number in range(2)]
    policies = []
    for number, folder in enumerate(folders):
        policies.append(tmp_path / f"{number}.yaml")
        policies[-1].write_text(
            yaml.safe_dump({"output": str(folder), "log": str(tmp_path / f"log-{number}")})
        )
    quick = (sys.executable, "-m", "fedapp.engines.flower.supernode")
    with federation(tmp_path, policies, *quick) as run:
        assert run(*words, f"run_dir={tmp_path / 'run'}")["status"] == "completed"
        started = workers(tmp_path)
        assert len(started) == 2  # one a party, for joining, both rounds and the last scores
    assert not [worker for worker in started if worker.is_running()]
    local = run_toy(tmp_path / "local", *words, num_nodes=2).adapters()
    for number, folder in enumerate(folders):
        kept = folder / f"client-{number}" / "adapter.safetensors"
        assert kept.read_bytes() == local[f"client-{number}"]


def workers(tmp_path):
    """Resident workers of this test's parties."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            ours = process.environ().get("XDG_STATE_HOME") == str(tmp_path / "state")
            if ours and "fedapp.client.resident.worker" in process.cmdline():
                found.append(process)
    return found
