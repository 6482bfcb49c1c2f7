"""Numbered states in a folder: the newest ones are kept, and one that is damaged gives way to the last."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fedapp.core.files import writing
from fedapp.core.payload import State
from fedapp.records.checkpoints.stored import DamagedState, read_state, sync_to_disk, write_state

SYNC_SECONDS = 5.0
"""How often, at most, a series waits for the disk: what a power cut can cost beside the round under way."""

_NAME = re.compile(r"round-(\d{6,9})\.safetensors")


class Series:
    """A state for each round, in files of their own.

    Args:
        folder: Made with the first state.
        keep: How many of the newest stay.
        syncs: Whether to wait for the disk now and then; the last state that it has for sure then stays, too.
    """

    def __init__(self, folder: Path, keep: int, *, syncs: bool = False) -> None:
        self.folder = folder
        self.keep = keep
        self._syncs = syncs
        self._synced = 0.0
        self._on_disk: int | None = None

    def rounds(self) -> list[int]:
        """The rounds of which there is a file, in order."""
        names = [path.name for path in self.folder.glob("round-*.safetensors")]
        return sorted(int(found[1]) for found in map(_NAME.fullmatch, names) if found)

    def write(self, server_round: int, state: State, counted: Iterable[Path] = ()) -> None:
        """Keep the state of a round, in the place of those of later rounds, if there are any.

        Args:
            server_round: The round.
            state: What to keep.
            counted: Files whose rows the state counts: they must be on the disk before it is.

        Raises:
            WriteError: If that cannot be written; all that was there stays.
        """
        sync = self._syncs and time.monotonic() - self._synced > SYNC_SECONDS
        for path in counted if sync else ():
            with writing(path):
                sync_to_disk(path)
        write_state(self._path(server_round), state, sync=sync)
        if sync:
            self._synced, self._on_disk = time.monotonic(), server_round
        there = self.rounds()
        kept = [one for one in there if one <= server_round][-self.keep :]
        # Rounds may be shorter than the time between two waits: a power cut may take all of the newest.
        kept += [self._on_disk] if self._on_disk is not None else []
        for other in set(there) - set(kept):
            with suppress(OSError):
                self._path(other).unlink(missing_ok=True)

    def cut(self, up_to: int) -> None:
        """Remove the states of later rounds."""
        for one in self.rounds():
            if one > up_to:
                with suppress(OSError):
                    self._path(one).unlink(missing_ok=True)

    def readable(self, warn: Callable[[str], None], up_to: int | None = None) -> Iterator[State]:
        """The states that can be read, the newest first; arguments as in ``numbered``."""
        return (state for _, state in self.numbered(warn, up_to))

    def numbered(self, warn: Callable[[str], None], up_to: int | None = None) -> Iterator[tuple[int, State]]:
        """The states that can be read and their rounds, the newest first.

        Args:
            warn: Told of each that cannot.
            up_to: The latest round that may be taken.
        """
        for server_round in reversed(self.rounds()):
            if up_to is None or server_round <= up_to:
                try:
                    yield server_round, read_state(self._path(server_round))
                except DamagedState as error:
                    warn(f"{error}; the one before it is taken")

    def _path(self, server_round: int) -> Path:
        return self.folder / f"round-{server_round:06d}.safetensors"
