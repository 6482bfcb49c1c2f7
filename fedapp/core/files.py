"""Where the project's own files are, how a party's is named; files written whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedapp.core.errors import Explained

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or the folder that the package is installed in."""
PACKAGE = ROOT / "fedapp"
CONF = ROOT / "conf"
ASSETS = PACKAGE / "assets"

POLICY_VARIABLE = "FEDAPP_POLICY"
"""Environment variable that names a policy file, where the node's configuration names none."""
POLICY_KEY = "policy"
"""The same in a node's configuration, which comes first."""
OFFLINE_VARIABLE = "FEDAPP_OFFLINE"
"""Environment variable that a party whose policy allows no network sets for its own process."""
OPEN = "open"
"""In the place of a file: server and clients are one user's, as in a simulation; nothing is guarded."""


class WriteError(Explained, OSError):
    """A file cannot be written: the disk or the quota is full, it is read-only, it broke.

    The text is one line that names the file and says why.
    """

    def __init__(self, path: Path, number: int | None, why: str) -> None:
        super().__init__(number, why, str(path))

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong inside is about writing this file.

    Raises:
        WriteError: In the place of any other ``OSError``.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(path, error.errno, error.strerror or str(error)) from error


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or none: a reader never sees half of it, and nothing else is left.

    Raises:
        WriteError: If it cannot be written; what was there before still is.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with writing(path):
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def write_in_place(path: Path, text: str) -> None:
    """Put a text into an existing file, for a disk that has no room for a second one.

    A text that is not longer than the file takes no new block where the file system overwrites in
    place, as ext4, XFS and tmpfs do. A reader of that moment may see half of it.

    Raises:
        WriteError: If it cannot be written; the file may be damaged then.
    """
    content = text.encode()
    with writing(path), path.open("r+b", buffering=0) as file:
        write_all(file.fileno(), content)
        file.truncate(len(content))


class LineFile:
    """A file to which whole lines are appended, each by one write.

    Args:
        path: The file; made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: io.FileIO | None = None

    def append(self, line: str) -> None:
        """Append a line; one that does not fit is taken back: there is never half a line, nor a file of none.

        Args:
            line: Without its end.

        Raises:
            WriteError: If the line cannot be written.
        """
        with writing(self.path):
            if self._file is None:
                self._file = io.FileIO(self.path, "a+")
                self._end_torn_line(self._file)
            self._append(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file; lines may still be appended later."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, file: io.FileIO, content: bytes) -> None:
        size = os.fstat(file.fileno()).st_size
        try:
            write_all(file.fileno(), content)
        except BaseException:
            with suppress(OSError):
                file.truncate(size)
            if size == 0:
                self.close()
                with suppress(OSError):
                    self.path.unlink()
            raise

    def _end_torn_line(self, file: io.FileIO) -> None:
        """Go on behind the half line that a program may have left that was killed as it wrote."""
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read(1) not in (b"", b"\n"):
            self._append(file, b"\n")


def append_line(path: Path, line: str) -> None:
    """Append one line to a file.

    Raises:
        WriteError: If the line cannot be written; the file is then as it was.
    """
    file = LineFile(path)
    try:
        file.append(line)
    finally:
        file.close()


def write_all(file: int, given: bytes | memoryview) -> None:
    """Write all of it to a file descriptor.

    Raises:
        OSError: If the disk does not take it.
    """
    # A disk that gets full takes a part first; only the next write says what is wrong.
    content = memoryview(given)
    while content:
        written = os.write(file, content)
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        content = content[written:]


def set_ordinary_modes(folder: Path) -> None:
    """Give a folder and what is in it the modes of files that anybody makes here (0644, 0755 by umask).

    Some libraries write for their owner alone, so that nobody else could open what they wrote.
    """
    mask = os.umask(0)
    os.umask(mask)
    for path in [folder, *folder.rglob("*")]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
