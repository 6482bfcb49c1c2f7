"""Text classification answered in words: SUBJ, EmoContext, AG News, SST-2, SST-5, TREC.

The model reads a template with the text in it and answers with a label word. Templates and label
words are those of I2CL; what a task's YAML does not say differently, its hub data set gives.

Source: I2CL, https://arxiv.org/abs/2405.14660, as in https://github.com/LzVv123456/I2CL
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapp.benchmarks.base import BenchmarkDefaults, check_split
from fedapp.benchmarks.metrics import LabelAnswers, metric
from fedapp.benchmarks.reading import Columns
from fedapp.benchmarks.sources import read_folder, read_remote
from fedapp.benchmarks.table import Table
from fedapp.core.checks import require_bool, require_choice, require_int
from fedapp.core.errors import RowError
from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class TextClassification(LabelAnswers, BenchmarkDefaults):
    """One task with a template, label words and, if asked for, class-balanced subsets.

    Attributes:
        task: Name of the task and of its folder in ``data_dir``.
        labels: Label words in the order of the data's label numbers.
        prompt: What the model reads, with ``{text}`` where the text goes; no blank at the end.
        metrics: Names of the metrics (``fedapp.benchmarks.metrics.METRICS``), the main one first.
        data_dir: Folder with ``<task>/<split>.jsonl`` (or another format that
            ``fedapp.benchmarks.reading`` knows), the text in the first of ``columns`` and its
            number in ``label``; None: from the hub.
        path: Name of the data set on the hub, with the configuration after a colon; empty: it is not there.
        revision: Its branch, tag or commit; None: the main branch.
        columns: Its columns of the text and of the label's number, on the hub.
        test_split: Split to report on; GLUE hides the labels of its test split.
        num_train: Rows of the train split to use; 0 means all.
        num_test: Rows of the test split to use; 0 means all.
        balanced: Draw those rows in equal numbers per label; a label with too few gives all it has.
        subset_seed: Seed of the draw.
        telling: Words of a text that give its label away, as a check that ``labels`` are in the data's
            order: most rows with the words must have that label.
    """

    task: str
    labels: Sequence[str]
    prompt: str
    metrics: Sequence[str] = ("accuracy", "macro-f1")
    data_dir: str | None = None
    path: str = ""
    revision: str | None = None
    columns: Sequence[str] = ("text", "label")
    test_split: str = "test"
    num_train: int = 0
    num_test: int = 0
    balanced: bool = True
    subset_seed: int = 1
    telling: Mapping[str, str] = field(default_factory=dict)
    version: str = field(default="1", init=False)
    source: str = field(default="https://arxiv.org/abs/2405.14660", init=False)

    def __post_init__(self) -> None:
        for name in ("labels", "metrics", "columns"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        lowered = {str(label).lower() for label in self.labels}
        if len(lowered) < 2 or len(lowered) < len(self.labels):
            raise ValueError(
                f"labels={list(self.labels)} must be two words or more, different whatever the case"
            )
        if "{text}" not in self.prompt or self.prompt != self.prompt.rstrip():
            raise ValueError(
                f"prompt={self.prompt!r} must show {{text}} and end without a blank; "
                "the blank before the label word is put there"
            )
        if len(self.columns) != 2:
            raise ValueError(f"columns={list(self.columns)} must be two: the text's and the label's")
        require_choice("test_split", self.test_split, ("validation", "test"))
        for name in ("num_train", "num_test"):
            require_int(f"{name}", getattr(self, name), at_least=0)
        require_bool("balanced", self.balanced)
        if not self.metrics:
            raise ValueError("metrics=[] must name a metric")
        for one in self.metrics:
            metric(one)

    @property
    def name(self) -> str:
        """The task, as in tables."""
        return self.task

    @property
    def template_version(self) -> str:
        """Twelve hex digits that change with the prompt; what was learnt with one is not for another."""
        return hashlib.sha256(self.prompt.encode()).hexdigest()[:12]

    def load(self, split: str) -> Dataset:
        """Rows of a split: ``text``, ``label`` (a number) and ``task``; ``test`` is ``test_split``'s rows.

        Raises:
            ValueError: If there is no such split.
            RowError: If it cannot be read or a label is not one of the task's.
        """
        from datasets import Dataset

        check_split(split)
        table, label_column = self._read(self.test_split if split == "test" else split)
        texts, labels = table.texts(self.columns[0]), table.labels(label_column, self.labels)
        self._check_order(texts, labels)
        size = {"train": self.num_train, "test": self.num_test}.get(split, 0)
        kept = self._subset(np.array(labels, dtype=np.int64), size)
        rows = {"text": [texts[i] for i in kept], "label": [labels[i] for i in kept]}
        return Dataset.from_dict({**rows, "task": [self.task] * len(kept)})

    def _check_order(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        for words, expected in self.telling.items():
            found = [self.labels[label] for text, label in zip(texts, labels, strict=True) if words in text]
            usual = max(set(found), key=found.count) if found else expected
            if usual != expected and expected in self.labels:
                where = f"(telling in conf/benchmark/{self.task}.yaml)"
                text = f"benchmark.labels={list(self.labels)} are not in the order of these data {where}"
                raise RowError(text, f"{text}: most texts with {words!r} would be {usual}, not {expected}")

    def template(self, row: Mapping[str, Any]) -> Example:
        """The prompt with the row's text in it; the target is the label word."""
        label = int(row["label"])
        prompt = self.prompt.replace("{text}", row["text"].strip())
        return Example(prompt=prompt, target=self.labels[label], task=self.task, label=label)

    def _read(self, split: str) -> tuple[Table, str]:
        """The split, and its column of labels."""
        if self.data_dir is None:
            if not self.path:
                raise ValueError(
                    f"benchmark.data_dir=null: {self.task} is read from a folder: {self.task}/{split}.jsonl, "
                    "as the hub has it as a script alone, which is not run"
                )
            columns = Columns(self.columns)
            table = read_remote(self.path, self.task, split, columns, "benchmark.path", self.revision)
            return table, self.columns[1]
        columns = Columns([self.columns[0], "label"])
        return read_folder(self.data_dir, [self.task], split, columns), "label"

    def _subset(self, labels: np.ndarray, size: int) -> np.ndarray:
        """Row numbers of a draw of ``size`` rows, in ascending order."""
        if not size or size >= len(labels):
            return np.arange(len(labels))
        order = np.random.default_rng(self.subset_seed).permutation(len(labels))
        if not self.balanced:
            return np.sort(order[:size])
        # Rows in turns, one of each label at a time: the n-th row of every label has rank n.
        ranks = np.empty(len(labels), dtype=np.int64)
        for label in np.unique(labels):
            mine = order[labels[order] == label]
            ranks[mine] = np.arange(len(mine))
        return np.sort(order[np.argsort(ranks[order], kind="stable")][:size])
