"""A run's folder: a new one, or that of a run that goes on."""

from __future__ import annotations

from collections.abc import Sequence

from fedapp.config.build import ConfigError
from fedapp.config.composed import Composed
from fedapp.config.run import folder_setting
from fedapp.core.status import TAKEN_UP, taking_up
from fedapp.records.checkpoints.resume import find_resumable
from fedapp.records.checkpoints.run import cut_back
from fedapp.records.folder import RunFolder


def open_folder(config: Composed, overrides: Sequence[str] = ()) -> RunFolder:
    """The folder of the run that ``config["resume"]`` names, to go on with; else as ``RunFolder.create``.

    Its ``resumed`` then holds what the server kept of that run.

    Raises:
        ConfigError: As ``create``; if that run cannot go on, or not with this config, or another process
            is taking it up at this moment.
        WriteError: If it cannot be written to.
    """
    if config["resume"] is None:
        return RunFolder.create(config, overrides)
    path = folder_setting(config, "resume")
    found: list[str] = []
    try:
        with taking_up(path):
            kept = find_resumable(path, config, found.append)
            cut_back(path, kept)
            folder = RunFolder(path, config.in_folder(path), overrides)
            if kept is not None:
                folder.take_over(kept)
            folder.begin()
    except BlockingIOError:
        raise ConfigError(f"resume={path}: {TAKEN_UP}") from None
    for message in found:
        folder.warning(message)
    return folder
