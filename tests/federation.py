"""Toy federations for tests: the real apps, strategies and wire, no model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  here, so that no client spends join_timeout on these imports
import flwr_datasets.partitioner  # noqa: F401
import pytest
from flwr.app import Context, RecordDict

import client_app
import server_app
from fedapp.client import workplace as workplaces
from fedapp.engines.grid import InProcessGrid, Network, run_local, server_identity
from fedapp.server import directory, transport
from fedapp.wire.records import unpack

TOY = ["model=toy", "adapter=toy", "benchmark=toy", "engine=local", "join_timeout=30"]


class Clock:
    """The server's time, which goes on while it waits and at no other moment.

    Clients of a toy federation answer while the server looks for replies. So a reply that was lost costs no
    second, and a machine that stands still loses none.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class ToyRun:
    """A finished run's folder, read back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def warnings(self) -> list[str]:
        """What was warned of on the way, without the summary's word on answers: the toy's say nothing."""
        judged = self.json("summary")["warnings"] if (self.folder / "summary.json").exists() else []
        said = [row["message"] for row in self.rows("events") if row["event"] == "warning"]
        return [text for text in said if text not in judged]

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{name}.json").read_text())

    def adapters(self) -> dict[str, bytes]:
        files = sorted((self.folder / "adapters").glob("*/adapter.safetensors"))
        return {file.parent.name: file.read_bytes() for file in files}


def run_toy(
    folder: Path, *overrides: str, network: Network | None = None, num_nodes: int = 4, app: Any = None
) -> ToyRun:
    """Run a toy federation to its end; what the server app raises is raised here."""
    words = [*TOY, "round_timeout=30", *overrides, f"run_dir={folder}"]
    return _run(folder, words, network, num_nodes, app)


def resume_toy(folder: Path, *overrides: str, network: Network | None = None, num_nodes: int = 4) -> ToyRun:
    """Go on with a toy federation that was killed."""
    return _run(folder, [f"resume={folder}", *overrides], network, num_nodes, None)


def run_on(grid: type[InProcessGrid], folder: Path, *overrides: str, num_nodes: int = 4) -> ToyRun:
    """Run a toy federation on a grid of one's own kind."""
    said = {"overrides": shlex.join([*TOY, *overrides, f"run_dir={folder}"])}
    nodes = grid(client_app.app, num_nodes, said)
    with _toy_world(), server_identity(nodes.run.run_id):
        server_app.app(nodes, Context(nodes.run.run_id, 1, {}, RecordDict(), said))
    return ToyRun(folder)


class Killed(BaseException):
    """Ends a run as SIGKILL would: nobody gets to say or write anything more."""


def killing(server_round: int, phase: str, client: int = 2) -> Network:
    """A network on which the run is killed as soon as a client has done its part of a round."""

    def kill(client_id: int, reply: Any) -> Any:
        facts = unpack(reply.content).facts
        evaluates = reply.metadata.message_type == "evaluate"
        if (
            client_id == client
            and facts.get("server-round") == server_round
            and evaluates == (phase != "train")
        ):
            raise Killed
        return reply

    return Network(tamper=kill)


def _run(folder: Path, overrides: list[str], network: Network | None, num_nodes: int, app: Any) -> ToyRun:
    with _toy_world():
        run_local(
            server_app.app,
            app or client_app.app,
            num_nodes=num_nodes,
            run_config={"overrides": shlex.join(overrides)},
            network=network,
        )
    return ToyRun(folder)


@contextmanager
def _toy_world() -> Iterator[None]:
    """A server with a clock of its own, and no workplace left behind."""
    clock = Clock()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for module in (directory, transport):
                patch.setattr(module, "time", clock)
            yield
    finally:
        workplaces.close()
