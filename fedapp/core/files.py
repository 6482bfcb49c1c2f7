"""Where the project's own files are, how a party's is named, and how files are written."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or the folder that the package is installed in."""
PACKAGE = ROOT / "fedapp"
CONF = ROOT / "conf"
ASSETS = PACKAGE / "assets"

POLICY_VARIABLE = "FEDAPP_POLICY"
"""Environment variable that names a policy file, where the node's configuration names none."""
POLICY_KEY = "policy"
"""The same in a node's configuration, which comes first."""
OPEN = "open"
"""In the place of a file: server and clients are one user's, as in a simulation; nothing is guarded."""


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or none: a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
