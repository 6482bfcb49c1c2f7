"""The folder that Flower, Ray and their sockets have for one run."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

OWNER = "fedapp-owner.json"
# Unix socket paths end at 107 characters, of which Ray's session folders take 65.
LONGEST_TEMP = 40
# A clock that is set while a process runs moves its start time.
SAME_START_SECONDS = 3600.0


@contextmanager
def flower_home() -> Iterator[Path]:
    """A short folder of this process; gone afterwards, with those that killed processes left."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) + len("/fedapp-12345678") > LONGEST_TEMP:
        parent = Path("/tmp")
    for left in parent.glob("fedapp-????????"):
        if _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    home = parent / f"fedapp-{secrets.token_hex(4)}"
    home.mkdir(mode=0o700)
    try:
        (home / OWNER).write_text(json.dumps(_owner()), encoding="utf-8")
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _owner() -> dict[str, str | int | float]:
    return {"machine": _machine(), "pid": os.getpid(), "created": psutil.Process().create_time()}


def _machine() -> str:
    """What a process number is good for: containers may share a folder and number on their own."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _is_abandoned(home: Path) -> bool:
    """Whether a folder names its owner and that process is gone; in doubt it is not."""
    try:
        owner = json.loads((home / OWNER).read_text(encoding="utf-8"))
        if owner["machine"] != _machine():
            return False
        alive = psutil.Process(owner["pid"]).create_time()
        return abs(alive - owner["created"]) > SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return False
