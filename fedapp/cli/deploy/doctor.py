"""``fedapp doctor``: findings line by line, and what to do."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedapp.cli.output import FAILED, OK, USAGE, complain
from fedapp.core.errors import printable
from fedapp.site.examination.finding import Finding
from fedapp.site.examination.machine import of_machine
from fedapp.site.examination.party import of_party
from fedapp.site.examination.server import of_server
from fedapp.site.layout import PARTY, SERVER, read_party, read_server

WIDTH = 8
LONGEST = 100
# Where a program reads along, a finding is a line.
UNBOUND = 10_000


def examine(words: Sequence[str]) -> int:
    """Look, print, and say by the exit code whether there is a problem.

    Args:
        words: Nothing, or ``server DIR`` or ``party DIR``; behind it settings of the run to come.
    """
    try:
        findings = _findings(list(words))
    except ValueError as error:
        complain(str(error))
        return USAGE
    problems = 0
    for finding in findings:
        problems += finding.is_problem
        _show(finding)
    if problems:
        print(f"\n{problems} problem{'s' * (problems != 1)}")
    return FAILED if problems else OK


def _findings(words: list[str]) -> Iterator[Finding]:
    if not words or words[0] not in (SERVER, PARTY):
        if words and "=" not in words[0]:
            raise ValueError(f"doctor {words[0]} does not exist; known: server DIR, party DIR, KEY=VALUE")
        return of_machine(words)
    if len(words) < 2 or "=" in words[1]:
        raise ValueError(f"doctor {words[0]} needs the folder: fedapp doctor {words[0]} DIR")
    folder = Path(words[1])
    if words[0] == PARTY:
        return of_party(read_party(folder), words[2:])
    if words[2:]:
        raise ValueError(f"doctor server takes a folder only, not {words[2]!r} as well")
    return of_server(read_server(folder))


def _show(finding: Finding) -> None:
    mark = "problem" if finding.is_problem else "note" if finding.remedy else "ok"
    _print(f"{mark:<{WIDTH}}", finding.text)
    if finding.remedy:
        _print(" " * WIDTH, f"→ {finding.remedy}")


def _print(begin: str, text: str) -> None:
    width = min(shutil.get_terminal_size().columns, LONGEST) if sys.stdout.isatty() else UNBOUND
    lines = textwrap.TextWrapper(
        width,
        initial_indent=f"{begin} ",
        subsequent_indent=" " * (len(begin) + 1),
        break_long_words=False,
        break_on_hyphens=False,
    )
    print(lines.fill(printable(text)), flush=True)
