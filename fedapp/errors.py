"""Errors in one line, for people."""

from __future__ import annotations

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"<class '[\w.()]+'>:<'(.*?)'>", re.DOTALL)


def one_line(error: BaseException | str, longest: int = 600) -> str:
    """An error's text on one line.

    What a client raised reaches the server as ``<class '…'>:<'…'>``, with Ray's tracebacks inside:
    only the last line of it is kept. Terminal colours and all beyond ``longest`` characters go too.
    """
    text = _COLOUR.sub("", str(error))
    text = _RAISED.sub(lambda match: match[1].strip().split("\n")[-1], text)
    text = text.replace("Exception ClientAppException occurred. Message: ", "")
    line = " ".join(text.split())
    if not line and isinstance(error, BaseException):
        line = type(error).__name__
    return line if len(line) <= longest else line[: longest - 2] + " …"
