"""``fedapp list``: what the config groups offer, one line each."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import yaml

from fedapp.core.files import CONF


def choices(conf: Path = CONF) -> dict[str, dict[str, str]]:
    """Every choice of every group of ``conf/`` with its description.

    Args:
        conf: Folder with one folder per group.

    Returns:
        ``{"methods": {"fedavg": "one line", …}, …}``; a group is called by its plural.
    """
    return {
        f"{folder.name}s": {path.stem: _describe(path) for path in sorted(folder.glob("*.yaml"))}
        for folder in sorted(conf.iterdir())
        if folder.is_dir() and any(folder.glob("*.yaml"))
    }


def print_choices(kinds: Sequence[str], stream: TextIO, conf: Path = CONF) -> None:
    """Print the groups asked for, all of them if none is.

    Args:
        kinds: ``methods``, ``benchmarks``, …; the singular will do.
        stream: Where to print.
        conf: Folder with one folder per group.

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
            print(f"  {name:<{width}}  {description}".rstrip(), file=stream)


def _find(kind: str, known: Sequence[str]) -> str:
    for name in known:
        if kind in (name, name[:-1]):
            return name
    close = difflib.get_close_matches(kind, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
    raise ValueError(f"there is no list of {kind!r}; {hint}")


def _describe(path: Path) -> str:
    """The file's ``description``, else its first comment that is neither directive nor command."""
    text = path.read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    if isinstance(tree, dict) and isinstance(tree.get("description"), str):
        return " ".join(tree["description"].split())
    comments = (line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#"))
    return next((comment for comment in comments if not comment.startswith(("@package", "fedapp run "))), "")
