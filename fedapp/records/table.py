"""Numbers as people read them: tables, percent, bytes; the table at the end of a run."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedapp.core.errors import printable
from fedapp.records.pooling import Pooled, mean_of_intervals
from fedapp.records.summary import SCORES

# A file or a pipe has no width of its own: let tables be as wide as they need.
PIPE_WIDTH = 200
# So that a run's table fits a terminal of 80 columns.
TASKS_WIDTH = 16
# To what columns of text are folded before other columns move below the row, and what parts two columns.
FOLDED_WIDTH, GAP = 24, 2
# Stands for a blank within a name and its value, where no line is to be broken.
_FIXED = "\ue000"
OWN, UNKNOWN = "†", "‡"
"""Marks of a pooled score: of models that differ, and of models of which it is not known."""
COLUMNS = ("client", "tasks", "train", "test", "base", "round 1", "final", "sent", "received")


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    stream: TextIO,
    *,
    left: Sequence[str] = (),
    ruled: bool = True,
) -> None:
    """Print a table as wide as the terminal allows: columns of text are folded, and columns for which there
    is no room are told in lines below each row.

    Args:
        columns: Headings.
        rows: A cell for each column; see ``show_cell``.
        stream: Where to print.
        left: Columns of text, flush left; all others are flush right.
        ruled: Whether a line is drawn below the headings; a list to search in goes without.
    """
    texts = [[printable(show_cell(value), keep="\n") for value in row] for row in rows]
    console = _console(stream)
    widths = _widths(columns, texts, left)
    if stream.isatty() and sum(widths) + GAP * len(columns) > console.width:
        _print_folded(columns, texts, widths, left, console)
        return
    look: Any = {"box": box.SIMPLE_HEAD if ruled else None, "padding": (0, 1 if ruled else 2, 0, 0)}
    table = Table(pad_edge=False, **look)
    for column in columns:
        of_text = column in left
        # A number that is cut in two is read as two.
        table.add_column(
            escape(printable(column, keep="\n")),
            justify="left" if of_text else "right",
            overflow="fold",
            no_wrap=not of_text,
        )
    for row in texts:
        table.add_row(*map(escape, row))
    console.print(table)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str]) -> list[int]:
    """The characters that each column needs, columns of text folded as far as they can be read."""
    found = []
    for name, *cells in zip(columns, *rows, strict=True):
        widest = max(cell_len(line) for cell in (name, *cells) for line in cell.split("\n"))
        found.append(min(widest, FOLDED_WIDTH) if name in left else widest)
    return found


def _print_folded(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int],
    left: Sequence[str],
    console: Console,
) -> None:
    """Print the columns that fit as a table, and below each row the others with their names."""
    room = console.width
    fitting = max(n for n in range(1, len(widths)) if n == 1 or sum(widths[:n]) + GAP * (n - 1) <= room)
    spare = room - sum(widths[:fitting]) - GAP * (fitting - 1)
    wide = [widths[0] + max(spare, 0) * (columns[0] in left), *widths[1:fitting]]
    lines = _row_lines(columns[:fitting], wide, left)
    lines += ["─" * min(sum(wide) + GAP * (fitting - 1), room)]
    for row in rows:
        lines += _row_lines(row[:fitting], wide, left, columns)
        told = [
            f"{' '.join(name.split())}: {' '.join(cell.split())}".replace(" ", _FIXED)
            for name, cell in zip(columns[fitting:], row[fitting:], strict=True)
        ]
        indent = "  "
        rest = textwrap.wrap(" · ".join(told), room, initial_indent=indent, subsequent_indent=indent)
        lines += [*(line.replace(_FIXED, " ") for line in rest), ""]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _row_lines(
    cells: Sequence[str], widths: Sequence[int], left: Sequence[str], columns: Sequence[str] | None = None
) -> list[str]:
    """The lines of one row; ``columns`` are the names of the cells where these are not the headings."""
    of_text = [name in left for name, _ in zip(columns or cells, cells, strict=False)]
    parts = [
        [one for line in cell.split("\n") for one in textwrap.wrap(line, width) or [""]]
        for cell, width in zip(cells, widths, strict=True)
    ]
    found = []
    for number in range(max(map(len, parts))):
        texts = [part[number] if number < len(part) else "" for part in parts]
        padded = [
            text + " " * (width - cell_len(text)) if text_like else " " * (width - cell_len(text)) + text
            for text, width, text_like in zip(texts, widths, of_text, strict=True)
        ]
        found.append((" " * GAP).join(padded).rstrip())
    return found


def print_notes(notes: Sequence[str], stream: TextIO) -> None:
    """Print what stands below a table, a line each."""
    for note in notes:
        _console(stream).print(printable(note), highlight=False, soft_wrap=not stream.isatty(), markup=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Tell the command line, which knows the exit code that is due; rich would leave with 1."""
        raise BrokenPipeError


def _console(stream: TextIO) -> Console:
    return _Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH)


def show_summary(run_dir: Path, stream: TextIO) -> None:
    """Print the table of ``summary.json`` and the path of the run folder.

    Args:
        run_dir: The run folder; a run without summary gets the path only.
        stream: Where to print.
    """
    path = run_dir / "summary.json"
    if path.exists():
        summary = json.loads(path.read_text(encoding="utf-8"))
        print_table(COLUMNS, table_rows(summary), stream, left=("tasks",))
        notes = "\n".join(printable(note) for note in summary_notes(summary))
        _console(stream).print(notes, highlight=False, markup=False)
    print(f"run folder: {run_dir}", file=stream, flush=True)


