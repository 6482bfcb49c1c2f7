"""A run as Python sees it: its folder, read when it is asked for."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fedapp.core.status import DIED, FILE, has_died, how_it_died, read_status
from fedapp.core.types import Arrays
from fedapp.records.adapter_file import read_adapter

if TYPE_CHECKING:
    import pandas as pd

SHARED = "shared"


@dataclass(frozen=True)
class Adapter:
    """What a run has trained for a client, or for all.

    Attributes:
        path: Its folder.
        arrays: Named fp32 arrays, as trained.
        about: Settings of adapter, model and benchmark, seed, and the base model's fingerprint.
    """

    path: Path
    arrays: Arrays
    about: Mapping[str, Any]

    def export(self, folder: str | Path) -> Path:
        """Write it in the format of its own library, peft or pyreft.

        Args:
            folder: To make.

        Returns:
            The folder.

        Raises:
            ValueError: If the folder is not empty, or no library has such a format.
            OSError: If it cannot be written.
        """
        from fedapp.cli.adapters.export import export

        export(self.path, Path(folder))
        return Path(folder)

    def __repr__(self) -> str:
        count = sum(array.size for array in self.arrays.values())
        return f"Adapter({str(self.path)!r}, {len(self.arrays)} arrays, {count:,} parameters)"


@dataclass(frozen=True)
class Run:
    """A run's folder; everything is read from its files when it is asked for (docs/run-folder.md).

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def status(self) -> str:
        """``starting``, ``running``, ``completed``, ``failed`` or ``died``."""
        return DIED if has_died(self.path) else str(read_status(self.path).get("status"))

    @property
    def reason(self) -> str:
        """One line on what ended a run that failed or died; empty for others."""
        return (
            how_it_died(self.path) if has_died(self.path) else str(read_status(self.path).get("reason") or "")
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json holds: versions, seed, the base model's fingerprint, warnings, seconds."""
        return read_status(self.path)

    @property
    def config(self) -> dict[str, Any]:
        """The composed config.

        Raises:
            ValueError: If the run has none yet.
        """
        tree: dict[str, Any] = yaml.safe_load(self._text("config.yaml"))
        return tree

    @property
    def summary(self) -> dict[str, Any]:
        """What the run comes to: scores as fractions, sizes in bytes.

        Raises:
            ValueError: If the run is not complete.
        """
        summary: dict[str, Any] = json.loads(self._text("summary.json"))
        return summary

    @property
    def clients(self) -> pd.DataFrame:
        """The summary's row for each client: tasks, rows, scores, bytes.

        Raises:
            ValueError: If the run is not complete.
        """
        import pandas as pd

        return pd.DataFrame(self.summary["clients"]).set_index("client-id")

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each round, client, split, model and moment; empty before the first round."""
        return self._rows("metrics")

    @property
    def traffic(self) -> pd.DataFrame:
        """A row for each message: payload and wire bytes; empty before the first round."""
        return self._rows("traffic")

    @property
    def events(self) -> pd.DataFrame:
        """What happened, as it happened."""
        return self._rows("events")

    def adapter(self, client: int | str = SHARED) -> Adapter:
        """What the run has trained.

        Args:
            client: A client's number, from 0; ``"shared"`` for what a newcomer gets.

        Raises:
            ValueError: If the run keeps no such adapter, or a file of it is damaged.
        """
        folder = self.path / "adapters" / (SHARED if client == SHARED else f"client-{client}")
        if not folder.is_dir():
            kept = sorted(path.name.removeprefix("client-") for path in folder.parent.glob("*"))
            raise ValueError(
                f"{self.path} keeps no adapter of {client!r}; it has: {', '.join(kept) or 'none'} "
                "(save_adapters=true keeps them)"
            )
        return Adapter(folder, *read_adapter(folder))

    def _text(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            said = f"{self.status}, {self.reason}" if self.reason else self.status
            raise ValueError(f"{self.path} has no {name}: the run is {said}") from None

    def _rows(self, name: str) -> pd.DataFrame:
        import pandas as pd

        path = self.path / f"{name}.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        # The last line may still be being written.
        return pd.DataFrame([json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()])

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"

    def _repr_html_(self) -> str:
        """The clients' table, in a notebook."""
        head = f"<p>{html.escape(repr(self))}</p>"
        return head + (self.clients.to_html() if self.status == "completed" else html.escape(self.reason))


def load(path: str | Path) -> Run:
    """A run that there is, finished or not.

    Args:
        path: Its folder.

    Raises:
        ValueError: If the folder holds no run.
    """
    folder = Path(path).expanduser().absolute()
    if not (folder / FILE).is_file():
        fault = "does not exist" if not folder.exists() else f"holds no run: it has no {FILE}"
        raise ValueError(f"{folder} {fault}")
    return Run(folder)
