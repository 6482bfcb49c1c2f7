"""What a tracker is, and the watch over one: whatever goes wrong with it is no trouble of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fedapp.config.build import ConfigError, build_as
from fedapp.core.errors import one_line
from fedapp.records.trackers.series import series

EXTRA = "pip install 'fedapp[trackers]'"


@runtime_checkable
class Tracker(Protocol):
    """Shows a run in another program; may raise whatever its library raises."""

    def begin(self, path: Path, config: Mapping[str, Any]) -> None:
        """A run begins.

        Args:
            path: The run folder.
            config: Its composed config.
        """

    def log(self, server_round: int, values: Mapping[str, float]) -> None:
        """Points of curves, by the curve's name; the round, from 1, is where they stand on the x axis."""

    def end(self, completed: bool) -> None:
        """The run is over; nothing follows."""


class Tracking:
    """Hands a run's rows to its tracker, until one is not taken.

    Args:
        tracker: None where nothing but the run folder is wanted.
        warn: Told once, in one line, if the tracker fails.
    """

    def __init__(self, tracker: Tracker | None, warn: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._warn = warn

    def begin(self, path: Path, config: Mapping[str, Any]) -> None:
        """As in ``Tracker``; raises nothing."""
        self._try(lambda tracker: tracker.begin(path, config))

    def row(self, file: str, row: Mapping[str, Any]) -> None:
        """A row that goes to ``<file>.jsonl``; one without numbers shows nowhere. Raises nothing."""
        if self._tracker is not None and (found := series(file, row)):
            self._try(lambda tracker: tracker.log(row["server-round"], found))

    def end(self, completed: bool) -> None:
        """As in ``Tracker``; raises nothing."""
        self._try(lambda tracker: tracker.end(completed))
        self._tracker = None

    def _try(self, call: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            call(self._tracker)
        except Exception as error:
            name = type(self._tracker).__name__
            self._tracker = None  # before the warning, which is a row as well
            self._warn(f"the run goes on without its tracker ({name}): {one_line(error)}")


def build_tracker(config: Mapping[str, Any]) -> Tracker | None:
    """The tracker that a run's config names.

    Returns:
        None if it names none.

    Raises:
        ConfigError: If its package is missing or a setting cannot be used.
    """
    node = config.get("tracker") or {}
    if "_target_" not in node:
        return None
    return build_as(Tracker, node, "tracker", "a tracker of fedapp.records.trackers")  # type: ignore[type-abstract]


def require_package(package: str, choice: str) -> None:
    """Refuse a tracker whose package is not there.

    Args:
        package: The name that it is imported by.
        choice: Of the config group ``tracker``.

    Raises:
        ConfigError: That says how to install it.
    """
    if find_spec(package) is None:
        raise ConfigError(f"tracker={choice} needs the package {package}: {EXTRA}")
