"""Exit codes, and how a command complains."""

from __future__ import annotations

import difflib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from fedapp.core.errors import printable

OK, FAILED, USAGE = 0, 1, 2
READER_GONE = 141
"""128 plus SIGPIPE's number: what a shell reports of a tool whose reader has had enough."""


def leave_quietly() -> int:
    """Let nothing more be written into a broken pipe, at the process's end neither; the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    return READER_GONE


class Piped(io.StringIO):
    """A stream that is no terminal: a run goes on where whoever read it has gone.

    Attributes:
        gone: Whether that has happened.
    """

    def __init__(self, stream: TextIO, mark: str = "") -> None:
        """Write to ``stream``; a ``mark`` opens every line, which tells the jobs of a sweep apart."""
        super().__init__()
        self._stream, self._mark, self._line = stream, mark, ""
        self.gone = False

    def write(self, text: str) -> int:
        """Write whole lines."""
        *whole, self._line = (self._line + text).split("\n")
        self._pass("".join(f"{self._mark}{line}\n" for line in whole))
        return len(text)

    def flush(self) -> None:
        """Write what there is."""
        self._pass("")

    def _pass(self, text: str) -> None:
        if self.gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            self.gone = True


def complain(message: str) -> None:
    """Tell the user in one line what went wrong."""
    print(f"fedapp: error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Tell the user in one line what to know of a result that is printed all the same."""
    print(f"fedapp: warning: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)


def told_in_one_line(act: Callable[[], int | None]) -> int:
    """Do something; what it refuses is one line and a wrong usage."""
    try:
        return act() or OK
    except BrokenPipeError:  # the reader has gone: ``main`` knows the exit code
        raise
    except (ValueError, OSError) as error:
        complain(str(error))
        return USAGE


def require_place(option: str, file: Path, example: str, read: Path | None = None) -> None:
    """Refuse a file that cannot be written, before the work that fills it; one that is there is replaced.

    Args:
        option: Which names it.
        file: To be written.
        example: A name that would be right.
        read: The file that the work reads.

    Raises:
        ValueError: If it has no place, or would replace what is read.
    """
    why = ""
    if file.is_dir():
        why = "is a folder"
    elif not file.parent.is_dir():
        why = f"lies in {file.parent}, which does not exist"
    elif read is not None and file.exists() and read.exists() and file.samefile(read):
        why = "is the file that is read"
    if why:
        raise ValueError(f"{option} {file} {why}; it must be a file to write, such as {example}")


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint to append to a complaint: the one known word most like ``word``, else all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
