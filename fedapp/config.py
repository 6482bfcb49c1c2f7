"""The only file that knows Hydra: composing ``conf/`` and building objects from its nodes."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fedapp.errors import one_line

CONF = Path(__file__).resolve().parent.parent / "conf"
# A node receives its configuration over the network: it may only name classes of these packages.
BUILDABLE = ("fedapp.", "flwr_datasets.partitioner.")


class ConfigError(ValueError):
    """The configuration cannot be used; the text is one line for the user."""


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run that belong to no method: who takes part, for how long, from which seed.

    Attributes:
        seed: Drives initial parameters, partitions, batches and client sampling.
        num_clients: Clients of the federation; they are numbered from 0.
        num_rounds: Rounds of local training and exchange.
        clients_per_round: Clients sampled for a round; 0 means all.
        min_replies: Usable replies without which a round fails; 0 means half of those asked, rounded up.
        join_timeout: Seconds to wait for nodes to join before the run goes on without or fails.
        round_timeout: Seconds to wait for the replies of a round.
        evaluate_every: Rounds between evaluations on top of the one after the last round; 0 means none.
        max_payload_bytes: Largest payload that either side accepts.
        num_threads: CPU threads of torch in each client process.
    """

    seed: int = 1
    num_clients: int = 4
    num_rounds: int = 3
    clients_per_round: int = 0
    min_replies: int = 0
    join_timeout: float = 180.0
    round_timeout: float = 3600.0
    evaluate_every: int = 0
    max_payload_bytes: int = 2**31
    num_threads: int = 1

    def __post_init__(self) -> None:
        for name in ("num_clients", "num_rounds", "num_threads", "max_payload_bytes"):
            _require_int(name, getattr(self, name), at_least=1)
        for name in ("seed", "clients_per_round", "min_replies", "evaluate_every"):
            _require_int(name, getattr(self, name), at_least=0)
        for name in ("join_timeout", "round_timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigError(f"{name}={value!r} must be a number of seconds greater than 0")
        if self.clients_per_round > self.num_clients:
            raise ConfigError(
                f"clients_per_round={self.clients_per_round} must not exceed num_clients={self.num_clients}"
            )
        asked = self.clients_per_round or self.num_clients
        if self.min_replies > asked:
            raise ConfigError(
                f"min_replies={self.min_replies} must not exceed the {asked} clients asked in a round"
            )

    @property
    def replies_needed(self) -> int:
        """Usable replies without which a round fails."""
        return self.min_replies or -(-(self.clients_per_round or self.num_clients) // 2)


def load_config(overrides: Sequence[str]) -> dict[str, Any]:
    """Compose ``conf/config.yaml`` with Hydra overrides into a resolved, plain tree.

    Args:
        overrides: As on Hydra's command line: ``["method=fedreft", "num_rounds=3"]``.

    Raises:
        ConfigError: If a group has no such choice, a key does not exist or a value is malformed.
    """
    # The loader behind hydra.compose, without its process-wide singleton: it also works inside
    # @hydra.main (sweeps) and from several threads.
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    try:
        tree = loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)
        with open_dict(tree):
            tree.pop("hydra", None)  # Hydra's own settings; sweeps read them elsewhere
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides)) from None
    assert isinstance(plain, dict)
    run_settings(plain)
    return {str(key): value for key, value in plain.items()}


def run_settings(config: Mapping[Any, Any]) -> RunSettings:
    """The run's own settings out of the composed tree."""
    return RunSettings(**{name: config[name] for name in RunSettings.__dataclass_fields__})


def build(node: Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Make the object that a node's ``_target_`` names, nested nodes first.

    The constructor is the schema: a key that it does not take is an error.

    Args:
        node: A resolved tree with ``_target_``.
        where: The node's place in the tree, for messages (``method.strategy``).
        extra: Values that only the caller knows (labels of the benchmark, number of clients).

    Raises:
        ConfigError: If the target is not of this project, or its constructor refuses a key or value.
    """
    values = {key: _build_nested(value, f"{where}.{key}") for key, value in node.items() if key != "_target_"}
    target = node.get("_target_")
    if not isinstance(target, str) or not target.startswith(BUILDABLE):
        raise ConfigError(f"{where}._target_={target!r} must name a class of {' or '.join(BUILDABLE)}")
    try:
        make = _locate(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}._target_={target!r} cannot be imported: {one_line(error)}") from None
    values |= extra
    known = [name for name, p in inspect.signature(make).parameters.items() if p.kind is not p.VAR_KEYWORD]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}.{key} is not a setting of {target}{nearest(key, known)}")
    try:
        return make(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {one_line(error)}") from None


def groups() -> dict[str, list[str]]:
    """The choices of every config group: ``{"method": ["fedavg", …]}``."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(CONF.iterdir())
        if folder.is_dir()
    }


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint to append to an error: the names most like ``word``, else all of them."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known: {', '.join(sorted(known))}"


@cache
def _locate(target: str) -> Any:
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    # What a module merely imported (os, subprocess, Path) is not part of it.
    home = getattr(found, "__module__", "")
    if not callable(found) or not f"{home}.".startswith(BUILDABLE):
        raise ImportError(f"{name} is not defined there")
    return found


def _build_nested(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, where)
        return {key: _build_nested(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_build_nested(item, f"{where}[{i}]") for i, item in enumerate(value)]
    return value


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    known_groups = groups()
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+~").split("@")[0]
        if group in known_groups and value and value not in known_groups[group]:
            return f"{group}={value} does not exist{nearest(value, known_groups[group])}"
    text = str(error)
    for override in overrides:
        key = override.partition("=")[0]
        if key.startswith(("+", "~", "hydra.")) or f"'{key}'" not in text:
            continue
        keys = sorted(_known_keys([o for o in overrides if o.partition("=")[0] in known_groups]))
        if key not in keys:
            return f"{key} is not a setting{nearest(key, keys)}"
    return f"the overrides {' '.join(overrides)!r} cannot be used: {one_line(error)}"


def _known_keys(choices: Sequence[str]) -> frozenset[str]:
    """Every key of the tree that these group choices make."""
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    tree = loader.load_configuration("config", list(choices), run_mode=RunMode.RUN)
    return frozenset(_paths(OmegaConf.to_container(tree, resolve=False), ""))


def _paths(tree: Any, prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if key == "hydra" or key == "_target_":
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def _require_int(name: str, value: Any, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigError(f"{name}={value!r} must be a whole number of at least {at_least}")
