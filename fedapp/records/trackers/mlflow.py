"""A run in MLflow's local file store."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedapp.records.trackers.tracker import require_package

LONGEST = 500
"""Characters of a parameter's value that all versions of MLflow take."""
ALLOW = "MLFLOW_ALLOW_FILE_STORE"
"""Since 3.17 MLflow opens a file store only where this variable is true."""


@dataclass
class MLflow:
    """Keeps the run in a file store, with the config as parameters.

    Attributes:
        experiment: The experiment in MLflow to which it belongs.
        folder: The store; None for ``mlruns`` beside the run folder, where a sweep's runs share it.

    Raises:
        ConfigError: If the package ``mlflow`` is missing.
    """

    experiment: str = "fedapp"
    folder: str | None = None
    _client: Any = field(default=None, init=False)
    _run_id: str = field(default="", init=False)

    def __post_init__(self) -> None:
        require_package("mlflow", "mlflow")

    def begin(self, path: Path, config: Mapping[str, Any]) -> None:
        """Open the store and a run in it, called like the run folder."""
        os.environ.setdefault(ALLOW, "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        store = Path(self.folder).expanduser().absolute() if self.folder else path.parent / "mlruns"
        self._client = MlflowClient(tracking_uri=store.as_uri())
        known = self._client.get_experiment_by_name(self.experiment)
        experiment = known.experiment_id if known else self._client.create_experiment(self.experiment)
        tags = {"run_dir": str(path)}
        self._run_id = self._client.create_run(experiment, run_name=path.name, tags=tags).info.run_id
        params = [Param(key, str(value)[:LONGEST]) for key, value in _leaves(config)]
        for first in range(0, len(params), 100):  # no more are taken at once
            self._client.log_batch(self._run_id, params=params[first : first + 100])

    def log(self, server_round: int, values: Mapping[str, float]) -> None:
        """Append to the metrics' files."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name, value, now, server_round) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=points)

    def end(self, completed: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run_id, "FINISHED" if completed else "FAILED")


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its full name, what ``about`` says of a choice apart from its name."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and key == "about":
            yield f"{prefix}name", value.get("name")
        elif isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
