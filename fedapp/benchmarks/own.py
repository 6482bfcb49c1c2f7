"""The user's own data: a folder of tasks, each with files of prompts and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedapp.benchmarks.base import BenchmarkDefaults, check_split
from fedapp.benchmarks.formats import Format, make_format
from fedapp.benchmarks.metrics import metric
from fedapp.benchmarks.sources import FORMATS, find_file, find_rows, read_folder, read_path, require_inside
from fedapp.benchmarks.table import Table, as_text
from fedapp.core.checks import require_choice
from fedapp.core.errors import RowError
from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Own(BenchmarkDefaults):
    """Rows in ``<data_dir>/<task>/train.jsonl`` and ``test.jsonl``, or files of another format.

    Validation rows are taken from each client's training rows, as everywhere. With
    ``partitioner=distinct_task`` every folder is one client. ``<data_dir>/public.jsonl`` may hold public
    prompts, with or without targets, for methods whose clients exchange answers. docs/data.md says what
    a file may hold.

    Attributes:
        data_dir: The folder.
        tasks: Folders in it; empty takes all that are not hidden, in the alphabet's order.
        format: ``prompt``, ``alpaca``, ``messages`` or ``sharegpt`` (``fedapp.benchmarks.formats``).
        columns: The format's columns to the files' own, for those with another name; None: the same.
        turn: A message of a conversation in the prompt, with ``{role}`` and ``{content}``.
        labels: For classification, what the targets may be, in the order of the head's outputs;
            None where the answer is generated.
        prompt: What the model reads, with ``{prompt}`` where the row's prompt goes.
        answer: What of a generated text is its answer: ``whole``, or its ``first_line``, by which a
            target is then known, too.
        metrics: Names of the metrics (``fedapp.benchmarks.metrics.METRICS``), the main one first.
    """

    data_dir: str | None = None
    tasks: Sequence[Any] = ()
    format: str = "prompt"
    columns: Mapping[str, str | None] = field(default_factory=dict)
    turn: str = "{role}: {content}"
    labels: Sequence[Any] | None = None
    prompt: str = "{prompt}"
    answer: str = "whole"
    metrics: Sequence[str] = ("accuracy",)
    name: str = field(default="own", init=False)
    version: str = field(default="2", init=False)
    source: str = field(default="the user", init=False)

    def __post_init__(self) -> None:
        if not self.data_dir or not Path(self.data_dir).expanduser().is_dir():
            raise ValueError(
                f"data_dir={self.data_dir!r} must be a folder that holds "
                f"<task>/train.jsonl and <task>/test.jsonl ({FORMATS})"
            )
        if "{prompt}" not in self.prompt:
            raise ValueError(f"prompt={self.prompt!r} must show {{prompt}}")
        object.__setattr__(self, "tasks", _names("tasks", self.tasks or ()))
        if self.labels is not None:
            object.__setattr__(self, "labels", _names("labels", self.labels))
        for task in self.tasks:
            require_inside(task, "tasks")
        require_choice("answer", self.answer, ("whole", "first_line"))
        self._format()
        if not self.metrics:
            raise ValueError("metrics=[] must name a metric, the main one first")
        for one in self.metrics:
            metric(one)

    def load(self, split: str) -> Dataset:
        """Rows of all tasks: ``prompt``, ``target``, ``task``, and ``label`` where there are labels.

        Raises:
            ValueError: If there is no task, or a file is missing.
            RowError: If a file cannot be read, or a row has no prompt or no target, or one that is not
                among the labels.
        """
        from datasets import Dataset

        check_split(split, ("train", "test"))
        rows: dict[str, list[Any]] = {"prompt": [], "target": [], "task": []}
        if self.labels is not None:
            rows["label"] = []
        for task in self.tasks or self._found(split):
            table = read_folder(str(self.data_dir), [task], split, self._format().columns())
            prompts, targets = self._format().read(table)
            rows["prompt"] += prompts
            rows["target"] += targets
            rows["task"] += [task] * len(table)
            if self.labels is not None:
                rows["label"] += self._numbers(table, targets)
        return Dataset.from_dict(rows)

    def public_prompts(self) -> list[Example]:
        """The prompts of ``public.jsonl``; none where there is no such file. A target is a reference only.

        Raises:
            RowError: If the file cannot be read or a prompt is no text.
        """
        file = find_file(str(self.data_dir), "public")
        if file is None:
            return []
        table = read_path(file, self._format().columns(answered=False), depth=1)
        pairs = zip(*self._format().read(table, answered=False), strict=True)
        return [
            Example(self.prompt.replace("{prompt}", prompt), target, "public") for prompt, target in pairs
        ]

    def template(self, row: Mapping[str, Any]) -> Example:
        """The prompt in its frame, and the target."""
        text = self.prompt.replace("{prompt}", row["prompt"])
        return Example(text, row["target"], row["task"], row.get("label"))

    def extract(self, completion: str) -> str:
        """The whole text or its first line, as ``answer`` says, without blanks at both ends."""
        text = completion.strip()
        return text if self.answer == "whole" else text.split("\n")[0].strip()

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Compare answers with targets by the metrics that were asked for."""
        wanted = [self.extract(target) for target in targets]
        return {name: metric(name)(answers, wanted) for name in self.metrics}

    def _format(self) -> Format:
        return make_format(self.format, self.columns, self.turn)

    def _found(self, split: str) -> list[str]:
        """The folders that are there, hidden ones aside; all must have rows."""
        # Which folders there are is nobody's business: the setting may come from elsewhere.
        here = f"benchmark.data_dir={self.data_dir}"
        try:
            paths = sorted(path for path in Path(str(self.data_dir)).expanduser().iterdir() if path.is_dir())
            public = find_file(str(self.data_dir), "public")  # datasets saves one as a folder
            names = [path.name for path in paths if not path.name.startswith(".") and path != public]
            empty = [name for name in names if find_rows(str(self.data_dir), [name], split) is None]
        except OSError as error:
            raise RowError(f"{here}: it, or a folder in it, cannot be read", f"{here}: {error}") from None
        if not names:
            wanted = f"rows stand in <task>/train.jsonl and <task>/test.jsonl ({FORMATS})"
            raise ValueError(f"{here} holds no folder, so no task; {wanted}")
        if empty:
            text = f"{here}: a folder in it has no {split}.jsonl ({FORMATS})"
            advice = "; name the tasks in benchmark.tasks"
            raise RowError(f"{text}{advice}", f"{text}: {', '.join(empty)}{advice}")
        return names

    def _numbers(self, table: Table, targets: Sequence[str]) -> list[int]:
        assert self.labels is not None
        places = {label: number for number, label in enumerate(self.labels)}
        for index, target in enumerate(targets):
            if target not in places:
                found = f"the target is not among benchmark.labels={list(self.labels)}"
                raise table.error(index, found, target)
        return [places[target] for target in targets]


def _names(setting: str, values: Any) -> tuple[str, ...]:
    """A list of names; the command line makes numbers and true or false of some."""
    texts = [] if isinstance(values, str) or not isinstance(values, Sequence) else list(map(as_text, values))
    if isinstance(values, str) or None in texts or len(set(texts)) < len(texts):
        raise ValueError(f"{setting}={values!r} must be a list of different names, like [a, b]")
    return tuple(map(str, texts))