def table_rows(summary: Mapping[str, Any]) -> list[list[object]]:
    """The cells of ``COLUMNS``: a row for each client of a summary, and their mean."""
    rows = [
        [
            one["client-id"],
            name_tasks(one["tasks"]),
            one["train-rows"],
            one["test-rows"],
            *_cells(one, one),
        ]
        for one in summary["clients"]
    ]
    return [*rows, ["mean", "", None, None, *_cells(summary["mean"], summary["total"])]]


def _cells(scores: Mapping[str, Any], sizes: Mapping[str, Any]) -> list[str]:
    sent, received = format_bytes(sizes["sent-bytes"]), format_bytes(sizes["received-bytes"])
    return [*(format_score(scores[name]) for name in SCORES), sent, received]


def summary_notes(summary: Mapping[str, Any]) -> list[str]:
    """The lines below the table: what the scores are, who is in no mean, who was left out."""
    final, hostile, best = summary["final"], summary["hostile-clients"], summary["best-round"]
    worst = f"; worst client {format_score(final['worst-score'])}" if final["num-clients"] else ""
    metric = summary["metric"] or "score"
    notes = [f"{metric} on each client's own test set, in %{worst}; bytes are payload of all rounds"]
    if final.get("pooled-score") is not None:  # summaries of earlier versions have none
        notes.append(_pooled_note(metric, final))
    if hostile:
        notes.append(f"made hostile, and in no mean: {name_clients(hostile)}")
    meant = {*hostile, *summary["mean"]["client-ids"]}
    rest = [one["client-id"] for one in summary["clients"] if one["client-id"] not in meant]
    if rest:
        notes.append(
            f"means without {name_clients(rest)}, not scored in every column; "
            f"mean of all {final['num-clients']} final scores {format_score(final['mean-score'])}"
        )
    if summary["left-out"]:
        notes.append(f"left out: {_left_out(summary['left-out'])}")
    if best:
        where = f"round {best['server-round']} of the {best['evaluated-rounds']} evaluated"
        notes.append(f"best on validation data: {where}, test mean {format_score(best['mean-test-score'])}")
    return notes


def _pooled_note(metric: str, final: Mapping[str, Any]) -> str:
    """The score over the test rows of all clients together, and of whose models it is."""
    interval = final["pooled-interval"]
    between = f" (95 % from {format_score(interval[0])} to {format_score(interval[1])})" if interval else ""
    f1 = final["pooled-macro-f1"]
    also = f", macro-f1 {format_score(f1)}" if f1 is not None and metric != "macro-f1" else ""
    whose = {
        True: "one model for all clients",
        False: "each client's rows by its own model",
        None: "whether clients have one model is not known",
    }[final["one-model"]]
    rows = f"all {final['test-rows']} test rows together"
    return f"pooled over {rows}: {metric} {format_score(final['pooled-score'])}{between}{also}; {whose}"


def _left_out(messages: Sequence[Mapping[str, Any]]) -> str:
    rounds: dict[int, list[str]] = {}
    for one in messages:
        when = f"{one['server-round']}" + " (evaluation)" * (one["phase"] == "evaluate")
        rounds.setdefault(one["client-id"], []).append(when)
    return "; ".join(f"client {client} in round {', '.join(rounds[client])}" for client in sorted(rounds))


def name_clients(clients: Sequence[int]) -> str:
    """``client 3`` or ``clients 1, 3``."""
    return f"client{'s' * (len(clients) != 1)} {', '.join(map(str, clients))}"


def name_tasks(tasks: Sequence[str]) -> str:
    """Their names, or how many there are where these would take the table's room."""
    names = ", ".join(printable(str(task)) for task in tasks)
    return names if len(names) <= TASKS_WIDTH or len(tasks) < 2 else f"{len(tasks)} tasks"


def show_cell(value: object) -> str:
    """A value as a table shows it; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_score(value: float | None) -> str:
    """A fraction in percent, to one decimal; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def over_seeds(values: Sequence[float]) -> str:
    """Mean of fractions over seeds ± their standard deviation, in percent."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{spread}"


def over_all_seeds(values: Sequence[float | None]) -> str:
    """The same; a dash where a seed has no value."""
    known = [value for value in values if value is not None]
    return over_seeds(known) if len(known) == len(values) else "–"


def show_interval(interval: tuple[float, float] | None) -> str:
    """The ends of an interval in brackets, behind what it belongs to; nothing where there is none."""
    return "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def show_pooled(pooled: Sequence[Pooled]) -> str:
    """The pooled score of several seeds with its interval, marked where it is not of one model."""
    shown = over_all_seeds([one.score for one in pooled])
    if shown == "–":
        return shown
    models = {one.one_model for one in pooled}
    marks = OWN * (False in models) + UNKNOWN * (None in models)
    return shown + show_interval(mean_of_intervals([one.interval for one in pooled])) + marks


def format_bytes(count: float) -> str:
    """Bytes for people, in powers of 1,000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
