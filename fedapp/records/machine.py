"""What a run ran on, for its run.json."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedapp import __version__
from fedapp.core.files import ROOT
from fedapp.models.processor import processor_name

PACKAGES = ("flwr", "torch", "transformers", "peft", "pyreft", "pyvene", "datasets", "flwr-datasets", "numpy")


def describe_machine() -> dict[str, Any]:
    """Commit, Python, kind of machine and versions; no names of hosts or people."""
    return {
        "git-sha": _git_sha(),
        "python": platform.python_version(),
        "processor": processor_name(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {"fedapp": __version__} | {name: _version(name) for name in PACKAGES},
    }


def _git_sha() -> str | None:
    # Under Flower the app runs from a bundle; the engine says which checkout it was made of.
    source = os.environ.get("FEDAPP_SOURCE") or str(ROOT)
    command = ["git", "-C", source, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


@cache  # a package's whole description is read for its version, and a process may make many runs
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
