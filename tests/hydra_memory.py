"""What Hydra does again for every tree of ``conf/`` is done once in a test process.

Composing is nine tenths of many tests. Files are parsed, and trees put together, once for each choice of
groups; values are set in a copy, by Hydra. What is not in ``conf/`` as it is shipped, or chooses settings of
Hydra's own, is left to Hydra each time.
"""

from __future__ import annotations

import copy
import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import hydra.version
import omegaconf
import pytest
import yaml
from omegaconf import grammar_parser

from fedapp.config.loader import config_loader
from fedapp.core import files

Loader = type(config_loader())
hydras_loader = sys.modules[Loader.__module__]
"""Where Hydra's loader finds what it calls; whether it does is tested."""
LIST_BY_HYDRA = hydras_loader.create_defaults_list
TREE_BY_HYDRA = Loader._compose_config_from_defaults_list


@contextmanager
def texts_read_once() -> Iterator[None]:
    """Parse each YAML text, each interpolation and Hydra's version once; by what the text says."""
    found, loaders = functools.cache(yaml.load), {}  # OmegaConf makes its loader's class anew for every text

    def load(stream: Any, Loader: type) -> Any:
        text = stream if isinstance(stream, str) else stream.read()
        return copy.deepcopy(found(text, loaders.setdefault(Loader.__name__, Loader)))

    remembering = ModuleType("yaml")
    remembering.__dict__.update(yaml.__dict__, load=load)
    parse = grammar_parser.parse
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[omegaconf.OmegaConf.__module__], "yaml", remembering)
        patch.setattr(hydra.version, "_get_version", functools.cache(hydra.version._get_version))
        for name, module in list(sys.modules.items()):
            if name.startswith("omegaconf.") and vars(module).get("parse") is parse:
                patch.setattr(module, "parse", functools.cache(parse))
        yield


class Memory:
    """Trees by the groups that are chosen."""

    def __init__(self) -> None:
        self.conf = str(files.CONF)
        self.lists: dict[Any, Any] = {}
        self.trees: dict[int, Any] = {}
        self.lock = threading.RLock()

    def defaults_list(
        self, repo: Any, config_name: Any, overrides_list: Any, prepend_hydra: bool, skip_missing: bool
    ) -> Any:
        """Hydra's list of files for these overrides."""
        given = (prepend_hydra, skip_missing)
        chosen = [one for one in overrides_list if repo.group_exists(one.key_or_group)]
        ours = [source.path for source in repo.get_sources() if source.provider == "main"] == [self.conf]
        if not ours or any(one.key_or_group.startswith("hydra") for one in chosen):
            return LIST_BY_HYDRA(repo, config_name, overrides_list, *given)
        key = (config_name, tuple(one.input_line for one in chosen), *given)
        with self.lock:
            if key not in self.lists:
                self.lists[key] = LIST_BY_HYDRA(repo, config_name, chosen, *given)
            found = self.lists[key]
        of_groups = {one.input_line for one in found.config_overrides}
        values = [one for one in overrides_list if one not in chosen or one.input_line in of_groups]
        return replace(found, config_overrides=values)

    def tree(self, loader: Any, defaults: Any, repo: Any) -> Any:
        """The tree of a list of files, before values are set in it."""
        if not any(one.defaults is defaults for one in self.lists.values()):
            return TREE_BY_HYDRA(loader, defaults, repo)
        with self.lock:
            if id(defaults) not in self.trees:
                self.trees[id(defaults)] = TREE_BY_HYDRA(loader, defaults, repo)
            return copy.deepcopy(self.trees[id(defaults)])


@contextmanager
def trees_composed_once() -> Iterator[None]:
    """Compose each choice of groups once."""
    memory = Memory()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydras_loader, "create_defaults_list", memory.defaults_list)
        patch.setattr(
            Loader,
            "_compose_config_from_defaults_list",
            lambda loader, defaults, repo: memory.tree(loader, defaults, repo),
        )
        yield
