"""How a run stands: what run.json says, and whether anybody is still at it.

starting    ``fedapp run`` has made the folder, the server has not begun
running     the server has
completed   all rounds are done
failed      it ended, and ``reason`` says by what
died        what worked on it was killed, or the machine went down, before it could say so

Whoever works on a run holds its folder (``flock``). The kernel lets go of that when the process ends,
whatever ends it: an unfinished run that nobody holds has died.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fedapp.core.errors import one_line
from fedapp.core.files import WriteError, read_json, write_atomically, write_in_place

STARTING, RUNNING, COMPLETED, FAILED, DIED = "starting", "running", "completed", "failed", "died"
UNFINISHED = (STARTING, RUNNING)
FILE = "run.json"
TIME = "%Y-%m-%dT%H:%M:%S%z"
"""How a time of day is written, in run.json and beside it."""

TAKEN_UP = "another process goes on with this run at this moment"

# Who only looks whether a folder is held has it for an instant.
_TRIES, _GLANCE_SECONDS = 5, 0.02

# Room that every run.json has, for the last word on a full disk.
LEAST_BYTES = 1024
# What the last word keeps where there is no room for more.
ESSENTIAL = ("status", "reason", "started", "seconds", "seed", "base-fingerprint", "pid")


def write_status(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write run.json, on a full disk too if there was one before.

    Where there is no room for a new file the old one is overwritten in place, which takes no new block
    on ext4, XFS and tmpfs; then it holds as much as fits, ``status`` and ``reason`` first. On a file
    system that copies on write (Btrfs, ZFS) or is read-only that may fail as well.

    Args:
        folder: The run folder.
        facts: All that run.json is to hold; ``status`` and ``reason`` among it.

    Raises:
        WriteError: If neither can be done.
    """
    path = folder / FILE
    text = json.dumps(facts, indent=1)
    try:
        write_atomically(path, f"{text:<{LEAST_BYTES - 1}}\n")
    except WriteError as error:
        try:
            room = path.stat().st_size
        except OSError:
            raise error from None
        write_in_place(path, _fitting(facts, room))


def _fitting(facts: Mapping[str, Any], room: int) -> str:
    """As many of the facts as fit, exactly as long as the room."""
    text = json.dumps(facts, indent=1)
    if len(text) >= room:
        text = json.dumps({key: facts[key] for key in ESSENTIAL if key in facts})
    reason = str(facts.get("reason", ""))
    while len(text) >= room and reason:
        reason = one_line(reason, len(reason) // 2) if len(reason) > 8 else ""
        text = json.dumps({"status": facts.get("status"), "reason": reason})
    return f"{text:<{max(room - 1, 0)}}\n"


def read_status(folder: Path) -> dict[str, Any]:
    """What run.json says; nothing if there is none that can be read."""
    return read_json(folder / FILE)


def holds_run(folder: Path) -> bool:
    """Whether a folder is a run's already, and not only made for one that is about to begin."""
    return (folder / FILE).exists() and read_status(folder).get("status") != STARTING


def has_died(folder: Path) -> bool:
    """Whether the run was ended by something that left it no last word."""
    status = read_status(folder).get("status")
    if status in UNFINISHED and is_held(folder) is False:
        # It may have ended between the two looks.
        status = read_status(folder).get("status")
        return status in (*UNFINISHED, DIED)
    return bool(status == DIED)


def how_it_died(folder: Path) -> str:
    """One line on a run that has died."""
    facts = read_status(folder)
    if facts.get("status") == DIED and facts.get("reason"):
        return one_line(str(facts["reason"]))
    return f"process {facts['pid']} has gone without a word" if "pid" in facts else "nobody works on it"


def holding(folder: Path) -> AbstractContextManager[None]:
    """Show for as long as the body runs, and the process lives, that somebody works on this run."""
    return _until_done(_lock(folder, exclusive=False))


def holding_alone(folder: Path) -> AbstractContextManager[None]:
    """As ``holding``, for who must be the only one: of two that begin in the same instant one is refused.

    Raises:
        BlockingIOError: If somebody holds the folder.
    """
    for _ in range(_TRIES - 1):
        with suppress(BlockingIOError):
            return _until_done(_lock(folder, exclusive=True))
        time.sleep(_GLANCE_SECONDS)
    return _until_done(_lock(folder, exclusive=True))


@contextmanager
def taking_up(folder: Path) -> Iterator[None]:
    """While the body runs no other process takes up this run: looks whether it is free, and holds it.

    What is locked is run.json. Who takes the run up holds its folder before the file is replaced, so that
    the next, who gets the new file, finds the folder held.

    Raises:
        BlockingIOError: If another process is at it, and stays at it for a tenth of a second.
    """
    for remaining in reversed(range(_TRIES)):
        with ExitStack() as taken:
            try:
                lock = _lock(folder / FILE, exclusive=True)
            except BlockingIOError:
                if not remaining:
                    raise
                time.sleep(_GLANCE_SECONDS)
                continue
            taken.enter_context(_until_done(lock))
            if lock is None or _is_at(lock, folder / FILE):
                yield
                return
    raise BlockingIOError(f"{folder / FILE} is replaced again and again")


def _is_at(lock: int, path: Path) -> bool:
    """Whether a locked file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def is_held(folder: Path) -> bool | None:
    """Whether a process works on this run; None where that cannot be known (some network disks)."""
    try:
        lock = _lock(folder, exclusive=True)
    except BlockingIOError:
        return True
    if lock is None:
        return None
    os.close(lock)
    return False


@contextmanager
def _until_done(lock: int | None) -> Iterator[None]:
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _lock(path: Path, exclusive: bool) -> int | None:
    """Lock a folder or a file, together with others or alone; None where there are no locks.

    Raises:
        BlockingIOError: If it is to be alone and there are others.
    """
    file = None
    try:
        import fcntl  # not on Windows

        file = os.open(path, os.O_RDONLY)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except (OSError, ImportError) as error:
        if file is not None:
            os.close(file)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return file
