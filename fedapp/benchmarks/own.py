"""The user's own data: a folder of tasks, each with JSON lines of prompts and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedapp.benchmarks.base import BenchmarkDefaults, check_split
from fedapp.benchmarks.metrics import metric
from fedapp.benchmarks.sources import read_file, read_folder, with_columns
from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("prompt", "target")


@dataclass(frozen=True)
class Own(BenchmarkDefaults):
    """Rows ``{"prompt": …, "target": …}`` in ``<data_dir>/<task>/train.jsonl`` and ``test.jsonl``.

    Validation rows are taken from each client's training rows, as everywhere. With
    ``partitioner=distinct_task`` every folder is one client. ``<data_dir>/public.jsonl`` may hold public
    prompts, with or without targets, for methods whose clients exchange answers.

    Attributes:
        data_dir: The folder.
        tasks: Folders in it; empty takes all, in the alphabet's order.
        labels: For classification, what the targets may be, in the order of the head's outputs;
            None where the answer is generated.
        prompt: What the model reads, with ``{prompt}`` where the row's prompt goes.
        metrics: Names of the metrics (``fedapp.benchmarks.metrics.METRICS``), the main one first.
    """

    data_dir: str | None = None
    tasks: Sequence[str] = ()
    labels: Sequence[str] | None = None
    prompt: str = "{prompt}"
    metrics: Sequence[str] = ("accuracy",)
    name: str = field(default="own", init=False)
    version: str = field(default="1", init=False)
    source: str = field(default="the user", init=False)

    def __post_init__(self) -> None:
        if not self.data_dir or not Path(self.data_dir).expanduser().is_dir():
            raise ValueError(
                f"data_dir={self.data_dir!r} must be a folder that holds "
                "<task>/train.jsonl and <task>/test.jsonl with the columns prompt and target"
            )
        if "{prompt}" not in self.prompt:
            raise ValueError(f"prompt={self.prompt!r} must show {{prompt}}")
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(map(str, self.labels)))
        found = sorted(path.name for path in Path(self.data_dir).expanduser().iterdir() if path.is_dir())
        object.__setattr__(self, "tasks", tuple(self.tasks) or tuple(found))
        if not self.tasks:
            raise ValueError(f"data_dir={self.data_dir!r} holds no folder, so no task")
        for one in self.metrics:
            metric(one)

    def load(self, split: str) -> Dataset:
        """Rows of all tasks: ``prompt``, ``target``, ``task``, and ``label`` where there are labels.

        Raises:
            ValueError: If a file or column is missing, or a target is not among the labels.
        """
        from datasets import concatenate_datasets

        check_split(split, ("train", "test"))
        return concatenate_datasets([self._rows(task, split) for task in self.tasks])

    def public_prompts(self) -> list[Example]:
        """The prompts of ``public.jsonl``; none where there is no such file. A target is a reference only.

        Raises:
            ValueError: If the file cannot be read or a prompt is no text.
        """
        assert self.data_dir is not None
        file = Path(self.data_dir).expanduser() / "public.jsonl"
        if not file.is_file():
            return []
        rows = read_file(file, ["prompt"])["prompt"]
        try:
            targets = read_file(file, ["target"])["target"]
        except ValueError:  # no references
            targets = [""] * len(rows)
        for number, prompt in enumerate(rows, start=1):
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError(f"{file} row {number} has prompt={prompt!r}; it must be text and not empty")
        framed = [self.prompt.replace("{prompt}", prompt) for prompt in rows]
        given = ["" if target is None else str(target).strip() for target in targets]
        return [Example(prompt, target, "public") for prompt, target in zip(framed, given, strict=True)]

    def template(self, row: Mapping[str, Any]) -> Example:
        """The prompt in its frame, and the target without surrounding blanks."""
        text = self.prompt.replace("{prompt}", str(row["prompt"]))
        return Example(text, str(row["target"]).strip(), row["task"], row.get("label"))

    def extract(self, completion: str) -> str:
        """The first line, without surrounding blanks."""
        return completion.strip().split("\n")[0].strip()

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Compare answers with targets by the metrics that were asked for."""
        wanted = [self.extract(target) for target in targets]
        return {name: metric(name)(answers, wanted) for name in self.metrics}

    def _rows(self, task: str, split: str) -> Dataset:
        assert self.data_dir is not None
        rows = read_folder(self.data_dir, [task], split, COLUMNS)
        for number, row in enumerate(rows, start=1):
            for name, value in row.items():
                if not isinstance(value, (str, int, float)) or not str(value).strip():
                    raise ValueError(
                        f"benchmark.data_dir={self.data_dir}: row {number} of {task}'s {split} rows has "
                        f"{name}={value!r}; it must be text and not empty"
                    )
        columns: dict[str, Sequence[Any]] = {"task": [task] * len(rows)}
        if self.labels is not None:
            targets = [str(target).strip() for target in rows["target"]]
            strange = sorted(set(targets) - set(self.labels))
            if strange:
                raise ValueError(
                    f"benchmark.labels={list(self.labels)} does not hold {strange[0]!r}, "
                    f"a target in the {split} rows of {task}"
                )
            columns["label"] = [self.labels.index(target) for target in targets]
        return with_columns(rows, **columns)
