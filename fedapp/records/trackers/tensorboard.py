"""Event files for TensorBoard, in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedapp.records.trackers.tracker import require_package


@dataclass
class TensorBoard:
    """Writes ``tensorboard/`` in the run folder; ``tensorboard --logdir runs`` shows all runs below a folder.

    Raises:
        ConfigError: If the package ``tensorboard`` is missing.
    """

    _writer: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        require_package("tensorboard", "tensorboard")

    def begin(self, path: Path, config: Mapping[str, Any]) -> None:
        """Open the event file."""
        from tensorboard.summary import Writer

        self._writer = Writer(str(path / "tensorboard"))

    def log(self, server_round: int, values: Mapping[str, float]) -> None:
        """Write at once, so that it can be watched."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, server_round)
        self._writer.flush()

    def end(self, completed: bool) -> None:
        """Close the event file."""
        self._writer.close()
