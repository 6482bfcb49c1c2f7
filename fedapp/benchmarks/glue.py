"""The classification tasks of GLUE, of one sentence and of two, and STS-B by its rounded scores.

Protocol. A test split whose rows are labelled is used as it stands. The test labels of GLUE are
hidden (-1 on the hub), and a folder may have no test split: then the labelled validation split is
cut in two by ``split_seed``; ``load("validation")`` gives the first half, to choose on, and
``load("test")`` the second, to report on. Of a validation split of more than 5,000 rows the first part
has 1,000.

Two sentences become one prompt, joined by what ``prompt`` says: for an encoder its separator, which its
tokenizer knows in a text, too. Token types are not told apart then (RoBERTa has none).

STS-B asks for a score from 0 to 5. It is rounded to the nearest of ``labels``, as T5 does; a language model
writes one of them and a classification head has a class for each: no regression.

Source: GLUE, https://arxiv.org/abs/1804.07461; the two parts: ReFT, https://arxiv.org/abs/2404.03592;
rounded scores: T5, https://arxiv.org/abs/1910.10683 (for a classification head, too: ours).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapp.benchmarks.base import BenchmarkDefaults, check_split
from fedapp.benchmarks.metrics import is_finite_number, metric
from fedapp.benchmarks.reading import Columns
from fedapp.benchmarks.sources import find_rows, read_folder, read_path, read_remote, with_columns
from fedapp.benchmarks.table import Table
from fedapp.core.checks import require_bool, require_int
from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset

HIDDEN = -1
"""The label of a row whose label is kept secret, on the hub."""
LARGE, CHOSEN_ON = 5000, 1000
"""A validation split of more rows than the first gives as many as the second to choose on."""


@dataclass(frozen=True)
class Glue(BenchmarkDefaults):
    """One GLUE task with the columns of the hub's nyu-mll/glue.

    Attributes:
        subset: Task and name of the configuration on the hub (``sst2``).
        labels: Names of the labels in the order of their indices.
        metrics: Names of the metrics (``fedapp.benchmarks.metrics.METRICS``), the main one first.
        prompt: What the model reads; columns of the row in braces.
        data_dir: Folder with ``<subset>/<split>.jsonl`` (or another format that
            ``fedapp.benchmarks.reading`` knows); None: from the hub.
        path: Name of the data set on the hub.
        split_seed: Seed of the two halves of the validation split.
        num_public: Training rows set apart as public prompts, for methods whose clients exchange answers;
            rows of the same text are no training rows either. Which ones does not depend on any seed.
        graded: Whether the column ``label`` holds scores, taken to the nearest of the labels.
        matched: Ending of the names of the splits to choose and report on (``_matched``, for MNLI).
    """

    subset: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    prompt: str = "{sentence}"
    data_dir: str | None = None
    path: str = "nyu-mll/glue"
    split_seed: int = 1
    num_public: int = 0
    graded: bool = False
    matched: str = ""
    version: str = field(default="1", init=False)
    source: str = field(default="https://arxiv.org/abs/1804.07461", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "metrics", tuple(self.metrics))
        if len(set(self.labels)) < 2:
            raise ValueError(f"labels={list(self.labels)} must be two different names or more")
        if not self.metrics:
            raise ValueError("metrics=[] must name a metric")
        for name in self.metrics:
            metric(name)
        require_int("num_public", self.num_public, at_least=0)
        require_bool("graded", self.graded)
        if self.graded and not all(is_finite_number(name) for name in self.labels):
            raise ValueError(f"labels={list(self.labels)} must be numbers, as graded=true takes them")
        if not self._fields():
            raise ValueError(f"prompt={self.prompt!r} must show a column, like {{sentence}}")

    @property
    def name(self) -> str:
        """The task, as in tables."""
        return self.subset

    def load(self, split: str) -> Dataset:
        """Rows of a split: the prompt's columns, texts; ``label``, a number, and ``task``.

        Raises:
            ValueError: If there is no such split.
            RowError: If it cannot be read or a label is not one of the task's.
        """
        check_split(split)
        if split == "train":
            return self._with_task(self._private(self._labelled("train")))
        rows = self._test()
        if rows is None:
            validation = self._labelled("validation")
            order = np.random.default_rng(self.split_seed).permutation(len(validation))
            half = CHOSEN_ON if len(order) > LARGE else len(order) // 2
            rows = validation.select(np.sort(order[:half] if split == "validation" else order[half:]))
        elif split == "validation":
            rows = self._labelled("validation")
        return self._with_task(rows)

    def public_prompts(self) -> list[Example]:
        """The ``num_public`` training rows set apart, in the order of the file."""
        if not self.num_public:
            return []
        rows = self._labelled("train")
        return [self.template(rows[index]) for index in self._public(rows)]

    def template(self, row: Mapping[str, Any]) -> Example:
        """The prompt with the row's text in it; the target is the label's name."""
        prompt = re.sub(r"\{(\w+)\}", lambda found: row[found[1]].strip(), self.prompt)
        label = int(row["label"])
        return Example(prompt=prompt, target=self.labels[label], task=self.subset, label=label)

    def extract(self, completion: str) -> str:
        """The first label's name in the text, whatever its case; empty where there is none."""
        names = "|".join(re.escape(name) for name in self.labels)
        # Whole words only: "acceptable" also ends "unacceptable".
        found = re.search(rf"(?<!\w)(?:{names})(?!\w)", completion, re.IGNORECASE)
        return next((n for n in self.labels if found and n.lower() == found.group().lower()), "")

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """The task's metrics over label names.

        Raises:
            ValueError: If there is nothing to score or the lengths differ.
        """
        given = [self.extract(answer) for answer in answers]
        return {name: metric(name)(given, targets) for name in self.metrics}

    def _public(self, rows: Dataset) -> list[int]:
        """Indices of rows drawn as public prompts, no text twice."""
        texts = list(zip(*(rows[name] for name in self._fields()), strict=True))
        first = sorted({text: index for index, text in reversed(list(enumerate(texts)))}.values())
        if self.num_public >= len(first):
            raise ValueError(
                f"benchmark.num_public={self.num_public} must be below {len(first)}, the different rows"
            )
        drawn = np.random.default_rng(0).choice(first, size=self.num_public, replace=False)
        return sorted(drawn.tolist())

    def _private(self, rows: Dataset) -> Dataset:
        if not self.num_public:
            return rows
        texts = list(zip(*(rows[name] for name in self._fields()), strict=True))
        public = {texts[index] for index in self._public(rows)}
        return rows.select([index for index, text in enumerate(texts) if text not in public])

    def _with_task(self, rows: Dataset) -> Dataset:
        return with_columns(rows, task=[self.subset] * len(rows))

    def _fields(self) -> list[str]:
        try:
            return sorted({name for _, name, _, _ in Formatter().parse(self.prompt) if name})
        except ValueError as error:
            raise ValueError(f"benchmark.prompt={self.prompt!r} is no template: {error}") from None

    def _read(self, split: str) -> Table:
        columns = Columns([*self._fields(), "label"])
        if self.data_dir is not None:
            return read_folder(self.data_dir, [self.subset], self._file(split), columns)
        return read_remote(f"{self.path}:{{task}}", self.subset, self._file(split), columns, "benchmark.path")

    def _file(self, split: str) -> str:
        return split if split == "train" else split + self.matched

    def _labelled(self, split: str) -> Dataset:
        from datasets import Dataset

        table = self._read(split)
        texts = {name: table.texts(name) for name in self._fields()}
        labels = self._nearest(table) if self.graded else table.labels("label", self.labels)
        return Dataset.from_dict({**texts, "label": labels})

    def _nearest(self, table: Table) -> list[int]:
        """Indices of the labels that are closest to the scores of a table; of two the lower."""
        known = [float(name) for name in self.labels]
        found = []
        for index, text in enumerate(table.texts("label")):
            if not is_finite_number(text) or not min(known) <= float(text) <= max(known):
                where = f"from {min(known):g} to {max(known):g}"
                raise table.error(index, f"label is no score; it must be a number {where}", text)
            distances = [abs(score - float(text)) for score in known]
            found.append(distances.index(min(distances)))
        return found

    def _hides(self, table: Table) -> bool:
        """Whether the labels of a table are kept secret."""
        if self.graded:
            return any(is_finite_number(text) and float(text) == HIDDEN for text in table.texts("label"))
        return HIDDEN in table.integers("label")

    def _test(self) -> Dataset | None:
        """The test split where it exists and is labelled."""
        if self.data_dir is not None:
            path = find_rows(self.data_dir, [self.subset], self._file("test"))
            if path is None or self._hides(read_path(path, Columns(["label"]))):
                return None
        elif self._hides(self._read("test")):
            return None
        return self._labelled("test")
