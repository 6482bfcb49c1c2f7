"""Errors in one line, for people."""

from __future__ import annotations

import re
import signal
import traceback
from contextlib import suppress
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"<class '[\w.()]+'>:<'(.*?)'>", re.DOTALL)
_READ = 20_000


def printable(text: str, keep: str = "") -> str:
    r"""A text with all characters escaped that do not print, as ``\x1b`` or ``\u202e``.

    These are what terminals act on, what turns the direction of a line or hides in it, and half
    surrogate pairs, which cannot be written at all.

    Args:
        text: From anybody.
        keep: Characters to leave as they are (a line break).
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException | str, longest: int = 600) -> str:
    """An error's text on one line.

    What a client raised reaches the server as ``<class '…'>:<'…'>``, with Ray's tracebacks inside:
    only the last line of it is kept. Terminal colours and all beyond ``longest`` characters go too;
    what else a terminal would act on is escaped.
    """
    text = str(error)
    if len(text) > _READ:  # of a text that somebody else chose the length of: its begin and its end
        text = f"{text[: _READ // 2]} {text[-_READ // 2 :]}"
    text = _COLOUR.sub("", text)
    text = _RAISED.sub(lambda match: match[1].strip().split("\n")[-1], text)
    text = text.replace("Exception ClientAppException occurred. Message: ", "")
    line = printable(" ".join(text.split()))
    if not line and isinstance(error, BaseException):
        line = type(error).__name__
    return line if len(line) <= longest else line[: longest - 2] + " …"


class Explained(Exception):
    """An error whose text is one line that says all: a traceback would add nothing."""


def is_ours(error: BaseException) -> bool:
    """Whether the project's own code raised it, not a library that may quote what it was given."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and _PACKAGE in Path(frames[-1].filename).resolve().parents


class RowError(ValueError):
    """A row of somebody's data cannot be used.

    Its text may leave the party: file, row, column and the type found, never what stands in the row.

    Attributes:
        private: The same with the value, for the party's own log alone.
    """

    def __init__(self, text: str, private: str = "") -> None:
        super().__init__(text)
        self.private = private or text


class FederationError(Explained, RuntimeError):
    """The federation cannot go on; the text is one line for the user."""


def reason_of(error: BaseException) -> str:
    """One line on what ended a run; for an interruption the signal's name."""
    if isinstance(error, SystemExit):
        code = f" (exit code {error.code})" if error.code else ""
        return f"it was stopped from outside{code}: fedapp site stop, flwr stop, or a signal to its process"
    if not isinstance(error, KeyboardInterrupt):
        return one_line(error)
    # The command line gives the exit code that is due: 128 plus the signal's number.
    number = error.args[0] - 128 if error.args and isinstance(error.args[0], int) else signal.SIGINT
    with suppress(ValueError):
        return f"interrupted by {signal.Signals(number).name}"
    return "interrupted"
