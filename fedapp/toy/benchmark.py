"""A benchmark for dry runs: the answer to every prompt of a task is the task's number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedapp.core.types import Example

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Toy:
    """Rows ``prompt``, ``target``, ``task``, ``label``; the label is the task's number.

    Attributes:
        num_tasks: Tasks named ``task-0``, ``task-1``, …
        num_train, num_test: Rows of the two splits, dealt to the tasks in turn.
        num_public: Public prompts, dealt to the tasks in turn.
    """

    num_tasks: int = 4
    num_train: int = 80
    num_test: int = 40
    num_public: int = 8
    name: str = "toy"
    version: str = "1"
    source: str = "made here, for dry runs and tests"
    labels: tuple[str, ...] | None = None

    def load(self, split: str) -> Dataset:
        """The rows of ``train`` or ``test``."""
        from datasets import Dataset

        count = {"train": self.num_train, "test": self.num_test}[split]
        rows = [(f"{split} prompt {i}", i % self.num_tasks) for i in range(count)]
        return Dataset.from_dict(
            {
                "prompt": [prompt for prompt, _ in rows],
                "target": [str(label) for _, label in rows],
                "task": [f"task-{label}" for _, label in rows],
                "label": [label for _, label in rows],
            }
        )

    @property
    def template_version(self) -> str:
        """That of the benchmark."""
        return self.version

    @property
    def has_options(self) -> bool:
        """No: the toy writes."""
        return False

    def choose(self, options: Sequence[str], log_likelihoods: Sequence[float]) -> str:
        """The likeliest one."""
        return options[log_likelihoods.index(max(log_likelihoods))]

    def public_prompts(self) -> list[Example]:
        """Prompts of neither split; the targets are references, for reports only."""
        tasks = [(f"public prompt {i}", i % self.num_tasks) for i in range(self.num_public)]
        return [Example(prompt, str(label), f"task-{label}") for prompt, label in tasks]

    def template(self, row: Mapping[str, Any]) -> Example:
        """The row as it is."""
        return Example(row["prompt"], row["target"], row["task"], row["label"])

    def extract(self, completion: str) -> str:
        """The completion as it is."""
        return completion

    def score(self, answers: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Share of answers that equal their targets."""
        return {"accuracy": sum(a == t for a, t in zip(answers, targets, strict=True)) / len(targets)}
