"""Composing ``conf/`` into a plain tree."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from fedapp.config.build import ConfigError, nearest
from fedapp.config.build import build as build  # who composes a config also builds from it
from fedapp.config.choices import groups
from fedapp.config.composed import MAY_DIFFER, Composed
from fedapp.config.effect import refuse_unread
from fedapp.config.loader import config_loader
from fedapp.config.overrides import explain_syntax, key_of, refuse_hydra
from fedapp.config.policy import Policy, PolicyError
from fedapp.core.checks import require_bool, show_value
from fedapp.core.errors import one_line

SWITCHES = ("save_adapters", "save_predictions", "checkpoints")
# Keys of a group's file without which no run can be put together.
INDISPENSABLE = ("about", "name", "routine", "strategy", "_target_")


def load_config(overrides: Sequence[str]) -> Composed:
    """Compose ``conf/config.yaml`` with Hydra overrides: resolved, and checked once.

    Args:
        overrides: As on Hydra's command line: ``["method=fedreft", "num_rounds=3"]``.

    Raises:
        ConfigError: If a group has no such choice, a key does not exist or a value is malformed.
    """
    try:
        Policy.of({})  # the owner of this machine may have classes of his own
    except PolicyError as error:
        raise ConfigError(str(error)) from None
    refuse_hydra(overrides)
    plain = _compose(overrides)
    _refuse_deletions(overrides)
    refuse_unread(overrides, plain, lambda: _unresolved(overrides))
    _require_switches(plain)
    composed = Composed(plain)
    return composed.differing(_client_configs(composed, overrides))


def _require_switches(plain: Mapping[str, Any]) -> None:
    """Refuse any other value where only true and false mean something."""
    try:
        for name in SWITCHES:
            if name in plain:
                require_bool(name, plain[name])
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _compose(overrides: Sequence[str]) -> dict[str, Any]:
    loader = config_loader()
    try:
        tree = loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)
        with open_dict(tree):
            tree.pop("hydra", None)  # Hydra's own settings; sweeps read them elsewhere
        plain = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_explain(error, overrides)) from None
    assert isinstance(plain, dict)
    if isinstance(plain.get("method"), dict):
        plain["method"].pop("contract", None)  # what tests are to know of it; no run needs it
    return {str(key): value for key, value in plain.items()}


def _client_configs(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For every text of ``by_client`` the parts of the tree that it changes."""
    texts = config.get("by_client") or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(
            f"by_client={show_value(texts)} must be a list with a text of overrides for each client, such as "
            '["adapter.rank=4","adapter.rank=8"]'
        )
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        if text in found:
            continue
        try:
            words = [*overrides, *shlex.split(text)]
            refuse_hydra(words)
            own = _compose(words)
            refuse_unread(words, own, lambda words=words: _unresolved(words))  # type: ignore[misc]
        except ValueError as error:
            raise ConfigError(f"by_client={text!r}: {one_line(error)}") from None
        found[text] = {key: value for key, value in own.items() if value != config[key]}
        if odd := sorted(set(found[text]) - set(MAY_DIFFER)):
            raise ConfigError(
                f"by_client={text!r} changes {', '.join(odd)}; clients may differ in "
                f"{', '.join(MAY_DIFFER)} only"
            )
    return found


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    known_groups = groups()
    for override in overrides:
        if complaint := explain_syntax(override):
            return complaint
        key, _, value = override.partition("=")
        group = key_of(override).split("@")[0]
        if group in known_groups and not key.startswith("~") and value not in known_groups[group]:
            fault = f"{group}={value} does not exist" if value else f"{group}= names no choice"
            return fault + nearest(value, known_groups[group])
        if group in known_groups and key.startswith("+"):
            return f"{override} cannot be used: a group is chosen without +, {group}={value}"
    text = str(error)
    for override in overrides:
        key = key_of(override)
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


def _refuse_deletions(overrides: Sequence[str]) -> None:
    """Refuse ``~KEY`` for a key that every run needs; others fall back on a constructor's default."""
    for override in overrides:
        key = override[1:].partition("=")[0]
        if override.startswith("~") and ("." not in key or key.rpartition(".")[2] in INDISPENSABLE):
            raise ConfigError(f"{override} cannot be used: no run can do without {key}")


def _known_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Every key of the tree that the group choices among these overrides make."""
    return frozenset(_paths(_unresolved(overrides), ""))


def _unresolved(overrides: Sequence[str]) -> dict[str, Any]:
    """The tree that the group choices among these overrides make, with its interpolations."""
    choices = [o for o in overrides if o.partition("=")[0] in groups()]
    loader = config_loader()
    tree = loader.load_configuration("config", choices, run_mode=RunMode.RUN)
    with open_dict(tree):
        tree.pop("hydra", None)
    plain = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _paths(tree: Any, prefix: str) -> Iterator[str]:
    for key, value in tree.items():
        if key == "hydra" or key == "_target_":
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
