"""How a row of the user's own file says its prompt and its target: the formats that other tools read, too.

The names are those of torchtune, axolotl and LLaMA-Factory: ``alpaca``, ``messages`` (OpenAI's chat
format), ``sharegpt``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fedapp.benchmarks.reading import Columns
from fedapp.benchmarks.table import Table, as_text, kind_of

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
"""Roles of ShareGPT and its kind, to those of chat messages; others stay as they are."""


@dataclass(frozen=True)
class Format(ABC):
    """Reads prompts and targets out of a table.

    Attributes:
        names: The format's columns to the file's; those that are missing have the format's own name.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    wanted: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    keys: ClassVar[tuple[str, ...]] = ()
    answer: ClassVar[str]

    @classmethod
    def known(cls) -> tuple[str, ...]:
        """What ``names`` may rename."""
        return (*cls.wanted, *cls.optional, *cls.keys)

    def name(self, own: str) -> str:
        """The file's name of one of ``known``."""
        return self.names.get(own, own)

    def columns(self, *, answered: bool = True) -> Columns:
        """The columns to read; without ``answered``, the target's may be missing."""
        named = [name for name in self.optional if name in self.names]  # whoever names it has it
        needed = [name for name in (*self.wanted, *named) if answered or name != self.answer]
        optional = [name for name in self.optional if name not in named]
        optional += [] if answered else [self.answer]
        return Columns([self.name(one) for one in needed], [self.name(one) for one in optional])

    @abstractmethod
    def read(self, table: Table, *, answered: bool = True) -> tuple[list[str], list[str]]:
        """Prompts and targets of all rows; without ``answered``, a target may be empty.

        Raises:
            RowError: If a row lacks one of them, or it is no text.
        """


@dataclass(frozen=True)
class PromptTarget(Format):
    """``{"prompt": …, "target": …}``."""

    wanted = ("prompt", "target")
    answer = "target"

    def read(self, table: Table, *, answered: bool = True) -> tuple[list[str], list[str]]:
        """The two columns as they stand."""
        return table.texts(self.name("prompt"), empty=False), _targets(table, self.name("target"), answered)


@dataclass(frozen=True)
class Alpaca(Format):
    """``{"instruction": …, "input": …, "output": …}``, the input missing, null or empty where there is none.

    Source: https://github.com/tatsu-lab/stanford_alpaca
    """

    wanted = ("instruction", "output")
    optional = ("input",)
    answer = "output"

    def read(self, table: Table, *, answered: bool = True) -> tuple[list[str], list[str]]:
        """The instruction, with its input on the next line, and the output."""
        instructions = table.texts(self.name("instruction"), empty=False)
        inputs = table.texts(self.name("input"), blank="")
        prompts = [f"{a}\n{b}" if b.strip() else a for a, b in zip(instructions, inputs, strict=True)]
        return prompts, _targets(table, self.name("output"), answered)


@dataclass(frozen=True)
class Messages(Format):
    """``{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}``.

    The last message of the assistant is the target. What stands before it is the prompt, each message
    in ``turn`` on lines of its own, and ``turn`` up to the content at the end. What stands behind it is
    left out.

    Attributes:
        turn: A message in the prompt, with ``{role}`` and ``{content}``.
    """

    turn: str = "{role}: {content}"
    wanted = ("messages",)
    keys = ("role", "content")
    answer = ""

    def read(self, table: Table, *, answered: bool = True) -> tuple[list[str], list[str]]:
        """Each conversation up to the assistant's last message, and that message."""
        column = self.name(self.wanted[0])
        if column not in table.columns:
            table.texts(column)
        prompts, targets = [], []
        for index, cell in enumerate(table.columns[column]):
            turns = self._turns(table, index, column, cell)
            last = max((at for at, (role, _) in enumerate(turns) if role == "assistant"), default=None)
            if last is None and not answered:
                last = len(turns)
                turns.append(("assistant", ""))
            if not last:  # none, or nothing before it
                found = "has no message of the assistant with another before it"
                raise table.error(index, f"{column} {found}", cell)
            prompts.append(self._prompt(turns[:last]))
            targets.append(turns[last][1].strip())
            if answered and not targets[-1]:
                raise table.error(index, f"{column}: the assistant's last message is empty", cell)
        table.require_encodable(column, prompts)
        table.require_encodable(column, targets)
        return prompts, targets

    def _prompt(self, turns: Sequence[tuple[str, str]]) -> str:
        written = [self._write(role, content) for role, content in turns]
        return "\n".join([*written, self._write("assistant", None)])

    def _write(self, role: str, content: str | None) -> str:
        """One message; without a content, what stands before it."""
        before, _, after = self.turn.partition("{content}")
        before = before.replace("{role}", role)
        return before.rstrip() if content is None else f"{before}{content}{after}"

    def _turns(self, table: Table, index: int, column: str, cell: Any) -> list[tuple[str, str]]:
        if not isinstance(cell, list):
            raise table.error(index, f"{column} is {kind_of(cell)}; it must be a list of messages", cell)
        turns = []
        for at, message in enumerate(cell):
            if not isinstance(message, dict):
                found = f"{column}[{at}] is {kind_of(message)}; it must be an object"
                raise table.error(index, found, message)
            parts = []
            for name in map(self.name, self.keys):
                text = as_text(message.get(name))
                if text is None:
                    found = f"{column}[{at}].{name} is {kind_of(message.get(name))}; it must be a text"
                    raise table.error(index, found, message)
                parts.append(text)
            turns.append((ROLES.get(parts[0], parts[0]), parts[1]))
        return turns


@dataclass(frozen=True)
class ShareGPT(Messages):
    """``{"conversations": [{"from": "human", "value": …}, …]}``, else as ``Messages``."""

    wanted = ("conversations",)
    keys = ("from", "value")


FORMATS: Mapping[str, type[Format]] = {
    "prompt": PromptTarget,
    "alpaca": Alpaca,
    "messages": Messages,
    "sharegpt": ShareGPT,
}
"""What ``benchmark.format`` may be."""


def make_format(name: str, columns: Mapping[str, str | None], turn: str) -> Format:
    """The format that the settings name; a column that is None has the format's own name.

    Raises:
        ValueError: In one line that begins with the setting.
    """
    if name not in FORMATS:
        raise ValueError(f"format={name!r} must be one of: {', '.join(FORMATS)}")
    kind = FORMATS[name]
    names = {own: given for own, given in columns.items() if given is not None}
    for own, given in names.items():
        if own not in kind.known():
            raise ValueError(
                f"columns.{own} is no column of format={name}; it has: {', '.join(kind.known())}"
            )
        if not isinstance(given, str) or not given:
            raise ValueError(f"columns.{own}={given!r} must be the name of a column in your files")
    files = [names.get(own, own) for own in (*kind.wanted, *kind.optional)]
    for file in files:
        if files.count(file) > 1:
            own = next(own for own, given in names.items() if given == file)
            raise ValueError(f"columns.{own}={file!r} must not be the file's column of another one, too")
    if turn.count("{content}") != 1 or "{role}" not in turn.partition("{content}")[0]:
        raise ValueError(f"turn={turn!r} must show {{role}} and, once and behind it, {{content}}")
    if turn != Messages.turn and not issubclass(kind, Messages):
        raise ValueError(f"turn={turn!r} has no effect with format={name}, which has no messages")
    return kind(names, turn) if issubclass(kind, Messages) else kind(names)


def _targets(table: Table, column: str, answered: bool) -> list[str]:
    texts = table.texts(column, empty=False) if answered else table.texts(column, blank="")
    return [text.strip() for text in texts]
