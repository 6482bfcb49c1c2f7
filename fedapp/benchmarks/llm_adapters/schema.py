"""Rows and prompts in the schema of LLM-Adapters: ``instruction``, ``input``, ``output``, ``answer``.

Source: https://github.com/AGI-Edgerunners/LLM-Adapters (data sets, prompts of its evaluators),
https://arxiv.org/abs/2304.01933
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fedapp.benchmarks.base import BenchmarkDefaults, check_split
from fedapp.benchmarks.reading import Columns
from fedapp.benchmarks.sources import read_folder, read_remote

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("instruction", "input", "output", "answer")
SPLITS = ("train", "test")
REPOSITORY = "https://raw.githubusercontent.com/AGI-Edgerunners/LLM-Adapters/main"
TASK_FILES = f"{REPOSITORY}/dataset/{{task}}/{{split}}.json"
TRAINING_FILES = f"{REPOSITORY}/ft-training_set/{{task}}.json"

_INDENT = " " * 16
_HEAD = "Below is an instruction that describes a task"
_TAIL = "Write a response that appropriately completes the request."


def prompt_templates(between: str) -> tuple[str, str]:
    """The prompts of the LLM-Adapters evaluators: for rows without and with an ``input``.

    Both evaluators indent the sections by 16 blanks, the last line included, as their own training
    script does; adapters trained elsewhere on this data expect it.

    Args:
        between: What stands on the empty lines between sections: nothing in the commonsense
            evaluator, the indentation in the arithmetic one.
    """
    gap = f"\n{between}\n{_INDENT}"
    section = f"\n{_INDENT}"
    ask = f"### Instruction:{section}{{instruction}}{gap}"
    reply = f"### Response:{section}"
    with_input = (
        f"{_HEAD}, paired with an input that provides further context. {_TAIL}\n\n{_INDENT}"
        f"{ask}### Input:{section}{{input}}{gap}{reply}"
    )
    # The blank after the full stop is in the source as well.
    return f"{_HEAD}. {_TAIL} \n\n{_INDENT}{ask}{reply}", with_input


def fill(templates: tuple[str, str], own: str | None, row: Mapping[str, Any]) -> str:
    """Put a row into the user's own template, or else into the one of ``templates`` that fits it.

    Args:
        templates: As ``prompt_templates`` returns them.
        own: The setting ``benchmark.prompt``, with ``{instruction}`` and perhaps ``{input}`` in it.
        row: A row of the schema.
    """
    given = row["input"]
    template = own if own is not None else templates[bool(given.strip())]
    before, found, after = template.partition("{instruction}")
    assert found, "templates are checked when the benchmark is made"
    return before.replace("{input}", given) + row["instruction"] + after.replace("{input}", given)


@dataclass(frozen=True)
class Reasoning(BenchmarkDefaults):
    """What the benchmarks of this schema have in common; a subclass says its folders and its prompts.

    Attributes:
        tasks: Tasks to test on, out of ``folders``.
        train: Training sets; empty: the tasks' own train splits, which keeps each row's task.
        prompt: Own prompt with ``{instruction}`` in it; None: the evaluator's.
        data_dir: Folder with ``<task>/<split>.jsonl``; None: over the network.
        path: Where tasks come from without ``data_dir``: address or hub name (``sources.read_remote``).
        train_path: The same for training sets that are no task.
        folders: Task to the name of its folder in the original repository.
        templates: The evaluator's prompts, for rows without and with an ``input``.
        replies: Columns of which one must hold the reply of a row.
    """

    tasks: tuple[str, ...]
    train: tuple[str, ...] = ()
    prompt: str | None = None
    data_dir: str | None = None
    path: str = TASK_FILES
    train_path: str = TRAINING_FILES
    version: str = field(default="2", init=False)
    source: str = field(default="https://github.com/AGI-Edgerunners/LLM-Adapters", init=False)
    labels: None = field(default=None, init=False)
    folders: ClassVar[Mapping[str, str]]
    templates: ClassVar[tuple[str, str]]
    replies: ClassVar[tuple[str, ...]] = ("output", "answer")

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "train", tuple(self.train))
        known = tuple(self.folders)
        if not self.tasks:
            raise ValueError(f"benchmark.tasks=[] must name a task; known: {', '.join(known)}")
        for task in self.tasks:
            if task not in known:
                raise ValueError(f"benchmark.tasks has {task!r}; known: {', '.join(known)}")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"benchmark.tasks={list(self.tasks)} must name each task once")
        if self.prompt is not None and self.prompt.count("{instruction}") != 1:
            raise ValueError(f"benchmark.prompt={self.prompt!r} must hold {{instruction}} once")

    def ask(self, row: Mapping[str, Any]) -> str:
        """The prompt of a row: the user's own, or else the evaluator's that fits it."""
        return fill(self.templates, self.prompt, row)

    def read(self, split: str) -> Dataset:
        """Read the tasks, or for ``train`` the training sets where there are any, one after the other.

        Args:
            split: ``train`` or ``test``.

        Returns:
            The columns of the schema, all text, and ``task``, the name each row came from.

        Raises:
            ValueError: If something is not there; the message names the setting and the path.
            RowError: If it cannot be read, or a row has no instruction or no reply.
        """
        from datasets import Dataset

        check_split(split, SPLITS)
        columns = Columns(COLUMNS)
        values: dict[str, list[str]] = {column: [] for column in (*COLUMNS, "task")}
        for name in (self.train or self.tasks) if split == "train" else self.tasks:
            original = self.folders.get(name, name)
            if self.data_dir is not None:
                table = read_folder(self.data_dir, list(dict.fromkeys([name, original])), split, columns)
            elif name in self.folders:
                table = read_remote(self.path, original, split, columns, "benchmark.path")
            else:
                table = read_remote(self.train_path, name, split, columns, "benchmark.train_path")
            values["instruction"] += table.texts("instruction", empty=False)
            rest = {column: table.texts(column, blank="") for column in COLUMNS[1:]}  # null in some copies
            for index in range(len(table)):
                if not any(rest[column][index].strip() for column in self.replies):
                    raise table.error(
                        index, f"{' and '.join(self.replies)} are empty; one must hold the reply"
                    )
            for column, texts in rest.items():
                values[column] += texts
            values["task"] += [name] * len(table)
        return Dataset.from_dict(values)
