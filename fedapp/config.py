"""The only file that knows Hydra (but for sweeps): composing ``conf/`` into a plain tree."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fedapp.building import ConfigError, nearest
from fedapp.building import build as build  # who composes a config also builds from it
from fedapp.client_configs import MAY_DIFFER
from fedapp.core import files
from fedapp.core.checks import require_int, require_number, shown
from fedapp.core.errors import malformed, one_line

# Keys of a group's file without which no run can be put together.
INDISPENSABLE = ("name", "build", "routine", "strategy", "_target_")


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
        max_norm_ratio: An upload whose norm exceeds this multiple of the round's median norm is left
            out; 0 means none is.
        num_threads: CPU threads of torch in each client process.
        num_cpus_per_client: CPU cores that Flower's simulation engine reserves per client at work.
        num_gpus_per_client: GPUs, or a fraction of one, that it reserves per client at work.
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
    max_norm_ratio: float = 0.0
    num_threads: int = 1
    num_cpus_per_client: int = 1
    num_gpus_per_client: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_clients", "num_rounds", "num_threads", "max_payload_bytes", "num_cpus_per_client"):
            require_int(name, getattr(self, name), at_least=1)
        for name in ("seed", "clients_per_round", "min_replies", "evaluate_every"):
            require_int(name, getattr(self, name), at_least=0)
        for name in ("join_timeout", "round_timeout"):
            require_number(name, getattr(self, name), "(0, inf]", "number of seconds")
        require_number("num_gpus_per_client", self.num_gpus_per_client, "[0, inf)")
        if self.num_gpus_per_client > 1 and self.num_gpus_per_client % 1:
            raise ValueError(f"num_gpus_per_client={self.num_gpus_per_client} must be whole if above 1")
        if self.max_norm_ratio != 0:
            require_number("max_norm_ratio", self.max_norm_ratio, "[1, inf)", "ratio (or 0: none)")
        if self.clients_per_round > self.num_clients:
            raise ValueError(
                f"clients_per_round={self.clients_per_round} must not exceed num_clients={self.num_clients}"
            )
        asked = self.clients_per_round or self.num_clients
        if self.min_replies > asked:
            raise ValueError(
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
    plain = _compose(overrides)
    _refuse_deletions(overrides)
    run_settings(plain)
    return plain | {"client_configs": _client_configs(plain, overrides)}


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    # The loader behind hydra.compose, without its process-wide singleton: it also works inside
    # @hydra.main (sweeps) and from several threads.
    loader = ConfigLoaderImpl(create_config_search_path(str(files.CONF)))
    try:
        tree = loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)
        with open_dict(tree):
            tree.pop("hydra", None)  # Hydra's own settings; sweeps read them elsewhere
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides)) from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _client_configs(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For every text of ``by_client`` the parts of the tree that it changes."""
    texts = config.get("by_client") or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(
            f"by_client={shown(texts)} must be a list with a text of overrides for each client, such as "
            '["adapter.build.rank=4","adapter.build.rank=8"]'
        )
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        if text in found:
            continue
        try:
            own = _compose([*overrides, *shlex.split(text)])
        except ValueError as error:
            raise ConfigError(f"by_client={text!r}: {one_line(error)}") from None
        found[text] = {key: value for key, value in own.items() if value != config[key]}
        if odd := sorted(set(found[text]) - set(MAY_DIFFER)):
            raise ConfigError(
                f"by_client={text!r} changes {', '.join(odd)}; clients may differ in "
                f"{', '.join(MAY_DIFFER)} only"
            )
    return found


def run_settings(config: Mapping[Any, Any]) -> RunSettings:
    """The run's own settings out of the composed tree.

    Raises:
        ConfigError: If one of them cannot be used.
    """
    try:
        return RunSettings(**{name: config[name] for name in RunSettings.__dataclass_fields__})
    except ValueError as error:
        raise ConfigError(str(error)) from None


def folder_setting(config: Mapping[str, Any], name: str) -> Path:
    """The absolute path that a setting names.

    Raises:
        ConfigError: If it names none: an empty text would be the current folder.
    """
    value = config[name]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
        raise ConfigError(f"{name}={'null' if value is None else repr(value)} must name a folder")
    return Path(str(value)).expanduser().absolute()


def groups() -> dict[str, list[str]]:
    """The choices of every config group: ``{"method": ["fedavg", …]}``."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(files.CONF.iterdir())
        if folder.is_dir()
    }


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    known_groups = groups()
    for override in overrides:
        if complaint := explain_syntax(override):
            return complaint
        key, _, value = override.partition("=")
        group = key.lstrip("+~").split("@")[0]
        if group in known_groups and not key.startswith("~") and value not in known_groups[group]:
            fault = f"{group}={value} does not exist" if value else f"{group}= names no choice"
            return fault + nearest(value, known_groups[group])
        if group in known_groups and key.startswith("+"):
            return f"{override} cannot be used: a group is chosen without +, {group}={value}"
    text = str(error)
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key.startswith("hydra.") or f"'{key}'" not in text:
            continue
        keys = sorted(_known_keys(overrides))
        if key not in keys:
            alike = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            return (
                f"{key} is not a setting{nearest(key, keys if alike else [k for k in keys if '.' not in k])}"
            )
    # What follows is addressed to people who write Hydra applications.
    text = re.sub(
        r"\s*(See https?://|full_key:|object_type=|Config search path:).*", "", text, flags=re.DOTALL
    )
    return f"the overrides {' '.join(overrides)!r} cannot be used: {one_line(text)}"


def explain_syntax(override: str, may_sweep: bool = False) -> str | None:
    """What is wrong with the form of an override, None if nothing is.

    Args:
        override: ``KEY=VALUE``, ``+KEY=VALUE`` or ``~KEY``.
        may_sweep: Whether it may give several values.
    """
    key, equals, _ = override.partition("=")
    try:
        (parsed,) = OverridesParser.create().parse_overrides([override])
    except HydraException:
        return malformed(override)
    if not key.strip("+~ ") or not (equals or key.startswith("~")):
        return malformed(override)
    if parsed.is_sweep_override() and not may_sweep:
        return f"{override} gives several values: use --multirun for a run with each, {key}=[…] for a list"
    return None


def _refuse_deletions(overrides: Sequence[str]) -> None:
    """Refuse ``~KEY`` for a key that every run needs; others fall back on a constructor's default."""
    for override in overrides:
        key = override[1:].partition("=")[0]
        if override.startswith("~") and ("." not in key or key.rpartition(".")[2] in INDISPENSABLE):
            raise ConfigError(f"{override} cannot be used: no run can do without {key}")


def _known_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Every key of the tree that the group choices among these overrides make."""
    choices = [o for o in overrides if o.partition("=")[0] in groups()]
    loader = ConfigLoaderImpl(create_config_search_path(str(files.CONF)))
    tree = loader.load_configuration("config", choices, run_mode=RunMode.RUN)
    return frozenset(_paths(OmegaConf.to_container(tree, resolve=False), ""))


def _paths(tree: Any, prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if key == "hydra" or key == "_target_":
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
