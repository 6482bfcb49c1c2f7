"""Where the project's own files are, and how files are written."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, or the folder that the package is installed in."""
PACKAGE = ROOT / "fedapp"
CONF = ROOT / "conf"
ASSETS = PACKAGE / "assets"


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or none: a reader never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
