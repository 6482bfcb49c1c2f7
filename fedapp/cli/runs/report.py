"""``fedapp report``: finished runs as one page."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from fedapp.cli.output import require_place
from fedapp.core.files import write_atomically
from fedapp.records.table import format_bytes
from fedapp.reporting.comparison.rows import Question, compare_runs


def report(
    roots: Sequence[Path],
    out: Path,
    stream: TextIO,
    warn: Callable[[str], None],
    metric: str | None = None,
    benchmark: str | None = None,
    show: bool = False,
) -> None:
    """Write the page, and say where.

    Args:
        roots: Run folders, or folders with run folders somewhere below.
        out: The page's file; one that is there is replaced.
        stream: Where to print.
        warn: Told in one line of each run or file that cannot be read.
        metric: What to show; None for the benchmark's first metric.
        benchmark: Whose runs; None where there is only one.
        show: Whether to open it in the browser.

    Raises:
        ValueError: If runs cannot be compared, the libraries are missing, or the page has no place.
        WriteError: If it cannot be written; nothing half-written is left.
    """
    require_place("--out", out, "report.html")
    comparison = compare_runs(roots, warn, Question(metric, benchmark))
    try:
        from fedapp.reporting.page.page import make_page
    except ModuleNotFoundError as error:
        raise ValueError(f"a report needs {error.name}: pip install 'fedapp[report]'") from None
    page = make_page(comparison, warn)
    write_atomically(out, page)
    runs = len(comparison.results)
    told = f"{runs} run{'s' * (runs > 1)}, {format_bytes(len(page.encode()))}"
    print(f"report: {out} ({told})", file=stream, flush=True)
    if show and not webbrowser.open(out.resolve().as_uri()):
        warn(f"no browser could be opened: open {out.resolve()} yourself")
