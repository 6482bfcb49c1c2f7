"""A run for Weights & Biases, kept offline in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedapp.records.trackers.tracker import require_package


@dataclass
class WandB:
    """Writes ``wandb/offline-run-…`` in the run folder; nothing leaves the machine until ``wandb sync``.

    Attributes:
        project: The project in W&B to which it will belong.

    Raises:
        ConfigError: If the package ``wandb`` is missing.
    """

    project: str = "fedapp"
    _run: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        require_package("wandb", "wandb")

    def begin(self, path: Path, config: Mapping[str, Any]) -> None:
        """Begin an offline run, called like the run folder; code, git and console stay out of it."""
        import wandb

        quiet = wandb.Settings(console="off", disable_git=True, save_code=False, x_disable_stats=True)
        self._run = wandb.init(
            project=self.project,
            name=path.name,
            dir=str(path),
            mode="offline",
            config=dict(config),
            settings=quiet,
            reinit="create_new",
        )
        self._run.define_metric("*", step_metric="server-round")

    def log(self, server_round: int, values: Mapping[str, float]) -> None:
        """Append to the run's file."""
        self._run.log({"server-round": server_round, **values})

    def end(self, completed: bool) -> None:
        """Close the run's file and the library's own process."""
        self._run.finish(exit_code=0 if completed else 1)
