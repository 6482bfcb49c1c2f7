"""The one composed config value: made and checked once, then handed on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedapp.config.build import ConfigError, check_classes
from fedapp.config.run import RunSettings, run_settings

MAY_DIFFER = ("model", "adapter", "train")
"""In what clients may differ (``by_client``)."""


def _check_client_configs(configs: Any) -> None:
    """Refuse parts in which clients may not differ: a client takes over whatever stands there."""
    known = isinstance(configs, Mapping) and all(
        isinstance(own, Mapping) and set(own) <= set(MAY_DIFFER) for own in configs.values()
    )
    if not known:
        raise ConfigError(f"client_configs may hold {', '.join(MAY_DIFFER)} of a client, and nothing else")


class Composed(Mapping[str, Any]):
    """The resolved tree of a run, or of one of its clients; read-only.

    Attributes:
        run: The settings that belong to no method.
    """

    def __init__(self, tree: Mapping[str, Any], run: RunSettings | None = None) -> None:
        """Take a resolved tree.

        Args:
            tree: What Hydra composed, plain.
            run: Its run settings, where they were read before.

        Raises:
            ConfigError: If one of the run settings cannot be used, or a class may not stand where it does.
        """
        check_classes(tree)
        _check_client_configs(tree.get("client_configs") or {})
        self._tree = dict(tree)
        self.run = run or run_settings(tree)

    @classmethod
    def from_json(cls, text: str) -> Composed:
        """As ``to_json`` wrote it.

        Raises:
            ConfigError: As the constructor; also if the text is no table.
        """
        tree = json.loads(text)
        if not isinstance(tree, dict) or not isinstance(tree.get("by_client") or [], list):
            raise ConfigError("the config must be a table, and by_client a list in it")
        return cls(tree)

    def to_json(self) -> str:
        """The same text for the same tree; what travels with every message."""
        return json.dumps(self._tree, sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """A copy of the tree's top."""
        return dict(self._tree)

    def differing(self, client_configs: Mapping[str, Mapping[str, Any]]) -> Composed:
        """The same with the parts of the tree in which clients differ, by the text of their overrides."""
        return Composed({**self._tree, "client_configs": client_configs}, self.run)

    def in_folder(self, run_dir: Path) -> Composed:
        """The same with the run folder that was made for it; whether it is gone on with shows there."""
        return Composed({**self._tree, "run_dir": str(run_dir), "resume": None}, self.run)

    def variant(self, client_id: int) -> str:
        """The overrides that hold for one client alone; clients with the same text are alike."""
        texts = self._tree.get("by_client") or [""]
        return str(texts[client_id % len(texts)])

    def client(self, client_id: int) -> Composed:
        """The tree as it holds for one client, from 0."""
        own = self._tree.get("client_configs", {}).get(self.variant(client_id))
        return Composed({**self._tree, **own}, self.run) if own else self

    def one_of_each(self) -> list[int]:
        """The first client of every variant, in the order of their numbers."""
        found: dict[str, int] = {}
        for client_id in range(self.run.num_clients):
            found.setdefault(self.variant(client_id), client_id)
        return list(found.values())

    def __getitem__(self, key: str) -> Any:
        return self._tree[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)
