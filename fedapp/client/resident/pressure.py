"""Whether the machine needs the memory that an idle worker holds."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

SPARE = 0.05
"""Share of the memory, of the machine or of the process's control group, below which it is short."""
_GROUPS = Path("/sys/fs/cgroup")


def is_short_of_memory() -> bool:
    """Whether less than ``SPARE`` of the memory is left, caches not counted as used."""
    memory = psutil.virtual_memory()
    return memory.available < SPARE * memory.total or _group_is_short(_own_group())


def _own_group() -> Path:
    """The control group of this process (version 2)."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return _GROUPS / line[3:].lstrip("/")
    return _GROUPS


def _group_is_short(group: Path) -> bool:
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return False  # no such limit here
    if not limit.isdigit():
        return False
    return int(limit) - (used - int(counts.get("inactive_file", 0))) < SPARE * int(limit)
