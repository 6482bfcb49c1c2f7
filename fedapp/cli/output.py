"""Exit codes, and how a command complains."""

from __future__ import annotations

import sys

OK, FAILED, USAGE = 0, 1, 2


def complain(message: str) -> None:
    """Tell the user in one line what went wrong."""
    print(f"fedapp: error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Tell the user in one line what to know of a result that is printed all the same."""
    print(f"fedapp: warning: {' '.join(message.split())}", file=sys.stderr, flush=True)
