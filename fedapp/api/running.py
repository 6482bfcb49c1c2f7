"""``fedapp.run``: the command's run, with results in the place of an exit code."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from fedapp.api.results import Run
from fedapp.cli.output import OK, USAGE
from fedapp.cli.run import refuse_sweeps, run_once
from fedapp.config.build import ConfigError
from fedapp.engines.job import RunFailed

# A run in this process has its base model and its standard output for itself.
_ONE_AT_A_TIME = threading.RLock()


def run(overrides: Sequence[str] = (), *, progress: bool = True) -> Run:
    """Train federatedly as configured, as ``fedapp run`` does.

    Runs of one process follow one another, whatever threads they are started in; ``sweep`` runs several at
    once. Signals are handled in the main thread alone.

    Args:
        overrides: Settings that differ from conf/config.yaml: ``["method=fedreft", "num_rounds=3"]``.
        progress: Whether to show on standard output how it goes.

    Returns:
        The run, which is complete.

    Raises:
        ConfigError: If a setting cannot be used; nothing was written.
        RunFailed: If the run did not end as it should; ``path`` is its folder.
        KeyboardInterrupt: If interrupted; the run is closed first.
    """
    words = listed(overrides)
    with _ONE_AT_A_TIME:
        refuse_sweeps(words)
        outcome = run_once(words, shown(progress))
    if outcome.code == USAGE:
        raise ConfigError(outcome.complaint)
    if outcome.code != OK or outcome.run_dir is None:
        raise RunFailed(outcome.complaint, outcome.run_dir)
    return Run(outcome.run_dir)


def listed(overrides: Sequence[str]) -> list[str]:
    """Overrides as a list.

    Raises:
        ConfigError: If they are one text, or hold something else than texts.
    """
    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise ConfigError(f'overrides={overrides!r} must be a list of texts, such as ["method=fedreft"]')
    return list(overrides)


def shown(progress: bool) -> TextIO:
    """Where progress is shown: standard output, or nowhere."""
    return sys.stdout if progress else io.StringIO()


@contextmanager
def alone() -> Iterator[None]:
    """Let no other run of this process begin while the body runs."""
    with _ONE_AT_A_TIME:
        yield
