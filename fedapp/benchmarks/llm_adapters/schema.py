"""Rows and prompts in the schema of LLM-Adapters: ``instruction``, ``input``, ``output``, ``answer``.

Source: https://github.com/AGI-Edgerunners/LLM-Adapters (data sets, prompts of its evaluators),
https://arxiv.org/abs/2304.01933
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


def check_settings(tasks: Sequence[str], prompt: str | None, known: Sequence[str]) -> None:
    """Check what both benchmarks of this schema have in common.

    Raises:
        ValueError: If tasks is empty, repeats or names an unknown task, or prompt lacks the instruction.
    """
    if not tasks:
        raise ValueError(f"benchmark.tasks=[] must name a task; known: {', '.join(known)}")
    for task in tasks:
        if task not in known:
            raise ValueError(f"benchmark.tasks has {task!r}; known: {', '.join(known)}")
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"benchmark.tasks={list(tasks)} must name each task once")
    if prompt is not None and prompt.count("{instruction}") != 1:
        raise ValueError(f"benchmark.prompt={prompt!r} must hold {{instruction}} once")


def read_tasks(
    names: Sequence[str],
    split: str,
    *,
    folders: Mapping[str, str],
    data_dir: str | None,
    path: str,
    train_path: str,
) -> Dataset:
    """Read tasks or training sets, one after the other.

    Args:
        names: Names of tasks (keys of ``folders``) or of training sets (anything else).
        split: ``train`` or ``test``.
        folders: Task to the name of its folder in the original repository.
        data_dir: Folder with ``<name>/<split>.jsonl`` (or the original folder names); None: remote.
        path: Where tasks are read from without ``data_dir`` (``base.read_remote``).
        train_path: The same for training sets that are no task.

    Returns:
        The columns of the schema, all text, and ``task``, the name each row came from.

    Raises:
        ValueError: If something cannot be read; the message names the setting and the path.
    """
    from datasets import Dataset

    values: dict[str, list[str]] = {column: [] for column in (*COLUMNS, "task")}
    for name in names:
        original = folders.get(name, name)
        if data_dir is not None:
            rows = read_folder(data_dir, list(dict.fromkeys([name, original])), split, COLUMNS)
        elif name in folders:
            rows = read_remote(path, original, split, COLUMNS, "benchmark.path")
        else:
            rows = read_remote(train_path, name, split, COLUMNS, "benchmark.train_path")
        for column in COLUMNS:  # null or a number in some copies
            values[column] += ["" if value is None else str(value) for value in rows[column]]
        values["task"] += [name] * len(rows)
    return Dataset.from_dict(values)
