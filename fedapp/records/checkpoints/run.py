"""What a run folder keeps of its run after every round, and how the folder is brought back to it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedapp.core.files import writing
from fedapp.core.payload import State
from fedapp.records.checkpoints.series import Series

FOLDER = "checkpoints"
KEPT = 2


def checkpoints_of(run_dir: Path) -> Series:
    """The server's checkpoints of a run; the clients' memories stand beside them."""
    return Series(run_dir / FOLDER / "server", KEPT, syncs=True)


def lengths(run_dir: Path) -> dict[str, int]:
    """Bytes of the run's growing files, by name."""
    return {path.name: path.stat().st_size for path in sorted(run_dir.glob("*.jsonl"))}


def newest_checkpoint(run_dir: Path, warn: Callable[[str], None]) -> State | None:
    """The newest checkpoint that can be read and whose rows are still there; None if there is none.

    Args:
        run_dir: The run folder.
        warn: Told of each that is passed over.
    """
    for state in checkpoints_of(run_dir).readable(warn):
        there = lengths(run_dir)
        lost = [name for name, size in state.facts["files"].items() if there.get(name, 0) < size]
        if not lost:
            return state
        warn(f"{run_dir / lost[0]} lacks rows that the last checkpoint counts; the one before it is taken")
    return None


def cut_back(run_dir: Path, state: State | None) -> None:
    """Bring a run's files back to how they were at a checkpoint, or to nothing.

    Args:
        run_dir: The run folder.
        state: The checkpoint; None where there is none.

    Raises:
        WriteError: If a file cannot be changed.
    """
    files: Mapping[str, int] = {} if state is None else state.facts["files"]
    for path in run_dir.glob("*.jsonl"):
        with writing(path):
            if size := files.get(path.name, 0):
                os.truncate(path, size)
            else:
                path.unlink()
    with writing(run_dir):
        (run_dir / "summary.json").unlink(missing_ok=True)
    if state is None:
        for path in (run_dir / FOLDER, run_dir / "adapters"):
            with writing(path):
                if path.exists():
                    shutil.rmtree(path)


def rows_of(run_dir: Path, name: str) -> list[dict[str, Any]]:
    """The rows of ``<name>.jsonl``; none where there is no such file."""
    path = run_dir / f"{name}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
