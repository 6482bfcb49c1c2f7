"""Instruction following from JSON: Dolly, Alpaca and what is written like them, with public prompts.

Such sets have one split. A seed deals their rows out: public prompts first, then test, the rest is
for training. Rows with the same prompt are one row, so no prompt is in two of the three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapp.benchmarks.base import BenchmarkDefaults, check_split
from fedapp.benchmarks.metrics import metric
from fedapp.benchmarks.reading import Columns
from fedapp.benchmarks.sources import read_folder, read_remote
from fedapp.core.checks import require_int
from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset

ROLES = ("instruction", "input", "output", "task")


@dataclass(frozen=True)
class Instructions(BenchmarkDefaults):
    """Instructions with their answers, and prompts that every party may see.

    Attributes:
        name: The set's name and its folder in ``data_dir``.
        columns: The set's column of each role: ``instruction``, ``output`` and, where it has them,
            ``input`` and ``task`` (the kind of instruction).
        prompt: The template of a row without input, with ``{instruction}``.
        prompt_input: The template of a row with one, with ``{instruction}`` and ``{input}``.
        data_dir: Folder with ``<name>/train.jsonl`` (or another format of ``fedapp.benchmarks.reading``);
            None: from the hub.
        path: Name of the set on the hub, or the address of a JSON file.
        num_train: Most training rows; 0 means all that are left.
        num_test: Test rows.
        public_size: Public prompts, the kinds of instruction in turns.
        metrics: Names of the metrics (``fedapp.benchmarks.metrics.METRICS``), the main one first.
        split_seed: Seed of the deal.
    """

    name: str
    columns: Mapping[str, str]
    prompt: str
    prompt_input: str
    data_dir: str | None = None
    path: str = ""
    num_train: int = 0
    num_test: int = 500
    public_size: int = 200
    metrics: Sequence[str] = ("rouge-l", "exact-match")
    split_seed: int = 1
    version: str = field(default="2", init=False)
    source: str = field(default="https://github.com/tatsu-lab/stanford_alpaca", init=False)
    labels: None = field(default=None, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", tuple(self.metrics))
        given = {role: column for role, column in self.columns.items() if column}
        if not {"instruction", "output"} <= set(given) or not set(given) <= set(ROLES):
            raise ValueError(
                f"columns={dict(self.columns)} must name the columns of instruction and output, "
                "and may name those of input and task"
            )
        for setting, parts in (("prompt", ("instruction",)), ("prompt_input", ("instruction", "input"))):
            if not all(f"{{{part}}}" in getattr(self, setting) for part in parts):
                wanted = " and ".join(f"{{{part}}}" for part in parts)
                raise ValueError(f"{setting}={getattr(self, setting)!r} must show {wanted}")
        require_int("num_train", self.num_train, at_least=0)
        for setting in ("num_test", "public_size"):
            require_int(f"{setting}", getattr(self, setting), at_least=1)
        if not self.metrics:
            raise ValueError("metrics=[] must name a metric")
        for one in self.metrics:
            metric(one)

    def load(self, split: str) -> Dataset:
        """Rows of ``train`` or ``test``: instruction, input, output, task.

        Raises:
            ValueError: If the rows cannot be read or are too few.
        """
        check_split(split, ("train", "test"))
        rows, _, test, train = self._dealt()
        return rows.select(train if split == "train" else test)

    def public_prompts(self) -> list[Example]:
        """Prompts that every party may see, of all tasks; their targets are for measuring only.

        Raises:
            ValueError: If the rows cannot be read or are too few.
        """
        rows, public, _, _ = self._dealt()
        return [self.template(row) for row in rows.select(public)]

    def template(self, row: Mapping[str, Any]) -> Example:
        """The instruction, with its input if it has one, in the template."""
        pattern = self.prompt_input if row["input"] else self.prompt
        prompt = re.sub(r"\{(instruction|input)\}", lambda found: row[found[1]], pattern)
        return Example(prompt=prompt, target=row["output"], task=row["task"])

    def extract(self, completion: str) -> str:
        """The generated text, up to where a model goes on with the next instruction.

        That is a line with which one of the templates begins a part; other headings belong to the answer.
        """
        lines = completion.strip().split("\n")
        ends = (at for at, line in enumerate(lines) if line.strip() in self._headings())
        return "\n".join(lines[: next(ends, len(lines))]).strip()

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """The metrics asked for, over whole answers.

        Raises:
            ValueError: If there is nothing to score or the lengths differ.
        """
        given = [self.extract(answer) for answer in answers]
        return {name: metric(name)(given, targets) for name in self.metrics}

    def _headings(self) -> set[str]:
        """Lines of the templates that begin with ``#``."""
        lines = {line.strip() for text in (self.prompt, self.prompt_input) for line in text.split("\n")}
        return {line for line in lines if line.startswith("#") and "{" not in line}

    def _dealt(self) -> tuple[Dataset, np.ndarray, np.ndarray, np.ndarray]:
        """All rows, and the row numbers of public, test and train."""
        columns = tuple((role, self.columns.get(role) or "") for role in ROLES)
        rows = _read(self.name, self.data_dir, self.path, columns)
        tasks = np.array(rows["task"][:])
        left = len(rows) - self.public_size - self.num_test
        if left < 1:
            raise ValueError(
                f"benchmark.public_size={self.public_size} and benchmark.num_test={self.num_test} leave no "
                f"training row of the {len(rows)} rows of {self.name}"
            )
        if self.public_size < len(set(tasks)):
            raise ValueError(
                f"benchmark.public_size={self.public_size} must be at least {len(set(tasks))}, "
                f"one for each task of {self.name}"
            )
        order = np.random.default_rng(self.split_seed).permutation(len(rows))
        turns = np.empty(len(rows), dtype=np.int64)  # the n-th row of its task, in the drawn order
        for task in np.unique(tasks):
            mine = order[tasks[order] == task]
            turns[mine] = np.arange(len(mine))
        public = order[np.argsort(turns[order], kind="stable")][: self.public_size]
        rest = order[~np.isin(order, public)]
        train = rest[self.num_test :]
        return rows, public, np.sort(rest[: self.num_test]), np.sort(train[: self.num_train or len(train)])


@lru_cache(maxsize=2)
def _read(name: str, data_dir: str | None, path: str, columns: tuple[tuple[str, str], ...]) -> Dataset:
    """Usable rows under the roles' names; the second of two rows with the same prompt is left out."""
    from datasets import Dataset

    wanted = Columns([column for _, column in columns if column])
    if data_dir is not None:
        table = read_folder(data_dir, [name], "train", wanted)
    else:
        table = read_remote(path, name, "train", wanted, "benchmark.path")
    texts = {role: table.texts(column, blank="") for role, column in columns if column}
    kept: dict[tuple[str, str], dict[str, str]] = {}
    for index in range(len(table)):
        parts = {role: texts[role][index].strip() if column else "" for role, column in columns}
        if parts["instruction"] and parts["output"]:
            parts["task"] = parts["task"] or name
            kept.setdefault((parts["instruction"], parts["input"]), parts)
    if not kept:
        raise ValueError(f"benchmark {name}: no row has both an instruction and an output")
    return Dataset.from_list(list(kept.values()))
