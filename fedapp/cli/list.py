"""``fedapp list``: what the config groups offer, one line each."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from fedapp.cli.output import nearest
from fedapp.config.choices import choices


def print_choices(kinds: Sequence[str], stream: TextIO, conf: Path | None = None) -> None:
    """Print the groups asked for, all of them if none is.

    Args:
        kinds: ``methods``, ``benchmarks``, …; the singular will do.
        stream: Where to print.
        conf: Folder with one folder per group; None: the project's own.

    Raises:
        ValueError: If there is no such group.
    """
    known = choices(conf)
    wanted = [_find(kind, list(known)) for kind in kinds] or list(known)
    for number, kind in enumerate(wanted):
        width = max(map(len, known[kind]))
        if number:
            print(file=stream)
        print(f"{kind} ({kind[:-1]}=…)", file=stream)
        for name, description in known[kind].items():
            print(_entry(f"  {name:<{width}}  ", description, stream), file=stream)


def _entry(head: str, text: str, stream: TextIO) -> str:
    """A choice with its description; on a terminal the latter has a column of its own."""
    if not stream.isatty():
        return f"{head}{text}".rstrip()
    room = max(shutil.get_terminal_size().columns, len(head) + 20)
    return (
        textwrap.fill(
            text, room, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
        )
        or head.rstrip()
    )


def _find(kind: str, known: Sequence[str]) -> str:
    for name in known:
        if kind in (name, name[:-1]):
            return name
    raise ValueError(f"there is no list of {kind!r}{nearest(kind, known)}")
