"""Whether a party takes part in what a run asks, judged on the config before anything is built or read."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fedapp import __version__
from fedapp.config import slots
from fedapp.config.composed import Composed
from fedapp.config.policy import Policy
from fedapp.config.slots import node_at
from fedapp.core.types import ClientFailure

# Nodes of which a client makes something; the method's other half is the server's.
PARTS = (
    "method.routine",
    "adapter",
    "model",
    "benchmark",
    "partitioner",
    "train",
    "split",
    "score",
    "hostile",
)
_PATH_KEYS = re.compile(r"(^|_)(path|dir|file|folder)$")


class Refusal(ClientFailure):
    """The party's policy does not allow what a run asks; the text names the setting, no path of the party."""


@lru_cache(maxsize=4)
def admit(config_json: str, policy: Policy, clients: tuple[int, ...]) -> str:
    """The config as this party runs it: refused, or with the party's own folders in it.

    Args:
        config_json: As it came with a message.
        policy: The party's.
        clients: Numbers of the clients that the party holds.

    Raises:
        Refusal: That names the setting and what the policy allows, or both versions where they differ.
        ConfigError: If the config as such cannot be used.
    """
    if policy.open:
        return config_json
    _check_version()
    config = Composed.from_json(config_json)
    alike = {config.variant(client_id): client_id for client_id in clients}
    for client_id in alike.values():
        own = config.client(client_id)
        _check_classes(own, policy)
        for part in PARTS:
            _check_part(node_at(own, part), part, policy)
    tree = config.to_dict()
    tree["benchmark"] = _with_data(config["benchmark"], policy)
    tree["run_dir"] = None  # the server's folder is no place on this machine
    return Composed(tree).to_json()


def _check_version() -> None:
    """Refuse a run of another fedapp than is installed here: its code travels, what it needs does not."""
    try:
        here = importlib.metadata.version("fedapp")
    except importlib.metadata.PackageNotFoundError:
        return  # nothing is installed: there is only the code that came
    if here != __version__:
        raise Refusal(
            f"the run's code is fedapp {__version__}, this party has fedapp {here} installed: "
            "both need the same version"
        )


def _check_classes(config: Mapping[str, Any], policy: Policy) -> None:
    for group in ("method", "adapter", "model", "benchmark", "partitioner"):
        if not isinstance(config[group], Mapping):
            raise Refusal(f"{group} must be a node with settings")
        for where, target in slots.targets(config[group], group):
            if where.startswith("method.strategy"):
                continue  # the server's half; the list of all classes holds for it as well
            if not policy.allows(group, slots.slot_of(where), str(target)):
                raise Refusal(f"{where}._target_={target!r} is not among the {group}s of this party's policy")
    hostile = config["hostile"]
    if not policy.hostile and isinstance(hostile, Mapping) and "_target_" in hostile:
        raise Refusal("hostile: this party's policy does not let a run falsify what it sends")


def _check_part(node: Any, where: str, policy: Policy) -> None:
    local = where == "benchmark" and isinstance(node, Mapping) and node.get("data_dir") is not None
    for key, value in _texts(node, where):
        if local and key.count(".") == 1 and _PATH_KEYS.search(key.rpartition(".")[2]):
            continue  # rows come from data_dir, and its place is judged below
        if "://" in value and not policy.network:
            raise Refusal(f"{key} names an address; this party's policy allows no network")
        if not _is_path(key, value):
            continue
        if where == "benchmark":
            if not policy.network and not _within(value, [policy.data]):
                raise Refusal(f"{key} names something that this party's policy does not offer")
        elif not (_comes_with_installation(value) or _listed(value, policy)):
            raise Refusal(f"{key} names no model of this party's policy")


def _with_data(node: Mapping[str, Any], policy: Policy) -> Mapping[str, Any]:
    """The benchmark's node with the party's own folder as that of the data."""
    if "data_dir" not in node:
        return node
    asked = node["data_dir"]
    if asked is None and (policy.data is None or node.get("path")):
        return node  # rows of the hub, or none: the benchmark says what it needs
    if policy.data is None:
        raise Refusal("benchmark.data_dir: this party's policy names no folder for data")
    place = os.path.join(policy.data, str(asked)) if asked is not None else policy.data
    if not _within(place, [policy.data]):
        raise Refusal("benchmark.data_dir lies outside the folder of this party's policy")
    return {**node, "data_dir": place}


def _texts(node: Any, where: str) -> Iterator[tuple[str, str]]:
    """All texts of a node, but what is only said about a class, with their places."""
    if isinstance(node, Mapping):
        unread = ("about", "recipe", "_target_") if "_target_" in node or "." not in where else ()
        for key, value in node.items():
            if key not in unread:
                yield from _texts(value, f"{where}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, where)
    elif isinstance(node, str):
        yield where, node


def _is_path(key: str, value: str) -> bool:
    """Whether a text names a place: by its key, or because it is written as one."""
    written = value.startswith(("/", "~", "./", "../")) and not re.search(r"\s", value)
    return bool(_PATH_KEYS.search(key.rpartition(".")[2])) or written


def _comes_with_installation(value: str) -> bool:
    """Whether it is a model that fedapp or an installed package brings, and no way out of its folder."""
    kind, _, rest = value.partition(":")  # fedapp.models.files keeps both within what was installed
    return kind in ("asset", "package") and ".." not in Path(rest).parts


def _listed(value: str, policy: Policy) -> bool:
    folders = [one for one in policy.models if Path(one).expanduser().is_absolute()]
    return value in policy.models or _within(value, folders)


def _within(value: str, folders: Sequence[str | None]) -> bool:
    """Whether a place lies in one of the folders, links followed."""
    place = Path(value).expanduser()
    if not place.is_absolute():
        return False
    real = place.resolve()
    roots = [Path(folder).expanduser().resolve() for folder in folders if folder]
    return any(real == root or root in real.parents for root in roots)
