"""What the page shows of a run beside its scores: votes, times, rows and adapters of its clients."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedapp.records.results import RunResult

ADAPTERS, ABOUT_CLIENT, ARRAYS = "adapters", "client.json", "adapter.safetensors"


@dataclass(frozen=True)
class RunFiles:
    """A finished run with all that its folder says.

    Attributes:
        result: Scores, bytes, config.
        name: What tells this run from the others of the page.
        events: Rows of events.jsonl.
        consensus: Rows of consensus.jsonl; none where clients do not vote.
        coefficients: Rows of coefficients.jsonl; none but of IFed-ICL.
        summary: Clients' objects of summary.json by id.
        clients: ``client.json`` by client, of those who kept it in the run folder.
        adapters: Files of final adapters by client, and of the shared one under None.
    """

    result: RunResult
    name: str
    events: Sequence[Mapping[str, Any]] = ()
    consensus: Sequence[Mapping[str, Any]] = ()
    coefficients: Sequence[Mapping[str, Any]] = ()
    summary: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    clients: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    adapters: Mapping[int | None, Path] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """What the scores are."""
        return str(self.result.summary.metric)


def read_files(result: RunResult, name: str, warn: Callable[[str], None]) -> RunFiles:
    """Read the rest of a finished run's folder.

    Args:
        result: The run.
        name: What tells it from the others of the page.
        warn: Told in one line of each file that is damaged; the page does without it.
    """
    folder = result.folder

    def lines(text: str) -> list[Any]:
        return [json.loads(line) for line in text.splitlines()]

    def read(path: Path, parse: Callable[[str], Any], missing: Any) -> Any:
        try:
            return parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return missing
        except (OSError, ValueError):
            warn(f"{path} cannot be read, the page does without it")
            return missing

    homes = _homes(folder / ADAPTERS)
    abouts = {client: read(home / ABOUT_CLIENT, json.loads, None) for client, home in homes.items()}
    summary = read(folder / "summary.json", json.loads, {})
    return RunFiles(
        result,
        name,
        read(folder / "events.jsonl", lines, []),
        read(folder / "consensus.jsonl", lines, []),
        read(folder / "coefficients.jsonl", lines, []),
        {one["client-id"]: one for one in summary.get("clients", []) if "client-id" in one},
        {client: about for client, about in abouts.items() if client is not None and about is not None},
        {client: home / ARRAYS for client, home in homes.items() if (home / ARRAYS).exists()},
    )


def _homes(folder: Path) -> dict[int | None, Path]:
    """Folders of clients by id, and that of the shared adapter under None."""
    found: dict[int | None, Path] = {}
    for home in folder.glob("*"):
        number = home.name.removeprefix("client-")
        if home.name == "shared":
            found[None] = home
        elif home.name.startswith("client-") and number.isdigit():
            found[int(number)] = home
    return dict(sorted(found.items(), key=lambda item: -1 if item[0] is None else item[0]))
