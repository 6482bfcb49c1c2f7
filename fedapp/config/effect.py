"""Settings that nothing would read: refused, or named where they do no harm."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import yaml

from fedapp.config.build import RESERVED, ConfigError, about, nearest
from fedapp.config.choices import groups
from fedapp.config.slots import node_at
from fedapp.core import files

BUILT = ("train", "split", "score")
"""Nodes without a class in the config whose reader refuses a key that it does not know."""
OF_TRAINING = (
    "learning_rate",
    "batch_size",
    "num_epochs",
    "max_steps",
    "weight_decay",
    "warmup_ratio",
    "schedule",
    "max_grad_norm",
    "proximal",
    "gradient_checkpointing",
    "accumulation_steps",
    "length_grouped",
)
"""Settings of ``train`` that only an optimiser's steps read."""


def refuse_unread(
    overrides: Sequence[str], tree: Mapping[str, Any], unresolved: Callable[[], Mapping[str, Any]]
) -> None:
    """Refuse keys that nobody reads: Hydra adds whatever ``+KEY``, ``++KEY`` or an experiment names.

    What stands in the node of a class is left to its constructor, which refuses what it does not take.

    Args:
        overrides: Of a run.
        tree: What they make.
        unresolved: Makes the tree of the group choices among them alone, with its interpolations.

    Raises:
        ConfigError: If there is such a key.
    """
    known = {*_keys((files.CONF / "config.yaml").read_text(encoding="utf-8")), *groups()}
    for key in tree:
        if key not in known:
            raise ConfigError(f"{key} is not a setting{nearest(key, sorted(known - {'defaults'}))}")
    added = [word.partition("=")[0] for word in overrides if word.startswith("+")]
    added = [key.lstrip("+") for key in added if "." in key]
    if not added:
        return
    before = unresolved()
    # As written, and with interpolations inside interpolations resolved.
    text = yaml.safe_dump(before)
    text += re.sub(r"\$\{([\w.]+)\}", lambda found: str(node_at(tree, found[1])), text)
    for key in added:
        if not (_stands(before, key) or _is_built(tree, key) or _is_read(text, key)):
            place, _, name = key.rpartition(".")
            siblings = node_at(before, place)
            hint = nearest(name, sorted(siblings)) if isinstance(siblings, Mapping) and siblings else ""
            raise ConfigError(f"{key} is not a setting, nothing reads it{hint}")


@lru_cache(maxsize=4)  # by what it says, as every config that is composed asks for the same file's
def _keys(text: str) -> frozenset[str]:
    """The keys at the top of a YAML file."""
    return frozenset(yaml.safe_load(text))


def idle_settings(overrides: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """A line for each setting that was given and that this run has no use for.

    They do no harm, and a sweep over methods may well give them to all of its runs.
    """
    found = []
    given = {word.partition("=")[0].lstrip("+"): word for word in overrides if not word.startswith("~")}
    adapter = config.get("adapter") or {}
    if about(adapter, "trains") is False:
        idle = [f"train.{name}" for name in OF_TRAINING if f"train.{name}" in given]
        if idle:
            name = about(adapter, "name")
            found.append(f"{', '.join(idle)} without effect: adapter={name} takes no training step")
    if fault := no_validation_rows(config):
        found.append(f"score.splits has validation without effect: {fault}")
    every, rounds = config["evaluate_every"], config["num_rounds"]
    if every > rounds:
        found.append(
            f"evaluate_every={every} without effect: the run ends, evaluated, after num_rounds={rounds}"
        )
    return found


def no_validation_rows(config: Mapping[str, Any]) -> str | None:
    """Why validation scores, where they are asked for, cannot be; None if they can."""
    split = config.get("split") or {}
    if "validation" not in (config.get("score") or {}).get("splits", ()):
        return None
    for name in ("val_share", "max_val"):
        if split.get(name) == 0:
            return f"split.{name}=0 leaves no validation row"
    return None


def _stands(tree: Mapping[str, Any], key: str) -> bool:
    place, _, name = key.rpartition(".")
    node = node_at(tree, place)
    return isinstance(node, Mapping) and name in node


def _is_built(tree: Mapping[str, Any], key: str) -> bool:
    """Whether a constructor is given the key, and so judges it."""
    parts = key.split(".")
    if parts[0] in BUILT:
        return True
    for depth in range(1, len(parts)):
        node = node_at(tree, ".".join(parts[:depth]))
        if isinstance(node, Mapping) and "_target_" in node:
            return parts[depth] not in RESERVED
    return False


def _is_read(text: str, key: str) -> bool:
    """Whether an interpolation of the tree names the key, or a file of its group says it of itself."""
    if re.search(rf"{re.escape(key)}(?![\w.])", text):
        return True
    group, _, rest = key.partition(".")
    place, _, name = rest.rpartition(".")
    if place != "about":
        return False
    trees = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (files.CONF / group).glob("*.yaml"))
    return any(name in (tree.get("about") or {}) for tree in trees if isinstance(tree, dict))
