"""What conf/ offers: groups and their choices."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from fedapp.config.build import about
from fedapp.core import files

OF_SWEEPS = "sweep"
"""A folder of ``conf/`` that no run reads: how a sweep goes (fedapp.config.search)."""


def groups() -> dict[str, list[str]]:
    """The choices of every config group of a run: ``{"method": ["fedavg", …]}``."""
    return {
        folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
        for folder in sorted(files.CONF.iterdir())
        if folder.is_dir() and folder.name != OF_SWEEPS
    }


def choices(conf: Path | None = None) -> dict[str, dict[str, str]]:
    """Every choice of every group of ``conf/`` with its description.

    Args:
        conf: Folder with one folder per group; None: the project's own.

    Returns:
        ``{"methods": {"fedavg": "one line", …}, …}``; a group is called by its plural.
    """
    conf = conf or files.CONF
    return {
        f"{folder.name}s": {path.stem: _describe(path) for path in sorted(folder.glob("*.yaml"))}
        for folder in sorted(conf.iterdir())
        if folder.is_dir() and any(folder.glob("*.yaml"))
    }


def _describe(path: Path) -> str:
    """The file's ``about.description``, else its comment's first sentence, directives and commands aside."""
    text = path.read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    said = about(tree, "description") if isinstance(tree, dict) else None
    if isinstance(said, str):
        return " ".join(said.split())
    comments = [line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")]
    own = [comment for comment in comments if not comment.startswith(("@package", "fedapp run "))]
    sentence = re.match(r".*?\.(?= |$)", " ".join(own))
    return sentence[0] if sentence else next(iter(own), "")
