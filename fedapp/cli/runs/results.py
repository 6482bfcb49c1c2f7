"""``fedapp results``: small result files of finished runs, and the tables of the docs made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from fedapp.cli.output import FAILED, OK, nearest
from fedapp.core.files import ROOT, write_atomically
from fedapp.records.results import read_finished
from fedapp.reporting.result_file import ResultRecord, add_records
from fedapp.reporting.tables import table_of, updated

ACTIONS = ("add", "show", "tables", "check")
RESULTS = ROOT / "results"
PAGES = ("README.md", "docs/*.md")


def manage(
    action: str, words: Sequence[str], to: Path | None, stream: TextIO, warn: Callable[[str], None]
) -> int:
    """Do what the command line asks for.

    Args:
        action: ``add`` runs to a result file, ``show`` a table, ``tables`` to make those of the pages again,
            ``check`` whether they are what the result files give.
        words: Folders of runs; for ``show`` what stands in a page's mark; pages, by default ``PAGES``.
        to: The result file, for ``add``.
        stream: Where to print.
        warn: Told in one line of each run that cannot be read.

    Returns:
        0, or 1 if a table of a page is not what its result file gives.

    Raises:
        ValueError: If something asked for cannot be done; nothing is written then.
    """
    if action not in ACTIONS:
        raise ValueError(f"unknown action {action!r}{nearest(action, ACTIONS)}")
    if (to is None) == (action == "add"):
        raise ValueError(
            "add needs --to results/NAME.jsonl" if action == "add" else f"{action} takes no --to"
        )
    if to is not None:
        return _add([Path(word) for word in words], to, stream, warn)
    if action == "show":
        if not words:
            raise ValueError("show needs the NAME of a file results/NAME.jsonl")
        known = sorted(path.stem for path in RESULTS.glob("*.jsonl"))
        if (name := words[0].split(" ")[0]) not in known:
            raise ValueError(f"there is no result file {name!r}{nearest(name, known)}")
        print(table_of(" ".join(words), RESULTS), file=stream)
        return OK
    pages = [Path(word) for word in words] or [page for place in PAGES for page in sorted(ROOT.glob(place))]
    return _make(pages, action == "check", stream)


def _add(roots: Sequence[Path], to: Path, stream: TextIO, warn: Callable[[str], None]) -> int:
    if not roots:
        raise ValueError("add needs folders of runs")
    for root in roots:
        if not root.exists():
            raise ValueError(f"{root} does not exist")
    records = []
    for run in (run for root in roots for run in read_finished(root, warn)):
        about = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        records.append(ResultRecord.of(run, about))
    if not records:
        raise ValueError(f"no finished run in {', '.join(map(str, roots))}")
    held = add_records(to, records)
    print(f"{len(records)} results added to {to}, which holds {held}", file=stream)
    return OK


def _make(pages: Sequence[Path], only_check: bool, stream: TextIO) -> int:
    """Make the tables of pages again, or say which pages hold others."""
    made = {}
    for page in pages:
        try:
            text = page.read_text(encoding="utf-8")
            made[page] = (text, updated(text, lambda words: table_of(words, RESULTS)))
        except OSError as error:
            raise ValueError(f"{page} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{page}: {error}") from None
    stale = [page for page, (old, new) in made.items() if old != new]
    for page in stale:
        if only_check:
            print(
                f"{page} holds a table that its result file does not give: fedapp results tables", file=stream
            )
        else:
            write_atomically(page, made[page][1])
            print(f"{page}: tables made again", file=stream)
    return FAILED if stale and only_check else OK
