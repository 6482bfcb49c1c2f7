"""A SuperLink of our own, and the ``flwr`` commands that talk to it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from fedapp.core.errors import one_line
from fedapp.core.files import OPEN, POLICY_VARIABLE
from fedapp.engines.events import POLL_SECONDS
from fedapp.engines.flower.processes import ProcessTree, find_program, listens
from fedapp.engines.guardian import guarded
from fedapp.engines.job import Job, RunFailed

CONNECTION = "fedapp"
COMMAND_TIMEOUT = 120.0


class SuperLink:
    """A SuperLink of our own and the one run that it serves.

    Args:
        tree: Starts and ends the processes.
        run_dir: The run folder, to be closed should this process be killed.
        home: Flower home of this run, a short path.
        log: File descriptor that takes everything printed.
    """

    def __init__(self, tree: ProcessTree, run_dir: Path, home: Path, log: int) -> None:
        self.tree = tree
        self.run_dir = run_dir
        self.home = home
        self.log = log
        self.port = 0
        self.run_id: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_stream: subprocess.Popen[bytes] | None = None

    def start(self, attempts: int = 5) -> None:
        """Start on a free port; another one if somebody takes it in between.

        Raises:
            RunFailed: If the SuperLink does not start.
        """
        for _ in range(attempts):
            self.port = _free_port()
            command = [
                find_program("flower-superlink"),
                *("--insecure", "--simulation", "--isolation", "subprocess"),
                *("--host", "127.0.0.1", "--port", str(self.port)),
                "--disable-runtime-dependency-installation",
            ]
            # All that a run starts descends from its SuperLink, and that from the guardian.
            self._process = self.tree.start(
                guarded(self.run_dir, self.home, command), self.log, die_with_us=False
            )
            if self._wait_until_listening():
                address = f'address = "127.0.0.1:{self.port}"\ninsecure = true\n'
                config = f'[superlink]\ndefault = "{CONNECTION}"\n[superlink.{CONNECTION}]\n{address}'
                (self.home / "config.toml").write_text(config)
                return
        raise RunFailed("Flower's SuperLink does not start")

    def submit(self, job: Job) -> None:
        """Hand the app to the SuperLink and start to keep its log.

        Raises:
            RunFailed: If Flower refuses the app; with its reason.
        """
        run_config = self.home / "run-config.toml"
        run_config.write_text(to_toml(job.run_config), encoding="utf-8")
        resources = {
            "num-supernodes": job.num_clients,
            "client-resources-num-cpus": job.num_cpus_per_client,
            "client-resources-num-gpus": float(job.num_gpus_per_client),
        }
        answer = self._flwr(
            *("run", str(job.app_dir), CONNECTION, "--run-config", str(run_config)),
            *("--federation-config", " ".join(f"{key}={value}" for key, value in resources.items())),
        )
        self.run_id = str(answer["run-id"])
        self._log_stream = self.tree.start(
            [find_program("flwr"), "log", self.run_id, CONNECTION, "--stream"], self.log
        )

    def status(self) -> tuple[str, str]:
        """Flower's status of the run (``finished:failed``) and its details."""
        answer = self._flwr("ls", CONNECTION, "--run-id", str(self.run_id))
        run = answer["runs"][0]
        return str(run["status"]), str(run["status-details"])

    def stop_run(self) -> None:
        """Ask Flower to stop a run that is not over; what it started is ended in any case."""
        if self.run_id is None or self.log_ended() or not self.is_alive():
            return
        with suppress(RunFailed, subprocess.TimeoutExpired):
            self._flwr("stop", self.run_id, CONNECTION, timeout=15.0)

    def is_alive(self) -> bool:
        """Whether the SuperLink runs."""
        return self._process is not None and self._process.poll() is None

    def log_ended(self) -> bool:
        """Whether the run's log is complete (or its stream broke)."""
        return self._log_stream is not None and self._log_stream.poll() is not None

    def _flwr(self, *arguments: str, timeout: float = COMMAND_TIMEOUT) -> Mapping[str, Any]:
        """Run a ``flwr`` command; return its JSON answer."""
        try:
            code, output = self.tree.call([find_program("flwr"), *arguments, "--format", "json"], timeout)
        except subprocess.TimeoutExpired:
            raise RunFailed(f"flwr {arguments[0]} did not answer within {timeout:g} s") from None
        with suppress(OSError):  # The log may have no room any more.
            os.write(self.log, f"$ flwr {arguments[0]}\n{output}\n".encode())
        answer = last_json(output)
        if code != 0 or not answer.get("success"):
            reason = answer.get("error-message") or output or f"exit code {code}"
            raise RunFailed(f"flwr {arguments[0]} failed: {one_line(str(reason))}")
        return answer

    def _wait_until_listening(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + COMMAND_TIMEOUT
        while self.is_alive() and time.monotonic() < deadline:
            with suppress(psutil.Error):
                started = psutil.Process(self._process.pid)
                if any(listens(one, self.port) for one in (started, *started.children())):
                    return True
            time.sleep(POLL_SECONDS)
        return False


def to_toml(values: Mapping[str, str | int | float | bool]) -> str:
    """Write flat values as TOML, where JSON's notation of scalars is valid."""
    # But no surrogate pairs, which JSON escapes into, and one control character more to escape.
    scalars = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    return "".join(f"{key} = {scalar}\n" for key, scalar in scalars.items()).replace("\x7f", "\\u007f")


def environment(home: Path, app_dir: Path) -> dict[str, str]:
    """Environment of everything that a run starts.

    Args:
        home: Flower home of this run and temporary folder of its Ray.
        app_dir: Where the app was bundled from; apps find it as ``FEDAPP_SOURCE``.
    """
    # RAY_ADDRESS would lead to a Ray that somebody else runs.
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return environment | {
        "FEDAPP_SOURCE": str(app_dir),
        POLICY_VARIABLE: os.environ.get(POLICY_VARIABLE) or OPEN,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PYTHONUNBUFFERED": "1",
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        # The SuperLink finds its helpers by name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_json(output: str) -> dict[str, Any]:
    """The JSON object at the end of what a command printed, empty if there is none."""
    for start in (match.start() for match in re.finditer(r"^\s*\{", output, re.MULTILINE)):
        with suppress(ValueError):
            answer = json.loads(output[start:])
            if isinstance(answer, dict):
                return answer
    return {}
