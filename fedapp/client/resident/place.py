"""Where a party's resident worker is met: a socket in a folder that is the user's alone."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapp.client.resident.request import Request
from fedapp.core.files import POLICY_KEY, POLICY_VARIABLE, ROOT

_LONGEST = 100  # bytes of a socket's path; the system takes 107


@dataclass(frozen=True)
class Place:
    """A node's worker is met here.

    Attributes:
        folder: Of this node, mode 0700.
    """

    folder: Path

    @property
    def address(self) -> Path:
        """Where the worker listens."""
        return self.folder / "socket"

    @classmethod
    def of(cls, node_config: Mapping[str, Any], owner: int) -> Place:
        """The place of a node, made if need be; those that dead nodes left are cleared away.

        Args:
            node_config: What the node was started with.
            owner: Process of the node, which starts the app's processes.

        Raises:
            OSError: If there can be no folder that is the user's alone.
        """
        base = _private(_base())
        for left in base.iterdir():
            number = left.name.partition("-")[0]
            if number.isdigit() and not Path("/proc", number).exists() and not cls(left).is_used():
                shutil.rmtree(left, ignore_errors=True)
        about = json.dumps([str(ROOT), sys.executable, dict(node_config)], sort_keys=True)
        place = cls(_private(base / f"{owner}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"))
        if len(os.fsencode(place.address)) > _LONGEST:
            raise OSError(
                f"{place.address} is too long for a socket; set XDG_RUNTIME_DIR to a shorter folder"
            )
        return place

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the place: nobody else starts a worker or takes one away meanwhile."""
        file = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def is_used(self) -> bool:
        """Whether somebody listens, who may live in another container and have no number here."""
        try:
            line = self.connect()
        except OSError:
            return True
        if line is not None:
            line.close()
        return line is not None

    def connect(self) -> socket.socket | None:
        """A line to the worker that listens; None if none does."""
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(str(self.address))
            require_same_user(line)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            line.close()
            return None
        except BaseException:
            line.close()
            raise
        return line

    def listen(self) -> socket.socket:
        """A socket in the place of one that nobody listens on; only while the place is locked.

        Raises:
            OSError: If there can be none.
        """
        self.clear()
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(self.address))
            self.address.chmod(0o600)
            listener.listen()
        except BaseException:
            listener.close()
            raise
        return listener

    def clear(self) -> None:
        """Take the socket away; only while the place is locked."""
        with suppress(FileNotFoundError):
            self.address.unlink()


def stamp_of(request: Request) -> bytes:
    """What a worker must have been started for, 32 bytes: the run, this very code, the policy as it is now.

    What libraries read once, and rows that were read, are thus never another run's or policy's.
    """
    named = request.node_config.get(POLICY_KEY) or os.environ.get(POLICY_VARIABLE)
    seen: list[Any] = [request.run, str(ROOT), named]
    if named:
        with suppress(OSError):
            about = Path(str(named)).expanduser().stat()
            seen += [about.st_mtime_ns, about.st_size, about.st_ino]
    return hashlib.sha256(json.dumps(seen).encode()).digest()


def require_same_user(line: socket.socket) -> None:
    """Refuse a line whose other end is another user's.

    Raises:
        PermissionError: If it is.
    """
    credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    if user != os.getuid():
        raise PermissionError(f"the other end of the socket is user {user}'s, not {os.getuid()}'s")


def _base() -> Path:
    """Below the user's runtime folder, else below that of temporary files."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and Path(given).is_dir():
        return Path(given) / "fedapp"
    return Path(tempfile.gettempdir()) / f"fedapp-{os.getuid()}"


def _private(folder: Path) -> Path:
    """A folder, made with mode 0700 if need be.

    Raises:
        PermissionError: If it is another user's, a link, or open to others; OSError if it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise PermissionError(f"{folder} must be a folder of this user, with mode 0700")
    return folder
