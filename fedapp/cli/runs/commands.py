"""The commands on runs that have ended: what they take, and what they call."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fedapp.cli.output import told_in_one_line, warn
from fedapp.cli.parsing import add_command


def add_compare(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    """Declare ``fedapp compare``."""
    about = "put finished runs side by side: scores, spread over seeds, differences, bytes, time"
    parser = add_command(
        commands,
        name,
        about,
        _compare,
        more=" (docs/reading-results.md).",
        epilog="example: fedapp compare runs --target 0.8 --within 500kB --format latex > table.tex",
    )
    _add_folders(parser)
    parser.add_argument(
        "--against", metavar="WORDS", help="show differences from this configuration (default: the best)"
    )
    parser.add_argument(
        "--target", type=float, metavar="SCORE", help="show the bytes until the mean score is so high, as 0.8"
    )
    parser.add_argument("--within", metavar="SIZE", help="show the score within so many bytes, as 500kB")
    parser.add_argument(
        "--format", default="table", metavar="FORM", help="table, csv, markdown, latex or json"
    )


def _compare(arguments: argparse.Namespace) -> int:
    def act() -> None:
        from fedapp.cli.runs.compare import compare, read_size
        from fedapp.reporting.comparison.rows import Question

        within = None if arguments.within is None else read_size(arguments.within)
        asked = (arguments.metric, arguments.benchmark, arguments.against, arguments.target, within)
        compare(_folders(arguments), sys.stdout, warn, Question(*asked), arguments.format)

    return told_in_one_line(act)


def add_report(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    """Declare ``fedapp report``."""
    about = "write finished runs as one page with their figures, which needs no network"
    parser = add_command(
        commands,
        name,
        about,
        _report,
        more=" (docs/reading-results.md).",
        epilog="example: fedapp report runs --out report.html --open",
    )
    _add_folders(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (report.html)"
    )
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def _report(arguments: argparse.Namespace) -> int:
    from fedapp.cli.runs.report import report

    asked = (arguments.metric, arguments.benchmark, arguments.open)
    return told_in_one_line(lambda: report(_folders(arguments), arguments.out, sys.stdout, warn, *asked))


def add_results(name: str, commands: argparse._SubParsersAction[Any]) -> None:
    """Declare ``fedapp results``."""
    about = "keep finished runs in small result files, and make the docs' tables of these"
    parser = add_command(
        commands,
        name,
        about,
        _results,
        more=" (docs/scores.md).",
        epilog="examples: fedapp results add runs/icl --to results/icl.jsonl; fedapp results tables",
    )
    parser.add_argument("action", metavar="ACTION", help="add, show, tables or check")
    parser.add_argument("words", nargs="*", metavar="WORD", help="folders of runs; NAME of a file; pages")
    parser.add_argument("--to", type=Path, metavar="FILE", help="the result file, for add")


def _results(arguments: argparse.Namespace) -> int:
    from fedapp.cli.runs.results import manage

    words, to = arguments.words, arguments.to
    return told_in_one_line(lambda: manage(arguments.action, words, to, sys.stdout, warn))


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="runs, or folders of runs (default: runs)"
    )
    parser.add_argument(
        "--metric", metavar="NAME", help="go by this, as macro-f1 (default: the benchmark's first)"
    )
    parser.add_argument("--benchmark", metavar="NAME", help="runs of this benchmark alone")


def _folders(arguments: argparse.Namespace) -> list[Path]:
    return [Path(folder) for folder in arguments.folders or ["runs"]]
