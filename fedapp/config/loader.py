"""Hydra's loader of ``conf/``, through Hydra's public functions and without leaving a trace of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra

from fedapp.core import files

_ONE_AT_A_TIME = threading.RLock()


def config_loader() -> ConfigLoader:
    """A loader of its own for each call: threads may compose at the same time, each with theirs."""
    with hydra_of_conf() as loader:
        return loader


@contextmanager
def hydra_of_conf() -> Iterator[ConfigLoader]:
    """Have Hydra initialised with ``conf/`` while the body runs.

    Hydra keeps one such state in a process. That of a notebook or a program which uses Hydra itself is put
    back; other threads that need it wait.
    """
    with _ONE_AT_A_TIME:
        state = GlobalHydra.instance()
        before = state.hydra
        state.clear()
        try:
            initialize_config_dir(str(files.CONF), job_name="fedapp", version_base="1.3")
            yield state.config_loader()
        finally:
            state.hydra = before
