"""The run folder: everything that a run leaves behind, below one absolute path.

config.yaml      the composed config
run.json         versions, git commit, seed, base model's fingerprint, status, times
events.jsonl     what happened, as it happened (progress displays read it)
metrics.jsonl    one row per round, client, split and model
traffic.jsonl    one row per message: payload bytes and wire bytes
consensus.jsonl  one row per round, where clients vote: what they agreed on
coefficients.jsonl  one row per round of IFed-ICL: the coefficients of injection by layer
summary.json     what the run comes to, in numbers; the command line prints them as a table
adapters/        client-<id>/ and shared/: adapter.safetensors and adapter.json; with save_predictions a
                 client's predictions.jsonl
checkpoints/     what the run can go on from: server/, and in a simulation client-<id>/
log.txt          Flower's log (written by the command line)
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from fedapp.config.build import ConfigError, about
from fedapp.config.composed import Composed
from fedapp.config.run import folder_setting
from fedapp.core.errors import printable, reason_of
from fedapp.core.files import LineFile, WriteError, write_atomically, writing
from fedapp.core.payload import State
from fedapp.core.status import COMPLETED, FAILED, RUNNING, TIME, holding, holds_run, write_status
from fedapp.core.types import Arrays
from fedapp.models.processor import describe_choices
from fedapp.records.adapter_file import write_adapter
from fedapp.records.checkpoints import best
from fedapp.records.checkpoints.run import checkpoints_of, lengths, rows_of
from fedapp.records.machine import describe_machine
from fedapp.records.rows import ScoreRow, Spent, Told, TrafficRow
from fedapp.records.summary import hostile_clients, summarise
from fedapp.records.table import name_clients
from fedapp.records.trackers.tracker import Tracking, build_tracker
from fedapp.server.directory import ClientDirectory
from fedapp.server.replies import Reply
from fedapp.wire.messages import Done


class RunFolder:
    """Writes a run's folder; the observer of a strategy, and a context manager around the run."""

    def __init__(self, path: Path, config: Composed, overrides: Sequence[str] = ()) -> None:
        """Open the files of an existing, empty folder; use ``create``, or ``checkpoints.opening``."""
        self.path = path
        self.key = secrets.token_hex(8) if config["checkpoints"] else ""
        self.resumed: State | None = None
        self._checkpoints = checkpoints_of(path)
        self.overrides = list(overrides)
        self.config = config
        self.fingerprint: str | None = None
        self._files: dict[str, LineFile] = {}
        self._hold = ExitStack()
        self._machine = describe_machine()
        self._auto = describe_choices(config["model"])
        self._started = time.time()
        self._warnings: list[str] = []
        self._told = Told()
        self._stopped = ""
        self._tracking = Tracking(build_tracker(config), self.warning)

    @classmethod
    def create(cls, config: Composed, overrides: Sequence[str] = ()) -> RunFolder:
        """Make the folder that ``config["run_dir"]`` names, or a new one below ``runs_dir``.

        Args:
            config: Of the run.
            overrides: What it was composed with.

        Raises:
            ConfigError: If the folder already holds a run, the setting names none, or the tracker's package
                is missing.
            WriteError: If it cannot be written to.
        """
        if config["run_dir"] is not None:
            path = folder_setting(config, "run_dir")
        else:
            path = folder_setting(config, "runs_dir") / time.strftime("%Y%m%d-%H%M%S")
        if holds_run(path):
            raise ConfigError(f"run_dir={path} already holds a run; name another folder")
        folder = cls(path, config.in_folder(path), overrides)
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        folder.begin()
        return folder

    def begin(self) -> None:
        """Hold the folder, and write what is known of the run.

        Raises:
            WriteError: If it cannot be written to.
        """
        with ExitStack() as hold:
            hold.enter_context(holding(self.path))
            # First of all: what is said last on a full disk takes this file's place.
            self._describe(RUNNING)
            tree = self.config.to_dict()
            write_atomically(self.path / "config.yaml", yaml.safe_dump(tree, sort_keys=False))
            self._hold = hold.pop_all()
        self._tracking.begin(self.path, tree)

    def take_over(self, kept: State) -> None:
        """Go on with what was known of the run when it was kept."""
        self.resumed, facts = kept.part("run"), kept.facts
        self.key = facts["key"] if self.key else ""
        self._started = time.time() - facts["seconds"]
        self._warnings = list(facts["warnings"])
        self._told = Told.of(facts["told"], rows_of(self.path, "metrics"), rows_of(self.path, "traffic"))

    def rounds_to_keep(self, server_round: int, final: bool) -> Sequence[int]:
        """After which rounds adapters are kept beside the final ones."""
        if not self.config["save_adapters"]:
            return ()
        validated = "validation" in self.config["score"]["splits"]
        rows, every = self._told.of_honest(hostile_clients(self.config)), self.config.run.keep_adapters_every
        return best.rounds_to_keep(rows, every, server_round, validated=validated, final=final)

    def evaluated(self, server_round: int, shared: Callable[[], Arrays]) -> bool:
        """Keep the shared adapter where this round's is kept; say whether the run's patience is over."""
        folder, keep = self.path / "adapters" / "shared", self.rounds_to_keep(server_round, False)
        if server_round in keep and (arrays := shared()):
            kept = best.round_folder(folder, server_round)
            write_adapter(kept, arrays, self.config, self.fingerprint or "")
        best.prune_rounds(folder, keep)
        rows, run = self._told.of_honest(hostile_clients(self.config)), self.config.run
        self._stopped = best.why_to_stop(rows, run.patience, f"{server_round} of {run.num_rounds}")
        if not self._stopped:
            return False
        self.event("stop", message=self._stopped)
        return True

    def keep(self, state: State) -> None:
        """Keep what the server knows, and how far the files of this folder are, to go on from."""
        if not self.key:
            return
        facts = {
            "round": state.facts["round"],
            "key": self.key,
            "config": self.config.to_dict(),
            "overrides": self.overrides,
            "files": lengths(self.path),
            "seconds": time.time() - self._started,
            "warnings": self._warnings,
            "told": self._told.facts(),
        }
        counted = [self.path / name for name in lengths(self.path)]
        self._checkpoints.write(state.facts["round"], State.of({"run": state}, **facts), counted)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status, reason = (COMPLETED, self._stopped) if error is None else (FAILED, reason_of(error))
        with self._hold:
            try:
                self._tracking.end(status == COMPLETED)
                self.event("end", status=status, message=reason)
            except WriteError as full:
                if error is None:
                    self._end(FAILED, reason_of(full))
                    raise
            self._end(status, reason)

    def _end(self, status: str, reason: str) -> None:
        """The last word; where even that cannot be written, what ended the run is not to be hidden by it."""
        try:
            self._describe(status, reason)
        except WriteError as error:
            if status == COMPLETED:
                raise
            print(f"WARNING: {error}", file=sys.stderr, flush=True)
        finally:
            for file in self._files.values():
                file.close()

    def started(self, directory: ClientDirectory) -> None:
        """All clients are there and the first round begins."""
        self.fingerprint = directory.fingerprint(0)
        self._describe(RUNNING)
        hostile = hostile_clients(self.config)
        if hostile and self.resumed is None:
            self.warning(
                f"{name_clients(hostile)} made hostile (hostile={about(self.config['hostile'], 'name')}, "
                f"{self.config['hostile']['_target_']}): an experiment on robustness, "
                "their scores are in no mean"
            )
        method, benchmark = (about(self.config[group], "name") for group in ("method", "benchmark"))
        self.event(
            "start",
            **{"num-rounds": self.config["num_rounds"], "clients": sorted(directory.nodes)},
            **({} if self.resumed is None else {"after-round": self.resumed.facts["round"]}),
            method=method,
            benchmark=benchmark,
        )

    def finish(self, shared: Arrays, fingerprint: str) -> None:
        """All rounds are done: keep the shared adapter and the summary."""
        if shared and self.config["save_adapters"]:
            write_adapter(self.path / "adapters" / "shared", shared, self.config, fingerprint)
        hostile = hostile_clients(self.config)
        told = self._told
        summary = summarise(told.rows, told.about, told.traffic, hostile, spent=told.spent)
        for text in summary.warnings():
            self.warning(text)
        write_atomically(self.path / "summary.json", json.dumps(summary.to_json(), indent=1))

    def event(self, event: str, **facts: Any) -> None:
        """Append to events.jsonl."""
        self._append("events", {"event": event, "time": round(time.time() - self._started, 3), **facts})

    def warning(self, message: str) -> None:
        """A warning belongs to the results: the log, the events and run.json hold it."""
        message = printable(message)
        print(f"WARNING: {message}", file=sys.stderr, flush=True)
        self._warnings.append(message)
        self.event("warning", message=message)

    def reply(self, phase: str, done: Done) -> None:
        """A client has answered; for progress displays, and for what its work took."""
        before = self._told.spent.get(done.client_id, Spent())
        self._told.spent[done.client_id] = before.plus(done.seconds, done.cpu_seconds)
        names = {"server-round": done.server_round, "client-id": done.client_id}
        took = {"seconds": done.seconds, "cpu-seconds": done.cpu_seconds}
        self.event("reply", **names, phase=phase, loss=done.metrics.get("train-loss"), **took)

    def traffic(self, row: Mapping[str, Any]) -> None:
        """Append to traffic.jsonl."""
        self._told.traffic.append(TrafficRow.from_json(row))
        self._append("traffic", self._told.traffic[-1].to_json())

    def record(self, name: str, row: Mapping[str, Any]) -> None:
        """Append to a method's own <name>.jsonl."""
        self._append(name, row)

    def round_done(self, server_round: int, phase: str, replies: Sequence[Reply]) -> None:
        """Append a round's scores to metrics.jsonl."""
        for reply in replies:
            client = reply.upload.client_id
            self._told.about.setdefault(client, reply.sizes.facts())
            for row in reply.rows:
                about = (
                    row.split,
                    row.model,
                    row.moment,
                    row.num_examples,
                    row.scores,
                    row.counts,
                    row.digest,
                )
                self._told.rows.append(ScoreRow(server_round, client, *about))
                self._append("metrics", self._told.rows[-1].to_json())
            model = "own" if phase == "train" else reply.rows[0].model if reply.rows else "final"
            if metrics := reply.upload.metrics:
                measured = ScoreRow(
                    server_round, client, "train", model, "after", reply.upload.num_examples, metrics
                )
                self._append("metrics", measured.to_json())
        means = self._told.means(server_round, hostile_clients(self.config))
        self.event("round", **{"server-round": server_round}, phase=phase, metrics=means)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if name not in self._files:
            self._files[name] = LineFile(self.path / f"{name}.jsonl")
        # Two processes read along: a line is written at once and whole.
        self._files[name].append(json.dumps(row))
        self._tracking.row(name, row)

    def _describe(self, status: str, reason: str = "") -> None:
        facts = {
            "status": status,
            "reason": reason,
            "seed": self.config["seed"],
            "base-fingerprint": self.fingerprint,
            "generation": self.config["model"].get("generation"),
            "auto": self._auto,
            "started": time.strftime(TIME, time.localtime(self._started)),
            "seconds": round(time.time() - self._started, 3),
            "pid": os.getpid(),
            "warnings": self._warnings,
            "overrides": self.overrides,
            **self._machine,
        }
        write_status(self.path, facts)
