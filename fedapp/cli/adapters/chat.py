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
from fedapp.core.model import ConversingModel
from fedapp.core.types import Decoding

HELP = """\
/new   begins a new conversation
/base  asks the base model alone for the last line
/raw   lines without the template, and back
/quit  the end (Ctrl-D, too)"""


def chat(source: Path, out: TextIO, max_new_tokens: int | None = None, temperature: float = 0.0) -> None:
    """Answer line by line until ``/quit`` or the end of the input.

    Where prompts are turns of a chat, the conversation is kept; else each line is asked on its own, as the
    adapter was trained.

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
    kept_up = "the conversation is kept" if _converses(kept) else "each line is asked on its own"
    return "{} on {}, trained on {}\n".format(*names) + f"{how}; {kept_up}"


def _converses(kept: Kept) -> bool:
    return isinstance(kept.model, ConversingModel) and kept.model.converses()


def _piped(_prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


class _Conversation:
    def __init__(self, kept: Kept, out: TextIO, temperature: float) -> None:
        self._kept, self._out, self._temperature = kept, out, temperature
        self._raw = False
        self._converses = _converses(kept)
        self._turns: list[str] = []
        self._last: list[str] = []
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
        if line == "/new":
            self._turns = []
            return "a new conversation" if self._converses else "each line is asked on its own anyway"
        if line == "/base":
            if not self._last:
                return "nothing was asked yet"
            with self._kept.model.disabled():
                return self._answer(self._last)[0]
        if line.startswith("/"):
            return f"no such command; there are:\n{HELP}"
        self._last = [*self._turns, line if self._raw else as_prompt(line, self._kept.benchmark)]
        answer, left_out = self._answer(self._last)
        if not self._converses:
            return answer
        self._turns = [*self._last[left_out:], answer]
        return f"{_forgotten(left_out // 2)}{answer}"

    def _answer(self, turns: list[str]) -> tuple[str, int]:
        """The answer to the last of these turns, and how many of the first the window has no room for."""
        model = self._kept.model
        decoding = Decoding(self._temperature, 1.0, self._asked) if self._temperature else None
        self._asked += 1
        if self._converses and isinstance(model, ConversingModel):
            return model.reply(turns, decoding)
        return model.generate(turns[-1:], decoding)[0], 0


def _forgotten(count: int) -> str:
    """One line on turns that the conversation goes on without; nothing where there are none."""
    if not count:
        return ""
    what = (
        "your first line and its answer are"
        if count == 1
        else f"your first {count} lines and their answers are"
    )
    return f"(the model's window is full: {what} forgotten)\n"
