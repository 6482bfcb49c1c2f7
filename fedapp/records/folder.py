"""The run folder: everything that a run leaves behind, below one absolute path.

config.yaml      the composed config
run.json         versions, git commit, seed, base model's fingerprint, status, times
events.jsonl     what happened, as it happened (progress displays read it)
metrics.jsonl    one row per round, client, split and model
traffic.jsonl    one row per message: payload bytes and wire bytes
consensus.jsonl  one row per round, where clients vote: what they agreed on
summary.json     what the run comes to, in numbers; the command line prints them as a table
adapters/        client-<id>/ and shared/: adapter.safetensors and adapter.json; with save_predictions a
                 client's predictions.jsonl
log.txt          Flower's log (written by the command line)
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import yaml

from fedapp import __version__
from fedapp.config.build import about
from fedapp.config.composed import Composed
from fedapp.config.run import folder_setting
from fedapp.core.errors import reason_of
from fedapp.core.files import ROOT, write_atomically
from fedapp.core.types import JUDGED, Arrays
from fedapp.records.adapter_file import write_adapter
from fedapp.records.rows import ScoreRow, TrafficRow
from fedapp.records.summary import hostile_clients, summarise
from fedapp.records.table import name_clients
from fedapp.server.directory import ClientDirectory
from fedapp.server.replies import Reply
from fedapp.wire.messages import Done

PACKAGES = ("flwr", "torch", "transformers", "peft", "pyreft", "pyvene", "datasets", "flwr-datasets", "numpy")


class RunFolder:
    """Writes a run's folder; the observer of a strategy, and a context manager around the run."""

    def __init__(self, path: Path, config: Composed) -> None:
        """Open the files of an existing, empty folder; use ``create``."""
        self.path = path
        self.config = config
        self.fingerprint: str | None = None
        self._files: dict[str, TextIO] = {}
        self._started = time.time()
        self._warnings: list[str] = []
        self._rows: list[ScoreRow] = []
        self._about: dict[int, dict[str, Any]] = {}
        self._traffic: list[TrafficRow] = []

    @classmethod
    def create(cls, config: Composed) -> RunFolder:
        """Make the folder that ``config["run_dir"]`` names, or a new one below ``runs_dir``.

        Raises:
            ValueError: If the folder already holds a run, or the setting names none.
        """
        if config["run_dir"] is not None:
            path = folder_setting(config, "run_dir")
        else:
            path = folder_setting(config, "runs_dir") / time.strftime("%Y%m%d-%H%M%S")
        if (path / "run.json").exists():
            raise ValueError(f"run_dir={path} already holds a run; name another folder")
        path.mkdir(parents=True, exist_ok=True)
        config = config.in_folder(path)
        write_atomically(path / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))
        folder = cls(path, config)
        folder._describe("running")
        return folder

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "completed" if error is None else "failed"
        reason = "" if error is None else reason_of(error)
        self._describe(status, reason)
        self.event("end", status=status, message=reason)
        for file in self._files.values():
            file.close()

    def started(self, directory: ClientDirectory) -> None:
        """All clients are there and the first round begins."""
        self.fingerprint = directory.fingerprint(0)
        self._describe("running")
        hostile = hostile_clients(self.config)
        if hostile:
            self.warning(
                f"{name_clients(hostile)} made hostile (hostile={about(self.config['hostile'], 'name')}, "
                f"{self.config['hostile']['_target_']}): an experiment on robustness, "
                "their scores are in no mean"
            )
        method, benchmark = (about(self.config[group], "name") for group in ("method", "benchmark"))
        self.event(
            "start",
            **{"num-rounds": self.config["num_rounds"], "clients": sorted(directory.nodes)},
            method=method,
            benchmark=benchmark,
        )

    def finish(self, shared: Arrays, fingerprint: str) -> None:
        """All rounds are done: keep the shared adapter and the summary."""
        if shared and self.config["save_adapters"]:
            write_adapter(self.path / "adapters" / "shared", shared, self.config, fingerprint)
        summary = summarise(self._rows, self._about, self._traffic, hostile_clients(self.config))
        for text in summary.warnings():
            self.warning(text)
        write_atomically(self.path / "summary.json", json.dumps(summary.to_json(), indent=1))

    def event(self, event: str, **facts: Any) -> None:
        """Append to events.jsonl."""
        self._append("events", {"event": event, "time": round(time.time() - self._started, 3), **facts})

    def warning(self, message: str) -> None:
        """A warning belongs to the results: the log, the events and run.json hold it."""
        print(f"WARNING: {message}", file=sys.stderr, flush=True)
        self._warnings.append(message)
        self.event("warning", message=message)

    def reply(self, phase: str, done: Done) -> None:
        """A client has answered; for progress displays."""
        names = {"server-round": done.server_round, "client-id": done.client_id}
        self.event("reply", **names, phase=phase, loss=done.metrics.get("train-loss"), seconds=done.seconds)

    def traffic(self, row: Mapping[str, Any]) -> None:
        """Append to traffic.jsonl."""
        self._traffic.append(TrafficRow.from_json(row))
        self._append("traffic", self._traffic[-1].to_json())

    def record(self, name: str, row: Mapping[str, Any]) -> None:
        """Append to a method's own <name>.jsonl."""
        self._append(name, row)

    def round_done(self, server_round: int, phase: str, replies: Sequence[Reply]) -> None:
        """Append a round's scores to metrics.jsonl."""
        for reply in replies:
            client = reply.upload.client_id
            self._about.setdefault(client, reply.sizes.facts())
            for row in reply.rows:
                about = (row.split, row.model, row.moment, row.num_examples, row.scores)
                self._rows.append(ScoreRow(server_round, client, *about))
                self._append("metrics", self._rows[-1].to_json())
            model = "own" if phase == "train" else reply.rows[0].model if reply.rows else "final"
            if metrics := reply.upload.metrics:
                measured = ScoreRow(
                    server_round, client, "train", model, "after", reply.upload.num_examples, metrics
                )
                self._append("metrics", measured.to_json())
        hostile = hostile_clients(self.config)
        honest = [row for row in self._rows if row.client_id not in hostile]
        means = _mean_of_last(honest, server_round)
        self.event("round", **{"server-round": server_round}, phase=phase, metrics=means)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if name not in self._files:
            self._files[name] = (self.path / f"{name}.jsonl").open("a", encoding="utf-8")
        # Two processes read along: a line is written at once and whole.
        self._files[name].write(json.dumps(row) + "\n")
        self._files[name].flush()

    def _describe(self, status: str, reason: str = "") -> None:
        facts = {
            "status": status,
            "reason": reason,
            "seed": self.config["seed"],
            "base-fingerprint": self.fingerprint,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self._started)),
            "seconds": round(time.time() - self._started, 3),
            "warnings": self._warnings,
            "git-sha": _git_sha(),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
            "versions": {"fedapp": __version__} | {name: _version(name) for name in PACKAGES},
        }
        write_atomically(self.path / "run.json", json.dumps(facts, indent=1))


def _mean_of_last(rows: Sequence[ScoreRow], server_round: int) -> dict[str, float]:
    """Mean over clients of the round's newest test scores, for progress displays."""
    newest: dict[int, Mapping[str, float]] = {}
    for row in rows:
        if row.server_round == server_round and row.split == "test" and row.model != "base":
            newest[row.client_id] = row.metrics
    names = (
        sorted(set.intersection(*(set(metrics) for metrics in newest.values())) - set(JUDGED))
        if newest
        else []
    )
    return {f"test-{name}": sum(metrics[name] for metrics in newest.values()) / len(newest) for name in names}


def _git_sha() -> str | None:
    # Under Flower the app runs from a bundle; the engine says which checkout it was made of.
    source = os.environ.get("FEDAPP_SOURCE") or str(ROOT)
    command = ["git", "-C", source, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
