"""Which classes a config may name, and where: a list per slot, nested nodes included.

A config arrives over the network. It names what is to be made of a node under ``_target_``, and each
node stands in a slot, which is called like its key: ``adapter``, ``rule``, ``embedder``. What may
stand there is what the project's own ``conf/`` shows in that slot, a few settings that have no file
there, and what the owner of this machine has named: through the entry point group
``fedapp.classes`` of an installed package, or under ``classes`` in a policy file. Never what a config says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import yaml

from fedapp.core import files

try:
    from yaml import CSafeLoader as _Loader  # ten times as fast, where the library was built with it
except ImportError:
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

GROUP = "fedapp.classes"
WITHOUT_FILE = {
    "train": ("fedapp.core.train_config.TrainConfig",),
    "split": ("fedapp.client.rows.SplitConfig",),
    "partitioner": ("flwr_datasets.partitioner.*Partitioner",),
}
"""Slots of which ``conf/`` does not show all: those classes, and the library's public partitioners."""
LIKE = {"rule": "combine"}
"""Slots that take what another one takes: a rule that works on the result of a rule."""

_own: dict[str, frozenset[str]] = {}


def admit(classes: Mapping[str, list[str]]) -> None:
    """Let configs name further classes in this process: those of the machine's own policy.

    Args:
        classes: Dotted names by slot; they take the place of those admitted before.
    """
    _own.clear()
    _own.update({slot: frozenset(names) for slot, names in classes.items()})


def admitted(slot: str) -> frozenset[str]:
    """What may stand in a slot, as dotted names; ``*`` stands for part of a name."""
    sources: list[Mapping[str, Iterable[str]]] = [_shipped(), WITHOUT_FILE, _installed(), _own]
    slots = {slot, LIKE.get(slot, slot)}
    return frozenset(name for source in sources for one in slots for name in source.get(one, ()))


def known() -> list[str]:
    """The slots in which a class may stand."""
    return sorted({*_shipped(), *WITHOUT_FILE, *LIKE})


def admits(slot: str, target: Any) -> bool:
    """Whether a class may stand in a slot."""
    return isinstance(target, str) and any(_matches(target, one) for one in admitted(slot))


def targets(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every ``_target_`` of a tree with the place of its node, depth first."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "_target_":
                yield where, value
            else:
                yield from targets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from targets(value, f"{where}[{number}]")


def node_at(tree: Any, where: str) -> Any:
    """What stands at a place of a tree; None if there is no such place."""
    for key in where.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def slot_of(where: str) -> str:
    """The slot of a node at a place of the tree."""
    return where.rpartition(".")[2].partition("[")[0]


@cache
def choice(group: str, name: str) -> Mapping[str, frozenset[str]]:
    """The classes that a choice of ``conf/`` names, by slot; empty where there is no such choice."""
    file = files.CONF / group / f"{name}.yaml"
    if not file.is_file():
        return {}
    tree = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    found: dict[str, set[str]] = {}
    for where, target in targets(tree, group):
        found.setdefault(slot_of(where), set()).add(str(target))
    return {slot: frozenset(names) for slot, names in found.items()}


@cache
def _shipped() -> Mapping[str, frozenset[str]]:
    """The classes that ``conf/`` names, by slot."""
    found: dict[str, frozenset[str]] = {}
    for file in sorted(files.CONF.glob("*/*.yaml")):
        for slot, names in choice(file.parent.name, file.stem).items():
            found[slot] = found.get(slot, frozenset()) | names
    return found


@cache
def _installed() -> Mapping[str, frozenset[str]]:
    """What installed packages offer: entry points called like the slot, ``rule = "package.module:Class"``."""
    found: dict[str, frozenset[str]] = {}
    for point in entry_points(group=GROUP):
        found[point.name] = found.get(point.name, frozenset()) | {f"{point.module}.{point.attr}"}
    return found


def _matches(target: str, pattern: str) -> bool:
    """Whether a dotted name is the one, or follows the pattern of one, level by level."""
    return target.count(".") == pattern.count(".") and fnmatchcase(target, pattern)
