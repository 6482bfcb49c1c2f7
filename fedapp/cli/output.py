"""Exit codes, and how a command complains."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence

from fedapp.core.errors import printable

OK, FAILED, USAGE = 0, 1, 2


def complain(message: str) -> None:
    """Tell the user in one line what went wrong."""
    print(f"fedapp: error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Tell the user in one line what to know of a result that is printed all the same."""
    print(f"fedapp: warning: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint to append to a complaint: the one known word most like ``word``, else all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
