"""The table at the end of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# A file or a pipe has no width of its own: let tables be as wide as they need.
PIPE_WIDTH = 200


def show_summary(run_dir: Path, stream: TextIO) -> None:
    """Print the table of ``summary.json`` and the path of the run folder.

    Args:
        run_dir: The run folder; a run without summary gets the path only.
        stream: Where to print.
    """
    console = Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH)
    path = run_dir / "summary.json"
    if path.exists():
        summary = json.loads(path.read_text(encoding="utf-8"))
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in summary["columns"]:
            table.add_column(str(column), justify="right", overflow="fold")
        for row in summary["rows"]:
            table.add_row(*(escape(show_cell(value)) for value in row))
        console.print(table)
        if summary.get("footer"):
            console.print(escape(str(summary["footer"])), highlight=False)
    print(f"run folder: {run_dir}", file=stream, flush=True)


def show_cell(value: object) -> str:
    """A value as a table shows it; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
