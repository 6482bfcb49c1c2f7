"""``fedapp chat``: a kept adapter asked line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from fedapp.cli.adapters.kept import Kept, attached
from fedapp.cli.adapters.prompts import as_prompt, text_column
from fedapp.config.build import about
from fedapp.core.errors import printable
from fedapp.core.types import Decoding

HELP = """\
/base  asks the base model alone for the last line
/raw   lines without the template, and back
/quit  the end (Ctrl-D, too)"""


def chat(source: Path, out: TextIO, max_new_tokens: int | None = None, temperature: float = 0.0) -> None:
    """Answer each line on its own, as the adapter was trained, until ``/quit`` or the end of the input.

    Args:
        source: The adapter's folder.
        out: Where answers go.
        max_new_tokens: Longest answer in tokens; None: as in the run.
        temperature: 0: greedy; above: sampled, with a fresh seed for each line from 0 on.

    Raises:
        ValueError: If the adapter cannot be used.
    """
    if not temperature >= 0:
        raise ValueError(f"--temperature={temperature} must be a number of at least 0")
    with attached(source, max_new_tokens=max_new_tokens) as kept:
        if sys.stdin.isatty():
            out.write(f"{_welcome(kept)}\n{HELP}\n")
        _Conversation(kept, out, temperature).hold(input if sys.stdin.isatty() else _piped)


def _welcome(kept: Kept) -> str:
    names = [str(about(kept.about[part], "name")) for part in ("adapter", "model", "benchmark")]
    column = text_column(kept.benchmark)
    how = (
        f"each line is the {column} in the benchmark's template" if column else "each line is a whole prompt"
    )
    return "{} on {}, trained on {}\n".format(*names) + how


def _piped(_prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


class _Conversation:
    def __init__(self, kept: Kept, out: TextIO, temperature: float) -> None:
        self._kept, self._out, self._temperature = kept, out, temperature
        self._raw = False
        self._last = ""
        self._asked = 0

    def hold(self, read: Callable[[str], str]) -> None:
        while True:
            try:
                line = read("> ").strip()
            except EOFError:
                return
            if line == "/quit":
                return
            if line:
                self._out.write(f"{printable(self._reply(line), keep=chr(10))}\n")
                self._out.flush()

    def _reply(self, line: str) -> str:
        if line == "/raw":
            self._raw = not self._raw
            return "lines are whole prompts" if self._raw else "lines go into the template"
        if line == "/base":
            if not self._last:
                return "nothing was asked yet"
            with self._kept.model.disabled():
                return self._answer(self._last)
        if line.startswith("/"):
            return f"no such command; there are:\n{HELP}"
        self._last = line if self._raw else as_prompt(line, self._kept.benchmark)
        return self._answer(self._last)

    def _answer(self, prompt: str) -> str:
        decoding = Decoding(self._temperature, 1.0, self._asked) if self._temperature else None
        self._asked += 1
        return self._kept.model.generate([prompt], decoding)[0]
