"""What the server's owner asks of the SuperLink, by the ``flwr`` command."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapp.core.errors import one_line
from fedapp.core.files import write_atomically
from fedapp.engines.flower.processes import find_program
from fedapp.engines.flower.superlink import last_json, to_toml
from fedapp.site import commands
from fedapp.site.layout import ServerSite, SiteError

TIMEOUT_SECONDS = 300.0
FINISHED = "finished"


class ControlFault(RuntimeError):
    """The SuperLink does not do what was asked; the text is one line."""


@dataclass(frozen=True)
class Run:
    """How a run stands, as Flower tells.

    Attributes:
        run_id: Flower's number of it.
        status: Such as ``running`` and ``finished:completed``.
        details: What Flower says of it.
    """

    run_id: str
    status: str
    details: str

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.status.startswith(FINISHED)


class Control:
    """Commands to the SuperLink of a server's folder.

    Args:
        site: The folder; Flower's ``config.toml`` in it is written anew, in case the folder was moved.
    """

    def __init__(self, site: ServerSite) -> None:
        self.site = site
        site.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        file, text = site.home / "config.toml", commands.connection(site)
        if not file.exists() or file.read_text(encoding="utf-8") != text:  # others may be reading it
            write_atomically(file, text)

    def begin(self) -> None:
        """Before the SuperLink starts: without its database it knows nobody, whatever was registered."""
        if not self.site.database.exists():
            self.site.nodes.unlink(missing_ok=True)

    def register_parties(self) -> list[int]:
        """Make the parties' keys known, those that are not yet or that have changed.

        Returns:
            The parties whose keys are new to the server.

        Raises:
            ControlFault: If the SuperLink refuses one.
            SiteError: If a key is missing.
        """
        known = self._nodes()
        new = []
        for party in range(self.site.parties):
            try:
                key = self.site.public_key(party).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SiteError(f"{self.site.public_key(party)} cannot be read: {error.strerror}") from None
            before = known.get(str(party))
            if before and before["key"] == key:
                continue
            if before:
                self._flwr(["flwr", "supernode", "unregister", before["node"], commands.CONNECTION])
            answer = self._flwr(commands.register(self.site, party))
            known[str(party)] = {"node": str(answer["node-id"]), "key": key}
            write_atomically(self.site.nodes, json.dumps(known, indent=1))
            new.append(party)
        return new

    def seats(self) -> list[int]:
        """The node id of each party, in the order of their numbers.

        Raises:
            SiteError: If the server has not registered them yet.
        """
        known = self._nodes()
        missing = [party for party in range(self.site.parties) if str(party) not in known]
        if missing:
            raise SiteError(
                f"party {missing[0]} is not registered: start the server first (fedapp site server "
                f"{self.site.folder})"
            )
        return [int(known[str(party)]["node"]) for party in range(self.site.parties)]

    def online(self) -> dict[int, str]:
        """How each party's node stands, as Flower says: ``online``, ``offline``, ``registered``.

        Raises:
            ControlFault: If the SuperLink does not answer.
        """
        seats = self.seats()
        found = {node["node-id"]: node["status"] for node in self._flwr(commands.nodes(self.site))["nodes"]}
        return {party: str(found.get(str(seat), "unknown")) for party, seat in enumerate(seats)}

    def submit(self, app: Path, overrides: str) -> str:
        """Hand a run to the server; Flower's number of it.

        Raises:
            ControlFault: If it is refused.
        """
        # A file, as a command's arguments show in the list of processes; one of its own for every run.
        run_config = self.site.state / f"run-config-{secrets.token_hex(8)}.toml"
        try:
            write_atomically(run_config, to_toml({"overrides": overrides}))
            return str(self._flwr(commands.submit(app, str(run_config)))["run-id"])
        finally:
            run_config.unlink(missing_ok=True)

    def run(self, run_id: str) -> Run:
        """How a run stands.

        Raises:
            ControlFault: If the SuperLink does not answer, or knows no such run.
        """
        runs = self._flwr(commands.listing(run_id)).get("runs") or []
        if not runs:
            raise ControlFault(f"the server knows no run {run_id}")
        return _run(runs[0])

    def runs(self) -> dict[str, Run]:
        """All runs that the server knows, by number.

        Raises:
            ControlFault: If the SuperLink does not answer.
        """
        return {one.run_id: one for one in map(_run, self._flwr(commands.listing()).get("runs") or [])}

    def stop(self, run_id: str) -> None:
        """Stop a run.

        Raises:
            ControlFault: If that cannot be done.
        """
        self._flwr(commands.stop(run_id))

    def _nodes(self) -> dict[str, dict[str, str]]:
        try:
            known = json.loads(self.site.nodes.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raise SiteError(
                f"{self.site.nodes} cannot be read; remove {self.site.state} to register anew"
            ) from None
        return dict(known)

    def _flwr(self, command: Sequence[str]) -> Mapping[str, Any]:
        """Run a ``flwr`` command; its JSON answer."""
        program = [find_program(command[0]), *command[1:], "--format", "json"]
        try:
            done = subprocess.run(
                program,
                env=commands.environment(self.site.home),
                cwd=self.site.state,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ControlFault(f"flwr {command[1]} did not answer within {TIMEOUT_SECONDS:g} s") from None
        output = done.stdout.decode(errors="replace")
        answer = last_json(output)
        if done.returncode != 0 or not answer.get("success"):
            reason = one_line(str(answer.get("error-message") or output or f"exit code {done.returncode}"))
            raise ControlFault(f"{os.path.basename(command[0])} {command[1]} failed: {reason}")
        return answer


def _run(facts: Mapping[str, Any]) -> Run:
    return Run(str(facts["run-id"]), str(facts["status"]), str(facts.get("status-details") or ""))
